"""The configuration of Knot DNS for a cluster's zones (knot.conf(5), version 3.2).

Zones have no journal and no file that the server writes: the records are the API's, and whoever starts the server has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from glassnet.dns.model import DnsSettings, Server

SOCKET = "knot.sock"
CHECK_ZONE = "loop-check.glassnet.invalid."


def render(
    settings: DnsSettings, directory: str, upstreams: tuple[Server, ...], zones: Mapping[str, str], token: str = ""
) -> str:
    """The whole file. `directory` is the server's own; `upstreams` those to use now, of which the first is asked; `zones` all we answer for, with their modules.

    With `token` there is a zone with nothing but that text in it: an upstream that knows it has asked us.
    """
    return "\n".join((*_server(settings, directory), *_forwarding(settings, upstreams), *_zones(settings, directory, upstreams, zones, token), ""))  # fmt: skip


def _quoted(words: list[str]) -> str:
    return "[ " + ", ".join(f'"{word}"' for word in words) + " ]"


def _place(server: Server) -> str:
    return f"{server.address}@{server.port}"


def _server(settings: DnsSettings, directory: str) -> Iterator[str]:
    # tcp-io-timeout: a worker waits that long for the rest of a message that somebody has begun, and nobody else is heard by it.
    yield f"""\
# Written by glassnet; changes are lost.
server:
    rundir: "{directory}"
    listen: {_quoted([_place(each) for each in settings.listen])}
    udp-workers: {settings.udp_workers}
    tcp-workers: {settings.tcp_workers}
    background-workers: 1
    tcp-max-clients: 1000
    tcp-io-timeout: 500
    tcp-remote-io-timeout: {settings.upstream_timeout}
    udp-max-payload: 1232
    answer-rotation: on
    identity: ""
    version: ""
    nsid: ""
control:
    listen: "{directory}/{SOCKET}"
    timeout: 10
log:
  - target: stderr
    server: warning
    zone: critical
    control: error
database:
    storage: "{directory}/db"
    journal-db-max-size: 1M"""
    if settings.transfer_to:
        yield f"acl:\n  - id: transfer\n    address: {_quoted(list(settings.transfer_to))}\n    action: transfer"
    if settings.pod_zone:
        yield f"""\
mod-synthrecord:
  - id: pods
    type: forward
    prefix: ""
    ttl: {settings.ttl}
    network: [ "0.0.0.0/0", "::/0" ]"""


def _forwarding(settings: DnsSettings, upstreams: tuple[Server, ...]) -> Iterator[str]:
    """Remotes, and a module for each way a query may go to one: no zone of ours, a name that a reverse zone lacks, a stub domain."""
    remotes = [("upstream", upstreams[:1]), *((f"stub{number}", stub.servers[:1]) for number, stub in enumerate(settings.stubs))]  # fmt: skip
    modules = [("upstream", "upstream", "on", "off"), ("reverse", "upstream", "on", "on")] if upstreams else []
    modules += [(f"stub{number}", f"stub{number}", "off", "off") for number in range(len(settings.stubs))]
    if settings.alias_server is not None:
        remotes.append(("alias", (settings.alias_server,)))
        modules.append(("alias", "alias", "off", "off"))
    if modules:
        yield "remote:"
        for name, servers in remotes:
            for server in servers:
                yield f'  - id: {name}\n    address: "{_place(server)}"'
        yield "mod-dnsproxy:"
        for name, remote, fallback, catch in modules:
            yield f"  - id: {name}\n    remote: {remote}\n    timeout: {settings.upstream_timeout}\n    fallback: {fallback}\n    catch-nxdomain: {catch}"  # fmt: skip


def _zones(settings: DnsSettings, directory: str, upstreams: tuple[Server, ...], zones: Mapping[str, str], token: str) -> Iterator[str]:  # fmt: skip
    yield f"""\
template:
  - id: default
    storage: "{directory}/zones"
    zonefile-load: whole
    zonefile-sync: -1
    journal-content: none
    semantic-checks: off"""
    if settings.transfer_to:
        yield "    acl: transfer"
    if upstreams:
        yield "    global-module: mod-dnsproxy/upstream"
    yield "zone:"
    for zone, module in zones.items():
        yield f'  - domain: "{zone}"'
        if module:
            yield f"    module: {module}"
    for number, stub in enumerate(settings.stubs):
        yield f'  - domain: "{stub.domain}"\n    module: mod-dnsproxy/stub{number}'
    if token:
        yield f'  - domain: "{CHECK_ZONE}"'
