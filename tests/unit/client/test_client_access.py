"""Proofs of who we are that change while we run, trust that does, ways through proxies; and no secret in any text."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from client_world import AUTHORITY, TIMEOUTS, Cluster
from fault_proxy import Authority, FaultProxy
from glassnet.client import kubeconfig
from glassnet.client.access import Access
from glassnet.client.plugin import Plugin, without_secrets
from glassnet.client.rest import RestApi, Timeouts, Untrusted
from glassnet.client.tls import Pem, Tls
from glassnet.client.transport import environment_proxy
from glassnet.kube import kinds
from glassnet.net.errors import ApiError, GlassnetError, UsageError

CLIENTS = Authority("clients")
TOKEN = "eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDAwMDAwMDB9.c2lnbmF0dXJl"


@asynccontextmanager
async def server(names: tuple[str, ...] = ("127.0.0.1",)) -> AsyncIterator[FaultProxy]:
    """An API server over TLS that asks for client certificates."""
    cluster = Cluster()
    cluster.make(1)
    await cluster.start()
    proxy = FaultProxy(f"http://127.0.0.1:{cluster.port}", AUTHORITY, client_authority=CLIENTS)
    await proxy.start()
    proxy.certify(*AUTHORITY.issue("server", names))
    try:
        yield proxy
    finally:
        proxy.fault = ""
        await proxy.close()
        await cluster.stop()


def write(place: Path, url: str, user: dict[str, Any], **cluster: Any) -> str:
    (place / "ca.crt").write_text(AUTHORITY.pem)
    body = {
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": "ca.crt", **cluster}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }
    (place / "config").write_text(yaml.safe_dump(body))
    return str(place / "config")


def identify(place: Path, name: str, days: tuple[float, float] = (-1, 9)) -> None:
    certificate, key = CLIENTS.issue(name, days=days, client=True)
    (place / "me.crt").write_text(certificate)
    (place / "me.key").write_text(key)


def look_again(access: Access) -> None:
    """As if the time until the next look at the files had passed."""
    assert access.tls
    access.tls._looked = -1e9


@asynccontextmanager
async def api_of(access: Access, timeouts: Timeouts = TIMEOUTS) -> AsyncIterator[RestApi]:
    api = RestApi(access, timeouts)
    try:
        yield api
    finally:
        await api.close()


FILES = {"client-certificate": "me.crt", "client-key": "me.key"}


async def test_a_rotated_client_certificate_is_shown_by_new_connections(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    identify(tmp_path, "one")
    async with server() as proxy, api_of(access := kubeconfig.load(write(tmp_path, proxy.url, FILES))) as api:
        await api.list(kinds.CONFIG_MAP)
        kept = (tmp_path / "me.crt").read_text()
        (tmp_path / "me.crt").write_text("-----BEGIN CERTIFICATE-----\nhalf of")
        look_again(access)
        await api.list(kinds.CONFIG_MAP)  # with what was there before
        assert "stays in use" in caplog.text
        assert kept not in caplog.text
        identify(tmp_path, "two")
        look_again(access)
        await api.list(kinds.CONFIG_MAP)
        assert proxy.shown == ["one", "one", "two"]


async def test_a_new_ca_bundle_is_trusted_without_a_restart(tmp_path: Path) -> None:
    async with server() as proxy, api_of(access := kubeconfig.load(write(tmp_path, proxy.url, {}))) as api:
        await api.list(kinds.CONFIG_MAP)
        new = Authority("new")
        proxy.certify(*new.issue("server", ["127.0.0.1"]))
        (tmp_path / "ca.crt").write_text("")  # half written: never "trust the system's authorities"
        look_again(access)
        await api.close()
        with pytest.raises(Untrusted, match=r"issuer CN=new.*ca\.crt does not know"):
            await api.list(kinds.CONFIG_MAP)
        (tmp_path / "ca.crt").write_text(new.pem)
        look_again(access)
        await api.list(kinds.CONFIG_MAP)


async def test_an_expired_client_certificate_is_told_with_its_end(tmp_path: Path) -> None:
    identify(tmp_path, "me", (-9, -1))
    quick = Timeouts(0.3, 0.3, 0.3)
    async with server() as proxy, api_of(kubeconfig.load(write(tmp_path, proxy.url, FILES)), quick) as api:
        with pytest.raises(ApiError, match=r"client certificate 'CN=me' of .*config, expired at \d{4}-"):
            await api.list(kinds.CONFIG_MAP)
    identify(tmp_path, "me", (-9, -1))
    async with server() as proxy:  # a kube-apiserver takes the handshake and answers 401
        proxy._context.verify_mode = 0  # type: ignore[assignment, union-attr]
        proxy.fault = "401"
        async with api_of(kubeconfig.load(write(tmp_path, proxy.url, FILES))) as api:
            with pytest.raises(ApiError, match=r"401.*client certificate 'CN=me' of .*config, expired at \d{4}-"):
                await api.list(kinds.CONFIG_MAP)


PLUGIN = """#!/bin/sh
echo x >> "$PLACE/runs"
printf '%s' "$KUBERNETES_EXEC_INFO" > "$PLACE/info"
cat "$PLACE/answer"
"""


def plugin(place: Path, status: dict[str, Any], **more: Any) -> dict[str, Any]:
    version = "client.authentication.k8s.io/v1"
    (place / "plugin").write_text(PLUGIN)
    (place / "plugin").chmod(0o755)
    (place / "answer").write_text(json.dumps({"kind": "ExecCredential", "apiVersion": version, "status": status}))
    env = [{"name": "PLACE", "value": str(place)}]
    return {"apiVersion": version, "command": "./plugin", "interactiveMode": "IfAvailable", "env": env, **more}


async def test_a_plugin_gives_certificates_and_is_told_of_the_cluster(tmp_path: Path) -> None:
    def status(name: str) -> dict[str, str]:
        certificate, key = CLIENTS.issue(name, client=True)
        return {"clientCertificateData": certificate, "clientKeyData": key}

    async with server(("api.internal",)) as proxy:
        command = plugin(tmp_path, status("one"), provideClusterInfo=True)
        extensions = [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}]
        path = write(tmp_path, proxy.url, {"exec": command}, **{"tls-server-name": "api.internal", "extensions": extensions})  # fmt: skip
        async with api_of(kubeconfig.load(path)) as api:
            await asyncio.gather(*(api.list(kinds.CONFIG_MAP) for _ in range(5)))
            told = json.loads((tmp_path / "info").read_text())["spec"]["cluster"]
            assert told["server"] == proxy.url
            assert told["tls-server-name"] == "api.internal"
            assert told["config"] == {"audience": "x"}
            assert told["certificate-authority-data"]
            assert (tmp_path / "runs").read_text().count("x") == 1
            plugin(tmp_path, status("two"))
            proxy.fault = "401"
            refused = asyncio.create_task(api.list(kinds.CONFIG_MAP))
            while (tmp_path / "runs").read_text().count("x") == 1:  # noqa: ASYNC110 (the plugin makes it true)
                await asyncio.sleep(0.005)
            proxy.fault = ""
            await asyncio.gather(refused, return_exceptions=True)
            await api.list(kinds.CONFIG_MAP)
            assert proxy.shown[-1] == "two"


async def test_a_plugin_is_asked_again_when_its_certificate_ends(tmp_path: Path) -> None:
    for days, runs in (((-1, 9), 1), ((-9, 0), 3)):
        certificate, key = CLIENTS.issue("x", days=days, client=True)
        command = plugin(tmp_path, {"clientCertificateData": certificate, "clientKeyData": key})
        access = kubeconfig.load(write(tmp_path, "https://127.0.0.1:1", {"exec": command}))
        for _ in range(runs):
            await access.authorization()
        assert (tmp_path / "runs").read_text().count("x") == runs
        (tmp_path / "runs").unlink()


@pytest.mark.parametrize(
    ("status", "more", "said"),
    [
        ({}, {}, "neither a token nor a client certificate"),
        ({"clientCertificateData": "x"}, {}, "needed both"),
        ({"token": "a\nb"}, {}, "no token has"),
        ({"token": "t"}, {"interactiveMode": "Always"}, "nobody is here to type"),
        (
            {"token": "t"},
            {"command": "no-such-plugin", "installHint": "get it at the shop"},
            "No such file.*; get it at the shop",
        ),
        (
            {"token": "t"},
            {"apiVersion": "client.authentication.k8s.io/v1beta1"},
            "printed .*/v1, the kubeconfig asks for .*/v1beta1",
        ),
        ({"token": "t"}, {"env": [{"name": "x"}]}, "each entry needs name and value"),
    ],
)
async def test_plugins_that_cannot_serve(tmp_path: Path, status: dict[str, Any], more: dict[str, Any], said: str) -> None:  # fmt: skip
    body = plugin(tmp_path, status)
    body.update(more)
    with pytest.raises(UsageError, match=said):
        await kubeconfig.load(write(tmp_path, "https://127.0.0.1:1", {"exec": body})).authorization()


async def test_a_service_account_s_token_and_ca_are_rotated(tmp_path: Path) -> None:
    """As kubelets do it: a new directory, and a link that is moved to it."""

    def publish(name: str, token: str, pem: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(token)
        (tmp_path / name / "ca.crt").write_text(pem)
        (tmp_path / "new").symlink_to(name)
        os.replace(tmp_path / "new", tmp_path / "..data")

    for name in ("token", "ca.crt"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    publish("..1", "first", Authority("old").pem)
    async with server() as proxy:
        words = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(proxy.port)}
        access = kubeconfig.in_cluster(tmp_path, words, servers=["https://127.0.0.2:6443/"])
        assert access.servers == (proxy.url, "https://127.0.0.2:6443")
        assert await access.authorization() == "Bearer first"
        publish("..2", "second", AUTHORITY.pem)
        shutil.rmtree(tmp_path / "..1")
        look_again(access)
        async with api_of(access) as api:
            await api.list(kinds.CONFIG_MAP)
        assert await access.authorization() == "Bearer first"  # it is good for a while yet
        access._read_at = -1e9
        assert await access.authorization() == "Bearer second"
        shutil.rmtree(tmp_path / "..2")
        access._read_at = -1e9
        assert await access.authorization() == "Bearer second"


async def test_no_secret_in_errors_logs_and_representations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    async def collect(access: Access) -> None:
        async with api_of(access, Timeouts(0.05, 0.05, 0.1)) as api:
            for call in (api.list(kinds.CONFIG_MAP), api.get(kinds.SECRET, "default", "x"), api.delete(kinds.NODE, "", "x")):  # fmt: skip
                try:
                    await call
                except GlassnetError as error:
                    said.extend((str(error), repr(error), str(getattr(error, "details", ""))))
        said.append(repr(access))

    async with server() as proxy:
        secret = "Zm9vYmFyIGJheiBxdXV4"
        for fault in ("401", "403", "500", "html", "half-open"):
            proxy.fault = fault
            await collect(Access((proxy.url,), Tls("x", Pem(data=AUTHORITY.pem)), token=TOKEN, source="config"))
            await collect(Access((proxy.url,), Tls("x", Pem(data=AUTHORITY.pem)), basic=f"Basic {secret}", source="config"))  # fmt: skip
        access = Access((proxy.url,), None, token=TOKEN, proxy="http://user:hunter22@127.0.0.1:9")
        said.append(access.hide(f'{{"Authorization":"Bearer {TOKEN}"}} and {TOKEN}'))
        await collect(access)
        body = plugin(tmp_path, {})
        (tmp_path / "plugin").write_text(f"#!/bin/sh\necho 'refused: token={secret} id {TOKEN}' >&2\nexit 1\n")
        await collect(kubeconfig.load(write(tmp_path, proxy.url, {"exec": body})))
        (tmp_path / "token").write_text(secret + "\x00\x01")
        await collect(kubeconfig.load(write(tmp_path, proxy.url, {"tokenFile": "token"})))
        _, key = CLIENTS.issue("x", client=True)
        other, _ = CLIENTS.issue("y", client=True)
        for pem in (key, key[:100]):
            with pytest.raises(UsageError) as caught:
                Tls("x", Pem(data=AUTHORITY.pem), Pem(data=other), Pem(data=pem))
            said.append(str(caught.value))
    text = "\n".join(said) + caplog.text
    assert len(said) > 30
    for each in (TOKEN, TOKEN.split(".")[1], secret, "hunter22", "PRIVATE KEY", key.splitlines()[1]):
        assert each not in text
    assert "expired at 2023-11-14T22:13:20Z" in text  # but when a token ended is no secret


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ('secrets "my-secret" not found', False),
        ("invalid bearer token, token lookup failed", False),
        ("Authorization: Bearer abcdefghijklmnopqrstuvwxyz", True),
        ('{"id_token": "abcdefghijklmnopq"}', True),
        ("client_secret=abcdef0123456789", True),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", True),
    ],
)
def test_what_looks_like_a_secret_is_blotted_out_and_no_more(text: str, hidden: bool) -> None:
    assert (without_secrets(text) != text) is hidden


@pytest.mark.parametrize(
    ("cluster", "user", "said"),
    [
        ({"proxy-url": "socks5://127.0.0.1:1080"}, {}, "socks5 proxy is not supported, only http://"),
        ({"proxy-url": "https://127.0.0.1:1080"}, {}, "https proxy is not supported"),
        ({"insecure-skip-tls-verify": True}, {}, "exclude each other"),
        ({"server": "https://user:pass@127.0.0.1"}, {}, "URL with a user in it is not taken"),
        ({}, {"client-certificate": "me.crt"}, "client-certificate and client-key are needed both"),
        ({}, {"client-certificate-data": "ZZZZ", "client-key-data": "ZZZZ"}, "not base64 of a PEM|no PEM text"),
        ({}, {"auth-provider": {"name": "gcp"}}, "exec plugin"),
        ({}, {"exec": ["x"]}, "exec is no mapping"),
        ({}, {"tokenFile": "nowhere"}, "cannot read the token file .*nowhere: No such file"),
    ],
)
async def test_what_is_not_supported_is_said(tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], said: str) -> None:  # fmt: skip
    identify(tmp_path, "me")
    with pytest.raises(UsageError, match=said) as caught:
        await kubeconfig.load(write(tmp_path, "https://127.0.0.1:1", user) if not cluster else write(tmp_path, cluster.pop("server", "https://127.0.0.1:1"), user, **cluster)).authorization()  # fmt: skip
    assert "pass@" not in str(caught.value)


def test_further_servers_are_of_one_scheme(tmp_path: Path) -> None:
    path = write(tmp_path, "https://one:1", {})
    assert kubeconfig.load(path, servers=["https://two:2", "https://one:1/"]).servers == ("https://one:1", "https://two:2")  # fmt: skip
    with pytest.raises(UsageError, match="all must be https"):
        kubeconfig.load(path, servers=["http://two:2"])


async def test_acting_as_another_user(tmp_path: Path) -> None:
    user = {"token": "t", "as": "jane", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": {"reason": ["test"]}}
    assert kubeconfig.load(write(tmp_path, "https://x", user)).impersonate == (
        ("Impersonate-User", "jane"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-reason", "test"),
    )


async def test_through_an_http_proxy_tls_is_with_the_server(tmp_path: Path) -> None:
    asked: list[str] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        host, _, port = asked[-1].split()[1].rpartition(":")
        there, to = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, to), pump(there, writer), return_exceptions=True)

    way = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    url = f"http://me:hunter22@127.0.0.1:{way.sockets[0].getsockname()[1]}"
    async with server() as proxy, api_of(kubeconfig.load(write(tmp_path, proxy.url, {}, **{"proxy-url": url}))) as api:
        await api.list(kinds.CONFIG_MAP)
        assert asked[0].startswith(f"CONNECT 127.0.0.1:{proxy.port} HTTP")
        proxy.certify(*Authority("x").issue("server", ["127.0.0.1"]))
        await api.close()
        with pytest.raises(Untrusted, match="does not know") as caught:
            await api.list(kinds.CONFIG_MAP)
        assert "hunter22" not in str(caught.value)
    way.close()


@pytest.mark.parametrize(
    ("exceptions", "server_url", "used"),
    [
        ("", "https://10.96.0.1:443", True),
        ("10.96.0.0/12", "https://10.96.0.1:443", False),
        ("10.96.0.1", "https://10.96.0.1", False),
        (".example.com,other", "https://api.example.com", False),
        ("example.com", "https://notexample.com", True),
        ("*", "https://api.example.com", False),
        ("", "https://127.0.0.1:6443", False),
        ("", "https://localhost:6443", False),
        ("fd00::/8", "https://[fd00::1]:443", False),
    ],
)
def test_the_environment_s_proxy_and_its_exceptions(exceptions: str, server_url: str, used: bool) -> None:
    words = {"HTTPS_PROXY": "proxy.example:3128", "NO_PROXY": exceptions}
    assert environment_proxy(server_url, words) == ("http://proxy.example:3128" if used else None)


async def test_insecure_is_what_it_says(tmp_path: Path) -> None:
    async with server(("elsewhere",)) as proxy:
        path = write(tmp_path, proxy.url, {}, **{"certificate-authority": None, "insecure-skip-tls-verify": True})
        async with api_of(kubeconfig.load(path)) as api:
            await api.list(kinds.CONFIG_MAP)


def test_a_plugin_needs_a_command() -> None:
    with pytest.raises(UsageError, match=r"exec\.command is missing"):
        Plugin({"apiVersion": "client.authentication.k8s.io/v1"}, "config")
