"""The capabilities that deploy/agent.yaml gives suffice for the agent's work, and each is needed for some of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.kernel
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
GIVEN = yaml.safe_load((DEPLOY / "agent.yaml").read_text())["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]["add"]  # fmt: skip
# what a runtime does before the container begins: /proc/sys is there to be read only, and a pod is there
_CONTAINER = """
mount --make-rprivate /
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
ip netns add pod
"""
_REMOUNT = "mount -o remount,bind,rw /proc/sys"
WORK = {
    "NET_ADMIN": [
        "ip link add br0 type bridge && ip link add v0 type veth peer name v1 && ip addr add 10.0.0.1/24 dev v0 "
        "&& ip link set v0 up && ip route add 10.9.0.0/16 via 10.0.0.2 onlink dev v0 proto 114",
        "ip link add vx0 type vxlan id 1 dstport 8472 local 127.0.0.1 nolearning",
        "nft add table ip t && nft list ruleset | grep -q 'table ip t'",
        "iptables-nft -t nat -A POSTROUTING -j MASQUERADE",
        f"{_REMOUNT}; echo 1 > /proc/sys/net/ipv4/ip_forward",
    ],
    "NET_RAW": ["iptables-legacy -t nat -A POSTROUTING -j MASQUERADE"],
    "SYS_ADMIN": [_REMOUNT, "nsenter --net=/run/netns/pod true"],
}


def run(command: str, capabilities: list[str]) -> subprocess.CompletedProcess[str]:
    """In namespaces that are gone right after, as root with these capabilities alone."""
    words = ",".join(["-all", *(f"+{each.lower()}" for each in capabilities)])
    script = f"set -e; export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n{_CONTAINER}\nexec setpriv --bounding-set={words} --inh-caps={words} sh -ec '{command}'"  # fmt: skip
    quoted = script.replace("'table ip t'", '"table ip t"')
    return subprocess.run(["unshare", "--net", "--mount", "sh", "-c", quoted], capture_output=True, text=True, timeout=60, check=False)  # fmt: skip


@pytest.mark.parametrize("command", [each for some in WORK.values() for each in some])
def test_the_capabilities_suffice(command: str) -> None:
    done = run(command, GIVEN)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("capability", GIVEN)
def test_each_is_needed(capability: str) -> None:
    rest = [each for each in GIVEN if each != capability]
    for command in WORK[capability]:
        assert run(command, rest).returncode != 0, command


def test_the_agent_s_command_begins_with_the_remount_that_was_tried() -> None:
    container = yaml.safe_load((DEPLOY / "agent.yaml").read_text())["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][0].splitlines()[0] == _REMOUNT
