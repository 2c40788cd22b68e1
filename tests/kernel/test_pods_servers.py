"""Built-in servers in real namespaces, asked from the node by real clients."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pods_machine import NODE_IP, Node, node_of_namespaces, until

from glassnet.kernel.api import NetNs

pytestmark = pytest.mark.kernel


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Node]:
    async with node_of_namespaces() as made:
        yield made


async def ask_udp(netns: NetNs, address: str, port: int, data: bytes) -> bytes:
    """One datagram from a namespace, and the answer."""
    loop = asyncio.get_running_loop()
    with netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await loop.sock_connect(sock, (address, port))
        await loop.sock_sendall(sock, data)
        return await asyncio.wait_for(loop.sock_recv(sock, 2048), 5)


NETEXEC = '{"name": "c", "image": "registry.k8s.io/e2e-test-images/agnhost:2.47", "args": ["netexec"]}'


async def test_netexec_says_who_asked_and_who_answered(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("web-0", NETEXEC)
    await sandbox.start(container, {}, {}, 0)
    url = f"http://{address}:8080"
    assert (await node.curl(f"{url}/")).startswith("NOW: 20")
    assert await node.curl(f"{url}/hostname") == "web-0"
    assert await node.curl(f"{url}/hostName") == "web-0"
    host, _, port = (await node.curl(f"{url}/clientip")).partition(":")
    assert host == NODE_IP
    assert port.isdigit()
    assert await node.curl(f"{url}/serverport") == "8080"
    assert await node.curl(f"{url}/echo?msg=a%20b") == "a b"
    assert await node.curl("-H", "X-Mine: v", f"{url}/header?key=X-Mine") == "v"
    assert await node.curl("-o", "/dev/null", "-w", "%{http_code}", f"{url}/healthz") == "200"
    assert await node.curl("-o", "/dev/null", "-w", "%{http_code}", f"{url}/echo?msg=x&code=503") == "503"
    moved = await node.curl(
        "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", f"{url}/redirect?location=/echo%3Fmsg=m&code=307"
    )
    assert moved == f"307 {url}/echo?msg=m"
    assert "GET /hostname" in await node.logs("web-0")


async def test_netexec_over_udp(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("web-0", NETEXEC)
    await sandbox.start(container, {}, {}, 0)
    here = node.machine.netns
    assert await ask_udp(here, address, 8081, b"hostname") == b"web-0"
    assert await ask_udp(here, address, 8081, b"echo Hello you\n") == b"hello you"
    assert (await ask_udp(here, address, 8081, b"clientip")).startswith(NODE_IP.encode() + b":")


async def test_netexec_without_udp_is_never_healthy_as_upstream(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("api", NETEXEC.replace('"netexec"', '"netexec", "--udp-port=-1"'))
    await sandbox.start(container, {}, {}, 0)
    assert await node.curl("-o", "/dev/null", "-w", "%{http_code}", f"http://{address}:8080/healthz") == "412"
    with pytest.raises(ConnectionRefusedError):
        await ask_udp(node.machine.netns, address, 8081, b"hostname")


async def test_netexec_dials_from_its_pod(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("web-0", NETEXEC)
    await sandbox.start(container, {}, {}, 0)
    other, _, (third,) = await node.pod("web-1", NETEXEC, hostNetwork="true")
    await other.start(third, {}, {}, 0)
    dial = f"http://{address}:8080/dial?host={NODE_IP}&tries=2"
    assert json.loads(await node.curl(f"{dial}&port=8080&request=hostname")) == {"responses": ["node-a", "node-a"]}
    assert json.loads(await node.curl(f"{dial}&port=8081&request=hostname&protocol=udp")) == {
        "responses": ["node-a"] * 2
    }
    (seen,) = json.loads(await node.curl(f"{dial.replace('tries=2', 'tries=1')}&port=8080&request=clientip"))[
        "responses"
    ]
    assert seen.startswith(f"{address}:")
    by_name = f"http://{address}:8080/dial?host=thenode&port=8080&request=hostname"
    assert json.loads(await node.curl(by_name)) == {"responses": ["node-a"]}
    refused = json.loads(await node.curl(f"{dial}&port=9&request=hostname"))
    assert ["connection refused" in error for error in refused["errors"]] == [True, True]
    assert await node.curl("-o", "/dev/null", "-w", "%{http_code}", f"{dial}&port=8080") == "400"


async def test_netexec_runs_a_shell_in_the_pod(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("web-0", NETEXEC)
    await sandbox.start(container, {}, {}, 0)
    shell = f"http://{address}:8080/shell?cmd="
    said = json.loads(await node.curl(f"{shell}hostname%3B%20ip%20-br%20addr"))
    assert said["output"].startswith("web-0\n")
    assert address in said["output"]
    assert json.loads(await node.curl(f"{shell}exit%203")) == {"error": "exit status 3"}


async def test_netexec_ends_when_told_to(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("web-0", NETEXEC)
    running = await sandbox.start(container, {}, {}, 0)
    await node.curl(f"http://{address}:8080/exit?code=7&timeout=1s")
    assert await asyncio.wait_for(running.wait(), 5) == (7, "Error", "")
    running = await sandbox.start(container, {}, {}, 1)
    code = await node.run("sh", "-c", f"curl -s http://{address}:8080/shutdown; echo $?")
    assert code == "52\n"  # curl's "empty reply from server"
    assert (await asyncio.wait_for(running.wait(), 5)).reason == "Completed"


async def test_nginx_welcomes_logs_and_says_404(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("web", '{"name": "nginx", "image": "nginx:1.27"}')
    await sandbox.start(container, {}, {}, 0)
    page = await node.curl("-i", f"http://{address}/")
    assert "Server: nginx" in page
    assert "Content-Type: text/html" in page
    assert "<title>Welcome to nginx!</title>" in page
    assert (await node.curl("-I", f"http://{address}/")).startswith("HTTP/1.1 200 OK")
    assert "404 Not Found" in await node.curl("-i", "-A", 'odd"agent', f"http://{address}/nothing")
    assert "405" in await node.curl("-i", "-X", "POST", f"http://{address}/")
    log = await node.logs("web")
    assert f"{NODE_IP} - - [" in log
    assert '"GET / HTTP/1.1" 200 ' in log
    assert '"GET /nothing HTTP/1.1" 404 ' in log
    assert '"odd\\x22agent"' in log


async def test_nginx_serves_a_volume_and_nothing_outside_it(node: Node) -> None:
    sandbox, address, (container,) = await node.pod(
        "web",
        '{"name": "nginx", "image": "nginx", "volumeMounts": [{"name": "v", "mountPath": "/usr/share/nginx/html"}]}',
    )
    volume = node.machine.root / "var/lib/kubelet/pods/v"
    (volume / "..data/sub").mkdir(parents=True)
    (volume / "..data/index.html").write_text("<p>mine</p>")
    (volume / "index.html").symlink_to("..data/index.html")
    (volume / "sub").symlink_to("..data/sub")
    (volume / "..data/sub/a.css").write_text("a{}")
    (volume / "secret").symlink_to("../../../../../etc/passwd")
    await sandbox.start(container, {}, {"/usr/share/nginx/html": "/var/lib/kubelet/pods/v"}, 0)
    url = f"http://{address}"
    assert await node.curl(f"{url}/") == "<p>mine</p>"
    assert "Content-Type: text/css" in await node.curl("-i", f"{url}/sub/a.css")
    assert "403" in await node.curl("-i", f"{url}/sub/")
    assert f"Location: {url}/sub/" in await node.curl("-i", f"{url}/sub")
    for path in ("/secret", "/missing"):
        assert "404 Not Found" in await node.curl("-i", f"{url}{path}")
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd"):
        assert "400 Bad Request" in await node.curl("-i", "--path-as-is", f"{url}{path}")


@pytest.mark.parametrize(
    ("container", "env", "port", "words"),
    [
        ('{"name": "c", "image": "mcr.microsoft.com/azuredocs/aks-helloworld:v1"}', {"TITLE": "Hi <you>"}, 80, "<h1>Hi &lt;you&gt;</h1>"),
        ('{"name": "c", "image": "httpd"}', {}, 80, "It works!"),
        ('{"name": "c", "image": "traefik/whoami", "args": ["--port=$(P)"]}', {"P": "81"}, 81, "Hostname: web"),
        ('{"name": "c", "image": "registry.k8s.io/echoserver:1.10"}', {}, 8080, "pod name:\tweb"),
        ('{"name": "c", "image": "hashicorp/http-echo", "args": ["-text=hey"]}', {}, 5678, "hey\n"),
        ('{"name": "c", "image": "hello-app:1.0"}', {}, 8080, "Hostname: web\n"),
        ('{"name": "c", "image": "agnhost", "args": ["serve-hostname"]}', {}, 9376, "web"),
        ('{"name": "c", "image": "who/knows", "ports": [{"containerPort": 5000}]}', {}, 5000, "pod: web\nnamespace: demo\nnode: node-a\n"),
    ],
)  # fmt: skip
async def test_other_images(node: Node, container: str, env: dict[str, str], port: int, words: str) -> None:
    sandbox, address, (spec,) = await node.pod("web", container)
    await sandbox.start(spec, env, {}, 0)
    assert words in await node.curl(f"http://{address}:{port}/")


async def test_a_stand_in_answers_udp_tcp_tls_and_its_probes(node: Node) -> None:
    sandbox, address, (container,) = await node.pod(
        "dns",
        '{"name": "coredns", "image": "coredns:1.11", "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53},'
        ' {"containerPort": 7, "protocol": "SCTP"}],'
        ' "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}},'
        ' "livenessProbe": {"httpGet": {"path": "/live", "port": 8443, "scheme": "HTTPS"}}}',
    )
    assert "stand-in" in node.runtime.stand_in(container)
    await sandbox.start(container, {}, {}, 0)
    assert b"image: coredns:1.11" in await ask_udp(node.machine.netns, address, 53, b"?")
    assert "client: 10.99.0.1:" in await node.run("nc", "-N", address, "53", stdin=b"\x00\x01not http\n")
    assert "client: 10.99.0.1:" in await node.run("nc", "-N", address, "53")
    assert "coredns" in await node.curl(f"http://{address}:8181/ready")
    assert "coredns" in await node.curl("-k", f"https://{address}:8443/live")
    assert await sandbox.exec_probe("coredns", ["no-such-program"], 1) == (
        0,
        "not run: a stand-in has none of its image's programs\n",
    )


async def test_serve_hostname_over_tcp_and_udp(node: Node) -> None:
    sandbox, address, (container,) = await node.pod(
        "h", '{"name": "c", "image": "agnhost", "args": ["serve-hostname", "--tcp", "--udp", "--port=99"]}'
    )
    await sandbox.start(container, {}, {}, 0)
    assert await node.run("nc", "-d", address, "99") == "h"
    assert await ask_udp(node.machine.netns, address, 99, b"\n") == b"h"


async def test_a_port_in_use_ends_the_second_server(node: Node) -> None:
    sandbox, address, (first, second) = await node.pod(
        "two", '{"name": "a", "image": "nginx"}', '{"name": "b", "image": "httpd"}'
    )
    await sandbox.start(first, {}, {}, 0)
    running = await sandbox.start(second, {}, {}, 0)
    assert await asyncio.wait_for(running.wait(), 1) == (1, "Error", "listen tcp :80: bind: address already in use")
    assert "bind: address already in use" in await node.logs("two", "b")
    assert "nginx" in await node.curl(f"http://{address}/")


async def test_sctp_without_a_kernel_that_has_it_says_so(node: Node) -> None:
    sandbox, _, (container,) = await node.pod("s", NETEXEC.replace('"netexec"', '"netexec", "--sctp-port=38412"'))
    running = await sandbox.start(container, {}, {}, 0)
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        assert (await asyncio.wait_for(running.wait(), 1)).code == 1
        assert "no SCTP" in await node.logs("s")
    else:
        assert running.status is None


async def test_host_network_servers_listen_on_the_node(node: Node) -> None:
    sandbox, _, (container,) = await node.pod(
        "h", NETEXEC.replace('"netexec"', '"netexec", "--http-port=18080"'), hostNetwork="true"
    )
    await sandbox.start(container, {}, {}, 0)
    assert sandbox.netns_path == ""
    assert await node.curl("http://127.0.0.1:18080/hostname") == "node-a"
    assert "*:18080" in await node.run("ss", "-Hltn")


async def test_a_server_ends_at_once_unless_the_pod_asks_for_a_long_grace(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("quick", NETEXEC)
    running = await sandbox.start(container, {}, {}, 0)
    assert await asyncio.wait_for(running.stop(30), 1) == (0, "Completed", "")
    slow, address, (container,) = await node.pod("drain-0", NETEXEC, terminationGracePeriodSeconds="86400")
    running = await slow.start(container, {}, {}, 0)
    stopping = asyncio.create_task(running.stop(86400))
    assert await node.curl(f"http://{address}:8080/hostname") == "drain-0"
    assert not stopping.done()
    assert (await asyncio.wait_for(running.stop(0.05), 2)).code == 137
    assert (await stopping).code == 137


async def test_delay_shutdown(node: Node) -> None:
    sandbox, address, (container,) = await node.pod(
        "d", NETEXEC.replace('"netexec"', '"netexec", "--delay-shutdown=1"')
    )
    running = await sandbox.start(container, {}, {}, 0)
    stopping = asyncio.create_task(running.stop(30))
    assert await node.curl(f"http://{address}:8080/hostname") == "d"
    assert not stopping.done()
    assert (await asyncio.wait_for(stopping, 5)).code == 0


async def test_bad_arguments_end_a_server_with_its_words_in_the_log(node: Node) -> None:
    sandbox, _, (container,) = await node.pod("bad", NETEXEC.replace('"netexec"', '"netexec", "--nope"'))
    running = await sandbox.start(container, {}, {}, 0)
    assert (await running.wait()).code == 1
    assert "unknown flag: --nope" in await node.logs("bad")


async def test_removed_pods_leave_nothing(node: Node) -> None:
    sandbox, address, (container,) = await node.pod("web-0", NETEXEC)
    await sandbox.start(container, {}, {}, 0)
    name = Path(sandbox.netns_path).name
    assert name.startswith("cni-")
    assert name in await node.run("ls", "/run/netns")
    await sandbox.remove()
    await sandbox.remove()
    assert name not in await node.run("ls", "/run/netns")
    assert await until(lambda: not (node.machine.root / "run/netns" / name).exists())
    code = await node.run("sh", "-c", f"curl -s -m 2 http://{address}:8080/ ; echo $?")
    assert code.strip() != "0"
