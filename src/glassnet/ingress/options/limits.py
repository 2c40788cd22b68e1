"""limit-rps, limit-rpm, limit-connections, limit-burst-multiplier, limit-whitelist, limit-rate: how much of it a client may have."""

from __future__ import annotations

from typing import NamedTuple

from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.options.variables import key
from glassnet.ingress.syntax import block, directive, entry

_MOST = 1_000_000
ZONE = "5m"  # some 40,000 clients each (nginx, ngx_http_limit_req_module)


class Limits(NamedTuple):
    """Requests a second and a minute, connections at one time, by client; -1 for no limit. `rate` is kilobytes a second of an answer."""

    per_second: int = -1
    per_minute: int = -1
    connections: int = -1
    multiplier: int = 5
    spared: tuple[str, ...] = ()
    rate: int = -1
    rate_after: int = -1


def read(annotations: Reader) -> Limits:
    """The family's annotations. 0 is no limit, as in ingress-nginx."""

    def limit(name: str) -> int:
        return annotations.number(name, 0, _MOST) or -1

    newer, older = annotations.networks("limit-allowlist"), annotations.networks("limit-whitelist")
    return Limits(
        limit("limit-rps"),
        limit("limit-rpm"),
        limit("limit-connections"),
        annotations.number("limit-burst-multiplier", 1, 1000, 5),
        newer or older,
        limit("limit-rate"),
        limit("limit-rate-after"),
    )


def spell(limits: Limits, draft: Draft) -> None:
    """Zones are an Ingress', shared by its paths. A zone's name holds all that makes it: NGINX takes no other key for one it has."""
    place = draft.place
    one = key(place.namespace, place.ingress, *limits.spared)
    variable = "$binary_remote_addr"
    if limits.spared:
        variable = f"$limit_{one}"
        spared = [entry(each, 1) for each in limits.spared]
        draft.http.append(block("geo", f"$spared_{one}", of=[entry("default", 0), *spared]))
        of = [entry("0", "$binary_remote_addr"), entry("default", "")]
        draft.http.append(block("map", f"$spared_{one}", variable, of=of))
    for count, unit in ((limits.per_second, "s"), (limits.per_minute, "m")):
        if count > 0:
            zone = f"{one}_rp{unit}"
            draft.http.append(directive("limit_req_zone", variable, f"zone={zone}:{ZONE}", f"rate={count}r/{unit}"))
            draft.location.append(directive("limit_req", f"zone={zone}", f"burst={count * limits.multiplier}", "nodelay"))  # fmt: skip
    if limits.connections > 0:
        draft.http.append(directive("limit_conn_zone", variable, f"zone={one}_conn:{ZONE}"))
        draft.location.append(directive("limit_conn", f"{one}_conn", limits.connections))
    if limits.rate > 0:
        draft.location.append(directive("limit_rate", f"{limits.rate}k"))
        if limits.rate_after > 0:
            draft.location.append(directive("limit_rate_after", f"{limits.rate_after}k"))
