"""loopback: the container's own interface `lo` goes up. Source: behaviour of the reference plugin (containernetworking/plugins, loopback)."""

from __future__ import annotations

from ipaddress import ip_address

from glassnet.cni.effects import Apply, FindLink, ListAddresses, Steps, Where, ask
from glassnet.cni.errors import OTHER, CniError
from glassnet.cni.request import Call
from glassnet.cni.result import Interface, Ip, Result
from glassnet.netstack.ops import SetLink

LO = "lo"


def parse(call: Call) -> None:
    """There is nothing to configure. Raises ConfigError for a key."""
    for key in ("ipam", "runtimeConfig", "cni.dev/valid-attachments"):
        call.fields.raw(key)
    call.fields.done()


def add(call: Call) -> Steps[Result]:
    """Bring the interface up; a previous result goes through as it came."""
    parse(call)
    yield from ask(Apply(Where.POD, (SetLink(LO, up=True),)))
    if call.previous is not None:
        return call.previous
    addresses = yield from ask(ListAddresses(Where.POD, LO))
    ips = tuple(Ip(f"{one.text}/{one.length}", interface=0) for one in addresses)
    for one in ips:
        if not ip_address(one.ip).is_loopback:
            raise CniError(OTHER, f'loopback interface found with non-loopback address "{one.ip}"', f"in {call.netns}")
    return Result((Interface(LO, "00:00:00:00:00:00", call.netns),), ips)


def delete(call: Call) -> Steps[None]:
    """Take the interface down, if there still is one."""
    if call.pod >= 0:
        yield from ask(Apply(Where.POD, (SetLink(LO, up=False),)))


def check(call: Call) -> Steps[None]:
    """It is up. Raises CniError."""
    link = yield from ask(FindLink(Where.POD, LO))
    if link is None or not link.up:
        raise CniError(OTHER, "loopback interface is down", f"in {call.netns}")


def status(call: Call) -> Steps[None]:
    """It takes nothing but the container's namespace."""
    parse(call)
    yield from ()


def collect(call: Call) -> Steps[None]:
    """The interface goes with its namespace."""
    yield from ()
