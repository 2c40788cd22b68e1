"""The running Ingress controller: what changes while it serves, what breaks, and what it says about it; with real requests through a real NGINX."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from ingress_site import ADDRESS, SETTINGS, IngressSite, ingress_site

import ingress_objects as objects
from glassnet.agent.ingress import stub_status
from glassnet.agent.ingress.nginx import PROGRAM
from glassnet.ingress.model import Settings, Site
from glassnet.kernel.spawn import PATH
from ingress_objects import ingress, ingress_class, path, rule, secret

pytestmark = pytest.mark.kernel
WEB = [f"10.81.0.{number}" for number in range(1, 6)]


@pytest_asyncio.fixture
async def site() -> AsyncIterator[IngressSite]:
    """A controller with one Ingress: web.example -> pod-1."""
    async with ingress_site() as found:
        objects.put(found.view, ingress_class(), *await found.app("web", WEB[0]), ingress("web", rule("web.example", path("web"))))  # fmt: skip
        await found.start()
        yield found


async def shown(site: IngressSite, host: str) -> bytes:
    """The certificate (PEM) that a client who asks for a host is shown."""

    def ask() -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with site.netns.entered():
            import socket

            sock = socket.create_connection((ADDRESS, 443), timeout=5)
        with context.wrap_socket(sock, server_hostname=host) as tls:
            found = tls.getpeercert(binary_form=True)
        assert found is not None
        return ssl.DER_cert_to_PEM_cert(found).encode()

    return await asyncio.to_thread(ask)


async def test_certificates_are_changed_while_it_serves_and_what_is_wrong_with_one_is_said(site: IngressSite) -> None:
    old, new = objects.certificate("tls.example"), objects.certificate("tls.example")
    tls = [{"hosts": ["tls.example"], "secretName": "pair"}]
    await site.put(secret("pair", old), ingress("tls", rule("tls.example", path("web")), tls=tls))
    assert (await site.get("https://tls.example/", trust=old["tls.crt"])).pod == "pod-1"
    default = await shown(site, "web.example")
    assert b"BEGIN CERTIFICATE" in default and default.split() != old["tls.crt"].split()  # nobody else gets it
    await site.put(secret("pair", new))
    assert (await site.get("https://tls.example/", trust=new["tls.crt"])).pod == "pod-1"
    assert site.reasons() == []
    await site.put(
        secret("pair", {**new, "tls.key": old["tls.key"]})
    )  # the key of another: the default certificate, and an Event
    assert (await shown(site, "tls.example")).split() == default.split()
    assert len(site.reasons("tls")) == 1
    await site.put(secret("pair", new))
    assert (await shown(site, "tls.example")).split() == new["tls.crt"].split()
    again = site.part.nginx.pid
    await site.stop()  # and in its next life it has the same default certificate
    await site.start()
    assert (await shown(site, "web.example")).split() == default.split() and site.part.nginx.pid != again


async def test_keep_alive_load_loses_no_request_while_endpoints_come_and_go(site: IngressSite) -> None:
    """A connection that is closed while idle is no failure: HTTP lets a server do so, and a client ask again (RFC 9112, 9.3.1)."""
    bodies = await site.app("web", *WEB)
    await site.put(*bodies)
    answers: Counter[str] = Counter()
    over = asyncio.Event()

    async def client(session: aiohttp.ClientSession) -> None:
        while not over.is_set():
            try:
                async with session.get("http://web.example/") as answer:
                    answers[str(answer.status)] += 1
                    await answer.read()
            except aiohttp.ClientError as error:
                answers[type(error).__name__] += 1

    async with site.client() as session:
        clients = [asyncio.create_task(client(session)) for _ in range(8)]
        before = site.part.nginx.reloads
        for turn in range(40):
            gone = site.backends[WEB[turn % 5]]
            await gone.close()  # a pod that ends before anybody has heard of it
            objects.put(site.view, objects.endpoints("web", *(each for each in WEB if each != gone.address)))
            await asyncio.sleep(0.03)
            await gone.open()
            objects.put(site.view, objects.endpoints("web", *WEB))
            await asyncio.sleep(0.02)
        await site.settled()
        over.set()
        await asyncio.gather(*clients)
    assert answers.keys() == {"200"} and answers["200"] > 200
    assert site.part.nginx.reloads - before > 5


async def test_nginx_killed_is_back_at_once_with_what_was_in_force(site: IngressSite) -> None:
    os.kill(site.part.nginx.pid, signal.SIGKILL)
    await site.until(lambda: site.part.nginx.starts == 2 and site.part.ready)
    assert await site.pod("http://web.example/") == "pod-1"
    await site.put(ingress("more", rule("more.example", path("web"))))
    assert await site.pod("http://more.example/") == "pod-1"


class Unforeseen:
    """A renderer with a fault: what Ingresses called bad-… ask for comes out as nonsense."""

    def __init__(self, site: IngressSite) -> None:
        core = site.part.loop._core
        self._files = core.files
        site.part.loop._core = core._replace(files=self.files)

    def files(self, found: Site, settings: Settings) -> dict[str, bytes]:
        files = self._files(found, settings)
        names = {location.source.ingress.name for server in found.servers for location in server.locations}
        more = "".join(f"nonsense_{name} on;\n" for name in sorted(names) if name.startswith("bad-"))
        return {**files, "nginx.conf": files["nginx.conf"] + more.encode()}


async def test_an_ingress_that_nginx_refuses_is_found_and_left_out_and_all_others_are_served(site: IngressSite) -> None:
    Unforeseen(site)
    many = [ingress(f"good-{number}", rule(f"good-{number}.example", path("web")), age=number) for number in range(12)]
    bad = [ingress(f"bad-{number}", rule(f"bad-{number}.example", path("web")), age=5 * number) for number in range(2)]
    await site.put(*many, *bad)
    assert [await site.pod(f"http://{name}.example/") for name in ("good-0", "good-11", "web", "bad-0", "bad-1")] == ["pod-1"] * 3 + ["404"] * 2  # fmt: skip
    for name in ("bad-0", "bad-1"):
        event = next(each for each in site.events if each.regarding["name"] == name)
        assert (
            event.reason == "ConfigurationRefused"
            and event.type == "Warning"
            and f'unknown directive "nonsense_{name}"' in event.message
        )
    assert site.reasons("good-0") == []
    assert len(site.events) == 2
    await site.put(
        objects.endpoints("web", WEB[0], WEB[0].replace(".1", ".9"))
    )  # what has nothing to do with it brings no further Event
    assert len(site.events) == 2
    await site.put(bad[0], deleted=True)
    await site.put(bad[1], deleted=True)
    assert site.part.loop.problems == frozenset()


async def test_the_access_log_names_objects_and_is_counted_by_ingress(site: IngressSite) -> None:
    for url in ("http://web.example/a?b=c", "http://web.example/x%22y", "http://nobody.example/"):
        await site.get(url, headers={"User-Agent": 'a "quoted" one\\'})
    await site.until(lambda: len(site.log) >= 3)
    by_uri = {each["uri"]: each for each in site.log}  # two workers write it, each in its time
    first, second, third = by_uri["/a?b=c"], by_uri["/x%22y"], by_uri["/"]
    assert {first[key] for key in ("namespace", "ingress", "service", "rule")} == {"demo", "web", "web:80", "spec.rules[0].http.paths[0]"}  # fmt: skip
    assert first["upstream"] == f"{WEB[0]}:8080" and first["status"] == 200 and first["uri"] == "/a?b=c"
    assert second["status"] == 200 and second["user_agent"] == 'a "quoted" one\\'
    assert (third["status"], third["ingress"], third["host"]) == (404, "", "nobody.example")
    numbers = await metrics(site)
    assert 'glassnet_ingress_requests_total{ingress="web",namespace="demo",status="2xx"} 2.0' in numbers
    assert 'glassnet_ingress_requests_total{ingress="",namespace="",status="4xx"} 1.0' in numbers
    assert 'glassnet_ingress_request_duration_seconds_bucket{ingress="web",le="+Inf",namespace="demo"} 2.0' in numbers
    assert "nobody.example" not in numbers  # nothing that a request chooses
    assert (
        "glassnet_ingress_config_last_reload_successful 1.0" in numbers
        and "glassnet_ingress_nginx_requests_total" in numbers
    )
    await site.put(ingress("web"), deleted=True)
    assert 'ingress="web"' not in await metrics(site)
    size = (site.outside / "access.log").stat()
    assert size.st_blocks * 512 <= 8192 < size.st_size + 8192  # what was read has been given back


async def metrics(site: IngressSite) -> str:
    site.part._connections = await stub_status.ask(site.outside)
    return site.part.metrics.render()[0].decode()


async def test_http2_websockets_and_large_numbers_of_both(site: IngressSite) -> None:
    shown_h2 = await site.node.run(
        "curl", "-sSk", "--http2", "--resolve", f"web.example:443:{ADDRESS}", "-w", "%{http_version}", "-o", "/dev/null", "https://web.example/"
    )  # fmt: skip
    assert shown_h2 == "2"
    async with site.client() as session, session.ws_connect("http://web.example/chat") as chat:
        await chat.send_str("hello")
        assert (await chat.receive_str()) == "echo hello"
        before = site.part.nginx.generation
        await site.put(ingress("more", rule("more.example", path("web"))))
        assert site.part.nginx.generation > before
        await chat.send_str("still there?")  # a reload does not end it
        assert (await chat.receive_str()) == "echo still there?"


_H2C = """user root; worker_processes 1; error_log stderr; pid grpc.pid; events { worker_connections 64; }
http { access_log off; server { listen 10.81.9.9:50051 http2; location / {
    add_header content-type application/grpc; add_header grpc-status 0 always; return 200 "$server_protocol $request_uri $http_te $host"; } } }
