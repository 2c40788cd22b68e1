"""In which order a resolver asks for a name that an application wants, as glibc does it.

Source: resolv.conf(5), and the behaviour of glibc 2.36 (res_nsearch, res_nsend), which tests compare. A name that ends with a dot is asked for once.
Others go through the search domains first if they have fewer dots than `ndots`, and are then tried as they are; with as many dots or more it
is the other way round. The next name is tried after NXDOMAIN, after NODATA and after SERVFAIL (when every server said so); any other
failure, such as REFUSED or silence, ends the search domains, and only the name as it is may follow. (musl takes NODATA for an end, and
does not try search domains for a name with `ndots` dots.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from glassnet.dns.lookup import FORWARDED, NODATA, NOERROR, NXDOMAIN, SERVFAIL
from glassnet.dns.resolv_conf import ResolvConf

_GO_ON = (NXDOMAIN, NODATA, SERVFAIL, FORWARDED)  # what an upstream will say is not known: here it says nothing


class Candidate(NamedTuple):
    """A name that is asked for: absolute, and the search domain that made it ("" for the name as it is)."""

    name: str
    domain: str = ""


def candidates(name: str, conf: ResolvConf) -> list[Candidate]:
    """The names that are asked for while nobody knows them, in order."""
    alone = Candidate(name if name.endswith(".") else f"{name}.")
    if name.endswith("."):
        return [alone]
    found = []
    root = False
    for domain in conf.searches:
        bare = domain.removeprefix(".").removesuffix(".")
        root = root or not bare
        found.append(Candidate(f"{name}.{bare}." if bare else f"{name}.", domain))
    if name.count(".") >= conf.ndots:
        return [alone, *found]
    return found if root else [*found, alone]


class Walk:
    """Goes through the candidates as answers come: `for candidate in walk: …; walk.told(code)`."""

    def __init__(self, name: str, conf: ResolvConf) -> None:
        self._alone = Candidate(f"{name.removesuffix('.')}.")
        self._left = candidates(name, conf)
        self._last, self._tried = self._alone, False

    def __iter__(self) -> Iterator[Candidate]:
        while self._left:
            self._last = self._left.pop(0)
            self._tried = self._tried or self._last.name == self._alone.name
            yield self._last

    def told(self, code: str) -> None:
        """The answer to the candidate that came last."""
        if code == NOERROR:
            self._left = []
        elif code not in _GO_ON and self._last.domain:
            self._left = [] if self._tried else [self._alone]


def combined(codes: Iterable[str]) -> str:
    """What a search makes of the answers for A and AAAA of one name: any answer is one."""
    given = set(codes)
    for code in (NOERROR, FORWARDED, SERVFAIL):
        if code in given:
            return code
    rest = given - {NODATA, NXDOMAIN}
    return rest.pop() if rest else NODATA if NODATA in given else NXDOMAIN
