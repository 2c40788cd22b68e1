"""Where the server is and how to prove who we are."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from glassnet.apiserver import certs
from glassnet.client import kubeconfig
from glassnet.net.errors import ParseError, UsageError

CERTIFICATES = certs.make(["localhost"], ["127.0.0.1"], datetime.now(UTC))


def write(
    place: Path, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, name: str = "config"
) -> str:
    body = {
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    (place / name).write_text(yaml.safe_dump(body))
    return str(place / name)


def data(text: bytes) -> str:
    return base64.b64encode(text).decode()


async def test_certificates_come_as_files_beside_the_kubeconfig_or_as_data(tmp_path: Path) -> None:
    for name, text in (("ca.crt", CERTIFICATES.ca), ("me.crt", CERTIFICATES.admin), ("me.key", CERTIFICATES.admin_key)):
        (tmp_path / name).write_bytes(text)
    files = write(
        tmp_path, {"certificate-authority": "ca.crt"}, {"client-certificate": "me.crt", "client-key": "me.key"}
    )
    inline = write(
        tmp_path,
        {"certificate-authority-data": data(CERTIFICATES.ca)},
        {"client-certificate-data": data(CERTIFICATES.admin), "client-key-data": data(CERTIFICATES.admin_key)},
        "inline",
    )
    for path in (files, inline):
        access = kubeconfig.load(path)
        assert access.servers == ("https://127.0.0.1:6443",)
        assert access.tls is not None
        assert access.tls.context().verify_mode == ssl.CERT_REQUIRED
        assert access.tls.context().get_ca_certs()
        assert await access.authorization() == ""


async def test_tokens_and_passwords(tmp_path: Path) -> None:
    assert await kubeconfig.load(write(tmp_path, user={"token": "t"})).authorization() == "Bearer t"
    basic = await kubeconfig.load(write(tmp_path, user={"username": "a", "password": "b"})).authorization()
    assert basic == f"Basic {data(b'a:b')}"
    (tmp_path / "token").write_text("one\n")
    access = kubeconfig.load(write(tmp_path, user={"tokenFile": "token"}))
    assert await access.authorization() == "Bearer one"
    (tmp_path / "token").write_text("two")
    assert await access.authorization() == "Bearer one"
    assert await access.renew()
    assert await access.authorization() == "Bearer two"
    assert not await access.renew()


async def test_a_credential_plugin_is_asked_once_and_again_when_it_was_refused(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        '#!/bin/sh\necho x >> "$COUNT"\nprintf \'{"kind":"ExecCredential","status":{"token":"t%s"}}\' "$(wc -l < "$COUNT" | tr -d " ")"\n'
    )
    plugin.chmod(0o755)
    command = {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "interactiveMode": "Never",
        "env": [{"name": "COUNT", "value": str(tmp_path / "count")}],
    }  # fmt: skip
    access = kubeconfig.load(write(tmp_path, user={"exec": command}))
    assert [await access.authorization(), await access.authorization()] == ["Bearer t1", "Bearer t1"]
    assert await access.renew(access.proof)
    assert await access.authorization() == "Bearer t2"
    plugin.write_text("#!/bin/sh\necho no >&2\nexit 3\n")
    with pytest.raises(UsageError, match=r"plugin.*exit status 3: no"):
        await access.renew(access.proof)


def test_of_several_files_the_first_word_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write(tmp_path, {"server": "https://one:1"}, name="one")
    two = write(tmp_path, {"server": "https://two:2"}, name="two")
    monkeypatch.setenv("KUBECONFIG", f"{one}:{two}")
    assert kubeconfig.load().servers == ("https://one:1",)
    assert kubeconfig.load(two).servers == ("https://two:2",)
    assert kubeconfig.load(two, server="https://three:3").servers == ("https://three:3",)


def test_a_pod_has_its_service_account(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_bytes(CERTIFICATES.ca)
    words = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert kubeconfig.in_cluster(tmp_path, words).servers == ("https://[fd00::1]:443",)
    with pytest.raises(UsageError, match="--kubeconfig FILE"):
        kubeconfig.in_cluster(tmp_path, {})


@pytest.mark.parametrize(
    ("cluster", "user", "said"),
    [
        ({"server": "127.0.0.1"}, {}, "clusters.*server"),
        ({"certificate-authority": "nowhere"}, {}, "certificate authority"),
        ({"certificate-authority-data": "###"}, {}, "certificate-authority-data is not base64"),
        ({}, {"client-certificate": "nowhere", "client-key": "nowhere"}, "client certificate"),
        ({}, {"exec": {"apiVersion": "v0", "command": "x"}}, "exec.apiVersion 'v0'"),
    ],
)
def test_faults_name_file_and_field(tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        kubeconfig.load(write(tmp_path, cluster, user))


def test_broken_files(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("a: [\n")
    with pytest.raises(ParseError, match=r"broken:2"):
        kubeconfig.load(str(tmp_path / "broken"))
    with pytest.raises(UsageError, match="there is no context 'x'; it has: here"):
        kubeconfig.load(write(tmp_path), context="x")