"""


async def test_grpc_goes_on_as_http2(site: IngressSite) -> None:
    from glassnet.netstack.ops import AddAddress

    site.netns.apply([AddAddress("10.81.9.9/32", "lo", exist_ok=True)])
    place = Path(site.machine.root) / "run/grpc"
    place.mkdir()
    (place / "nginx.conf").write_text(_H2C)
    server = await site.machine.spawn(
        [PROGRAM, "-p", "/run/grpc", "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"], env={"PATH": PATH}
    )
    try:
        annotations = {"backend-protocol": "GRPC", "ssl-redirect": "false"}
        await site.put(
            objects.service("grpc", ("grpc", 50051)), objects.endpoints("grpc", "10.81.9.9", port=50051, port_name="grpc"),
            ingress("grpc", rule("grpc.example", path("grpc", port=50051)), annotations=annotations),
        )  # fmt: skip
        words = [
            "curl",
            "-sSk",
            "--http2",
            "--resolve",
            f"grpc.example:443:{ADDRESS}",
            "-H",
            "te: trailers",
            "-H",
            "content-type: application/grpc",
            "-d",
            "x",
        ]
        text = await site.node.run(*words, "https://grpc.example/shop.Cart/Add")
        assert text == "HTTP/2.0 /shop.Cart/Add trailers grpc.example"
    finally:
        server.signal(signal.SIGTERM)
        await server.wait()


async def test_the_client_s_address_comes_by_proxy_protocol() -> None:
    async with ingress_site() as site:
        objects.put(site.view, ingress_class(), *await site.app("web", WEB[0]), ingress("web", rule("web.example", path("web"))))  # fmt: skip
        await site.start(SETTINGS._replace(proxy_protocol=True))
        reader, writer = await asyncio.to_thread(_connect, site)
        text = "PROXY TCP4 203.0.113.7 10.80.0.1 40000 80\r\nGET / HTTP/1.1\r\nHost: web.example\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n"
        writer(text.encode())
        head, _, body = (await asyncio.to_thread(reader)).decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 200")
        found: dict[str, Any] = json.loads(body)
        assert found["headers"]["x-real-ip"] == "203.0.113.7"
        assert found["headers"]["x-forwarded-for"] == "203.0.113.7"  # what a client claims is not believed


def _connect(site: IngressSite) -> Any:
    import socket

    with site.netns.entered():
        sock = socket.create_connection((ADDRESS, 80), timeout=5)

    def read() -> bytes:
        with sock:
            return b"".join(iter(lambda: sock.recv(65536), b""))

    return read, sock.sendall
