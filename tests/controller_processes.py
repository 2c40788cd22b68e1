"""Controllers as processes for the tests, and what they do to Nodes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from served_api import ServedApi

GLASSNET = str(Path(sys.executable).with_name("glassnet"))
QUICK = ("--leader-elect-lease-duration=2s", "--leader-elect-renew-deadline=1.2s", "--leader-elect-retry-period=300ms")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Candidate:
    """A controller's process."""

    def __init__(self, api: ServedApi, name: str, *words: str) -> None:
        self.name, self.port = name, free_port()
        self.log = api.directory / f"{name}.log"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [GLASSNET, "controller", "--kubeconfig", api.env["KUBECONFIG"], "--bind-address", f"127.0.0.1:{self.port}", "--leader-elect-identity", name, *QUICK, *words],
                env=api.env, stderr=file,
            )  # fmt: skip

    def get(self, path: str) -> tuple[int, str]:
        """(status, body); (0, "") while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return 0, ""

    def leads(self) -> bool:
        body = self.get("/leaderz")[1]
        return bool(body) and bool(json.loads(body)["leading"])

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        self.process.wait(timeout=20)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
    return value


def make_node(api: ServedApi, name: str, cidrs: list[str], ip: str = "10.240.0.20") -> None:
    body = {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}] if ip else []},
    }  # fmt: skip
    api.run("create", "-f", "-", stdin=json.dumps(body))


def make_nodes(api: ServedApi, name: str, count: int) -> None:
    """Some Nodes at once, each with a range of its own."""
    items = [
        {
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": f"{name}{number}"},
            "spec": {"podCIDR": f"10.{sum(name.encode()) % 200}.{number}.0/24", "podCIDRs": [f"10.{sum(name.encode()) % 200}.{number}.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.240.0.30"}]},
        }
        for number in range(count)
    ]  # fmt: skip
    api.run("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def condition(api: ServedApi, name: str) -> tuple[str, str, str]:
    """(status, reason, message) of NetworkUnavailable."""
    found = json.loads(api.run("get", "node", name, "-o", "json"))
    each = next((c for c in found["status"].get("conditions", ()) if c["type"] == "NetworkUnavailable"), {})
    return each.get("status", ""), each.get("reason", ""), each.get("message", "")
