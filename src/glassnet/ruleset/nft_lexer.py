"""Words of nft's language: tokens of a rule line, types of expressions, and constants as `nft -j` gives them.

Sources: nft(8) and libnftables-json(5); names of types are those that `type` in a set's definition knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"[^"]*"(?:-"[^"]*")?)
      | (?P<raw>@(?:ll|nh|th|ih),\d+,\d+)
      | (?P<note>\#\ ?xt_\w+)
      | (?P<mark>[{}(),;&|^])
      | (?P<word>[^\s{}(),;"&|^]+)
      | (?P<bad>.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_DIGITS = r"0x[0-9a-fA-F]{1,64}|[0-9]{1,64}"
_NUMBER = re.compile(_DIGITS)
_RANGE = re.compile(rf"({_DIGITS})-({_DIGITS})")
_PREFIX = re.compile(rf"({_DIGITS})/([0-9]{{1,3}})")
_NAME = re.compile(r"[A-Za-z_*][\w.*@+-]*|[0-9]+[A-Za-z][\w-]*")
_SPANS = "".join(rf"(?:([0-9]{{1,18}}){unit})?" for unit in ("w", "d", "h", "m(?!s)", "s", "ms"))
_DURATION = re.compile(_SPANS)
_UNITS = (604800_000, 86400_000, 3600_000, 60_000, 1000, 1)
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_IPV6 = re.compile(r"[0-9a-fA-F:]{0,45}:[0-9a-fA-F:]{0,45}(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3})?")
_ETHER = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")

SERVICES = {
    "tcpmux": 1, "echo": 7, "discard": 9, "systat": 11, "daytime": 13, "ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25,
    "time": 37, "whois": 43, "tacacs": 49, "domain": 53, "bootps": 67, "bootpc": 68, "tftp": 69, "finger": 79, "http": 80, "www": 80,
    "kerberos": 88, "pop3": 110, "sunrpc": 111, "ntp": 123, "epmap": 135, "netbios-ns": 137, "netbios-dgm": 138, "netbios-ssn": 139,
    "imap2": 143, "imap": 143, "snmp": 161, "snmp-trap": 162, "snmptrap": 162, "bgp": 179, "irc": 194, "ldap": 389, "https": 443,
    "microsoft-ds": 445, "submissions": 465, "urd": 465, "isakmp": 500, "syslog": 514, "printer": 515, "route": 520, "dhcpv6-client": 546,
    "dhcpv6-server": 547, "rtsp": 554, "nntps": 563, "submission": 587, "ipp": 631, "ldaps": 636, "domain-s": 853, "rsync": 873,
    "ftps-data": 989, "ftps": 990, "telnets": 992, "imaps": 993, "pop3s": 995, "socks": 1080, "openvpn": 1194, "ms-sql-s": 1433,
    "l2f": 1701, "radius": 1812, "radius-acct": 1813, "mqtt": 1883, "nfs": 2049, "docker": 2375, "docker-s": 2376, "gds-db": 3050,
    "mysql": 3306, "rdp": 3389, "ms-wbt-server": 3389, "svn": 3690, "epmd": 4369, "ipsec-nat-t": 4500, "vxlan": 4789, "sip": 5060,
    "sip-tls": 5061, "xmpp-client": 5222, "xmpp-server": 5269, "mdns": 5353, "postgresql": 5432, "amqps": 5671, "amqp": 5672,
    "x11": 6000, "redis": 6379, "http-alt": 8080, "webcache": 8080, "git": 9418, "zabbix-agent": 10050, "zabbix-trapper": 10051,
}  # fmt: skip

FLAG_TYPES = frozenset({"ct_state", "ct_status", "ct_label", "ct_event", "tcp_flag"})


class NotUnderstoodError(Exception):
    """A statement this grammar does not know; the text says which word."""


class Tokens:
    """The tokens of one rule line, with their places, and a position."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words: list[str] = []
        self.starts: list[int] = []
        self.kinds: list[str] = []
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup
            if kind is None:
                continue
            if kind == "bad" and not match[kind].strip():
                continue
            self.words.append(match[kind])
            self.starts.append(match.start(kind))
            self.kinds.append(kind)
        self.place = 0
        self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        """The next word, "" at the end."""
        place = self.place + ahead
        return self.words[place] if place < len(self.words) else ""

    def next(self) -> str:
        """The next word, passed; at the end the statement is not understood."""
        if self.place >= len(self.words):
            raise NotUnderstoodError("ends too early")
        self.place += 1
        return self.words[self.place - 1]

    def accept(self, *words: str) -> bool:
        """Whether these words come next; then they are passed."""
        if self.words[self.place : self.place + len(words)] == list(words):
            self.place += len(words)
            return True
        return False

    def expect(self, word: str) -> None:
        """Passes this word; another one is not understood."""
        found = self.next()
        if found != word:
            raise NotUnderstoodError(f"{found!r} where {word!r} was expected")

    def quoted(self) -> bool:
        """Whether the next token is a string in quotes."""
        return self.place < len(self.kinds) and self.kinds[self.place] == "string"

    def string(self) -> str:
        """The next token as a string, quotes off."""
        return unquote(self.next())

    def integer(self) -> int:
        """The next token as a number."""
        word = self.next()
        if not _NUMBER.fullmatch(word):
            raise NotUnderstoodError(f"{word!r} is no number")
        return number(word)

    def rest(self, place: int) -> str:
        """The text from a token on."""
        return self.text[self.starts[place] :].rstrip() if place < len(self.starts) else ""


