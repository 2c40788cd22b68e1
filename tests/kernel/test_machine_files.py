"""The files of a machine of namespaces."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from glassnet.kernel import mounts
from glassnet.kernel.machine import MachineFactory, remember_proc
from glassnet.kernel.spawn import Spawner

pytestmark = pytest.mark.kernel


async def test_a_directory_of_the_host_that_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As /etc/cni/net.d is where podman is installed; here one that every Debian has files in."""
    monkeypatch.setattr(mounts, "HIDDEN", ("etc/apt",))
    remember_proc()
    place = Path(tempfile.mkdtemp(prefix="glassnet-test-", dir="/dev/shm"))
    spawner = Spawner()
    before = sorted(path.name for path in Path("/etc/apt").iterdir())
    try:
        machine = await MachineFactory(spawner, place, rootless=False).machine("node-a", {"/etc/apt/mine": "mine"})
        try:
            await machine.run(["touch", "/etc/apt/new"])
            assert await machine.run(["ls", "/etc/apt"]) == b"mine\nnew\n"
            assert (machine.root / "etc/passwd").read_text() == Path("/etc/passwd").read_text()
        finally:
            await machine.close()
    finally:
        spawner.close()
        shutil.rmtree(place)
    assert "mine" not in before and sorted(path.name for path in Path("/etc/apt").iterdir()) == before
