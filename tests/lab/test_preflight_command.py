"""`glassnet preflight` as it is called: for a lab, for a node, with the API server's clock."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web

from glassnet.agent.cluster.server_clock import clock_difference
from glassnet.client.kubeconfig import Access
from glassnet.net.errors import GlassnetError
from served_api import ServedApi

pytestmark = pytest.mark.kernel
GLASSNET = str(Path(sys.executable).with_name("glassnet"))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ServedApi]:
    served = ServedApi(tmp_path)
    yield served
    served.close()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GLASSNET, "preflight", *words], capture_output=True, text=True, timeout=60, check=False)


def test_a_lab_is_what_it_asks_for_without_a_word() -> None:
    done = run()
    assert done.returncode == 0, done.stdout
    assert "overlayfs: works" in done.stdout


def test_a_node_with_the_api_server_s_clock(api: ServedApi) -> None:
    done = run("node", "--kubeconfig", api.env["KUBECONFIG"], "-o", "json")
    found = json.loads(done.stdout)
    by = {each["check"]: each for each in found["results"]}
    assert {each["verdict"] for each in found["results"]} <= {"ok", "warning", "error"}
    assert all(each["remedy"] for each in found["results"] if each["verdict"] != "ok")
    assert by["clock and API server"]["verdict"] == "ok"
    assert by["vxlan"]["verdict"] == by["nftables"]["verdict"] == "ok"
    assert found["errors"] == sum(each["verdict"] == "error" for each in found["results"])
    assert done.returncode == (1 if found["errors"] else 0)
    text = run("node")
    assert f"kernel version: {by['kernel version']['found']}" in text.stdout


def test_a_kubeconfig_that_is_not_there_is_said_in_a_line() -> None:
    done = run("node", "--kubeconfig", "/nowhere")
    assert done.returncode == 2
    assert "/nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("ahead", [0, 3600, -3600])
async def test_how_far_a_clock_is_off(ahead: int, unused_tcp_port: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        date = datetime.fromtimestamp(datetime.now(UTC).timestamp() + ahead, UTC)
        return web.Response(status=401, headers={"Date": format_datetime(date, usegmt=True)})

    app = web.Application()
    app.router.add_get("/version", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    try:
        found = await clock_difference(Access((f"http://127.0.0.1:{unused_tcp_port}",), None))
    finally:
        await runner.cleanup()
    assert abs(found - ahead) < 2


async def test_nobody_tells_the_time(unused_tcp_port: int) -> None:
    with pytest.raises(GlassnetError, match=f"no API server tells its time: http://127.0.0.1:{unused_tcp_port}"):
        await clock_difference(Access((f"http://127.0.0.1:{unused_tcp_port}",), None))