def unquote(word: str) -> str:
    """A word without its quotes."""
    return word[1:-1] if len(word) >= 2 and word[0] == '"' and word[-1] == '"' else word


def number(word: str) -> int:
    """A number, decimal or 0x…; octal forms are not printed by nft."""
    return int(word, 16) if word[:2] == "0x" else int(word)


def milliseconds(word: str) -> int:
    """A duration such as 4m15s308ms in milliseconds."""
    match = _DURATION.fullmatch(word)
    if not word or not match:
        if word.isascii() and word.isdigit() and len(word) < 20:
            return int(word) * 1000
        raise NotUnderstoodError(f"{word!r} is no duration")
    return sum(int(part) * unit for part, unit in zip(match.groups(), _UNITS, strict=True) if part)


def seconds(word: str) -> int:
    """A duration in whole seconds, as nft -j tells them."""
    return milliseconds(word) // 1000


# ---- constants


def _address(word: str, form: re.Pattern[str]) -> Any:
    if form.fullmatch(word):
        return word
    head, slash, length = word.partition("/")
    if slash and form.fullmatch(head) and length.isascii() and length.isdigit() and len(length) < 4:
        return {"prefix": {"addr": head, "len": int(length)}}
    low, dash, high = word.partition("-")
    if dash and form.fullmatch(low) and form.fullmatch(high):
        return {"range": [low, high]}
    if word == "*":
        return "*"
    raise NotUnderstoodError(f"{word!r} is no address")


def _ipv4(word: str) -> Any:
    return _address(word, _IPV4)


def _ipv6(word: str) -> Any:
    return _address(word, _IPV6)


def _ether(word: str) -> Any:
    return _address(word, _ETHER)


def _port(word: str) -> Any:
    found = _numeric(word)
    if found is not None:
        return found
    if word[0] == '"' and '"-"' in word:
        low, high = word[1:-1].split('"-"', 1)
        return {"range": [_port(low), _port(high)]}
    name = unquote(word)
    if _NUMBER.fullmatch(name):
        return number(name)
    if name not in SERVICES:
        raise NotUnderstoodError(f"unknown service {name!r}")
    return SERVICES[name]


def _numeric(word: str) -> Any:
    """A number, a range or a prefix of numbers; None for anything else."""
    if _NUMBER.fullmatch(word):
        return number(word)
    match = _RANGE.fullmatch(word)
    if match:
        return {"range": [number(match[1]), number(match[2])]}
    match = _PREFIX.fullmatch(word)
    if match:
        return {"prefix": {"addr": number(match[1]), "len": int(match[2])}}
    return None


def _general(word: str) -> Any:
    """A number, a range, a prefix, an address or a name."""
    found = _numeric(word)
    if found is not None:
        return found
    if word[0] == '"':
        if '"-"' in word:
            low, high = word[1:-1].split('"-"', 1)
            return {"range": [low, high]}
        return unquote(word)
    if _NAME.fullmatch(word) or word == "*":
        return word
    for form in (_IPV4, _ETHER, _IPV6):
        try:
            return _address(word, form)
        except NotUnderstoodError:
            continue
    raise NotUnderstoodError(f"{word!r} is no constant")


def _name(word: str) -> Any:
    """A symbol that stays a string even when it is made of digits: interfaces, classes, realms."""
    found = unquote(word)
    if word[0] != '"' and not re.fullmatch(r"[\w.:*-]+", word):
        raise NotUnderstoodError(f"{word!r} is no name")
    return found


