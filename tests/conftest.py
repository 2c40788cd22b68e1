"""What many tests need: a lab of their own that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# a shell starts what it sends to the background with SIGINT ignored, and a program that begins so cannot trap it: tests press ^C
signal.signal(signal.SIGINT, signal.default_int_handler)

GLASSNET = str(Path(sys.executable).with_name("glassnet"))


class Lab:
    """A lab brought up for tests, driven by the real command."""

    def __init__(self, name: str, state: Path) -> None:
        self.name = name
        self.env = {
            **os.environ,
            "GLASSNET_LAB": name,
            "GLASSNET_STATE": str(state),
            "PATH": f"{Path(GLASSNET).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "NO_COLOR": "1",
        }

    def glassnet(
        self, *words: str, check: bool = True, stdin: str = "", timeout: float = 100
    ) -> subprocess.CompletedProcess[str]:
        """Run `glassnet WORDS` on this lab."""
        done = subprocess.run(
            [GLASSNET, *words], env=self.env, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"glassnet {' '.join(words)}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def kubectl(self, *words: str, check: bool = True, stdin: str = "") -> str:
        """Run real kubectl on this lab; what it printed."""
        return self.glassnet("kubectl", *words, check=check, stdin=stdin).stdout

    def node(self, node: str, *words: str, check: bool = True) -> str:
        """Run a command on a node; what it printed."""
        return self.glassnet("node", node, "--", *words, check=check).stdout

    def host(self, host: str, *words: str, check: bool = True) -> str:
        """Run a command on an outside host; what it printed."""
        return self.glassnet("host", host, "--", *words, check=check).stdout


@pytest.fixture(scope="module")
def make_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Lab]]:
    """Bring labs up; they go down when the module's tests are over. Without names, unless `--dns` is among the words: most tests have no use for them."""
    labs: list[Lab] = []

    def make(*words: str) -> Lab:
        lab = Lab(f"t-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("labs"))
        labs.append(lab)
        lab.glassnet("up", *(() if "--dns" in words else ("--dns", "none")), *words)
        return lab

    yield make
    for lab in labs:
        lab.glassnet("down", lab.name, check=False)