def _period(word: str) -> Any:
    low, dash, high = word.partition("-")
    return {"range": [seconds(low), seconds(high)]} if dash else seconds(word)


def _dscp(word: str) -> Any:
    low, dash, high = word.partition("-")
    if dash and re.fullmatch(r"(?:cs|af)\d+", low) and re.fullmatch(r"(?:cs|af)\d+|ef", high):
        return {"range": [low, high]}
    return _general(word)


def _integer(word: str) -> Any:
    found = _numeric(word)
    if found is None:
        raise NotUnderstoodError(f"{word!r} is no number")
    return found


def _boolean(word: str) -> Any:
    if word not in ("exists", "missing", "0", "1"):
        raise NotUnderstoodError(f"{word!r} is neither exists nor missing")
    return word in ("exists", "1")


def _named(names: str, numbers: Iterable[int], others: bool = False) -> Callable[[str], Any]:
    """A reader for constants that nft -j gives by name where nft -nn prints numbers; `others`: there are more names than these."""
    known = dict(zip(numbers, names.split(), strict=True))

    def read(word: str) -> Any:
        found = _general(word)
        if isinstance(found, int):
            return known.get(found, found)
        if not others and isinstance(found, str) and found not in known.values():
            raise NotUnderstoodError(f"unknown name {word!r}")
        return found

    return read


_READERS: dict[str, Callable[[str], Any]] = {
    "ipv4_addr": _ipv4, "ipv6_addr": _ipv6, "ether_addr": _ether, "inet_service": _port, "iface_index": _name, "classid": _name,
    "realm": _name, "integer": _integer, "time": _period, "dscp": _dscp,
    "inet_proto": _named("icmp igmp tcp udp dccp gre esp ah ipv6-icmp comp sctp udplite", (1, 2, 6, 17, 33, 47, 50, 51, 58, 108, 132, 136), True),
    "ether_type": _named("ip arp ip6 8021q 8021ad", (0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8), True),
    "nf_proto": _named("ipv4 ipv6", (2, 10)),
    "pkt_type": _named("host broadcast multicast other", (0, 1, 2, 3)),
    "ct_dir": _named("original reply", (0, 1)),
    "ct_state": _named("invalid established related new untracked", (1, 2, 4, 8, 64)),
    "ct_status": _named("expected seen-reply assured confirmed snat dnat dying", (1, 2, 4, 8, 16, 32, 512), True),
    "tcp_flag": _named("fin syn rst psh ack urg ecn cwr", (1, 2, 4, 8, 16, 32, 64, 128)),
    "fib_addrtype": _named(
        "unspec unicast local broadcast anycast multicast blackhole unreachable prohibit throw nat xresolve", range(12)
    ),
    "icmp_code": _named(
        "net-unreachable host-unreachable prot-unreachable port-unreachable frag-needed net-prohibited host-prohibited admin-prohibited",
        (0, 1, 2, 3, 4, 9, 10, 13),
        True,
    ),
    "icmpv6_code": _named("no-route admin-prohibited addr-unreachable port-unreachable policy-fail reject-route", (0, 1, 3, 4, 5, 6), True),
    "icmpx_code": _named("no-route port-unreachable host-unreachable admin-prohibited", range(4)),
    "arp_op": _named("request reply rrequest rreply inrequest inreply nak", (1, 2, 3, 4, 8, 9, 10)),
    "boolean": _boolean,
    "icmp_type": _named(
        "echo-reply destination-unreachable source-quench redirect echo-request router-advertisement router-solicitation time-exceeded "
        "parameter-problem timestamp-request timestamp-reply info-request info-reply address-mask-request address-mask-reply",
        (0, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18),
    ),
    "icmpv6_type": _named(
        "destination-unreachable packet-too-big time-exceeded parameter-problem echo-request echo-reply mld-listener-query "
        "mld-listener-report mld-listener-done nd-router-solicit nd-router-advert nd-neighbor-solicit nd-neighbor-advert nd-redirect "
        "router-renumbering ind-neighbor-solicit ind-neighbor-advert mld2-listener-report",
        (1, 2, 3, 4, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 138, 141, 142, 143),
    ),
}  # fmt: skip


def constant(word: str, kind: str = "") -> Any:
    """One constant of a type, as `nft -j` gives it; NotUnderstoodError when it cannot be one."""
    if not word:
        raise NotUnderstoodError("a constant is missing")
    if word == "*":
        return word  # in a set of intervals: all that no other element has
    return _READERS.get(kind, _general)(word)
