"""What of nf_tables a kernel can do, tried out: each feature in a table that is made and deleted in one transaction, so nothing is left.

Source: the kernel versions are those of Linux's git history of net/netfilter/nft_*.c.
"""

from __future__ import annotations

from collections.abc import Iterator

from glassnet.kernel.api import NetNs
from glassnet.kernel.nfnetlink import NfNetlink
from glassnet.net.errors import KernelError
from glassnet.ruleset import nft_expressions as x
from glassnet.ruleset import nft_messages as m

TABLE = "glassnet-probe"
_ADDRESS, _CONCATENATION = (7, 4), (7 << 6 | 13, 8)


def missing(netns: NetNs, family: int = m.IPV4) -> list[str]:
    """The features the nftables mode needs and this kernel refuses, each with the option or version that brings it; none when all is well."""
    sock = NfNetlink(netns)
    try:
        out = []
        for name, messages in _features(family):
            frame = [m.new_table(family, TABLE), *messages, m.delete_table(family, TABLE)]
            try:
                refused = bool(sock.send(m.batch(frame)))
            except KernelError:
                refused = True
            if refused:
                out.append(name)
                if name.startswith("nf_tables"):
                    break
        return out
    finally:
        sock.close()


def _features(family: int) -> Iterator[tuple[str, list[m.Message]]]:
    def rule(*expressions: bytes, hook: tuple[str, int, int] = ("nat", 0, -100)) -> list[m.Message]:
        return [m.base_chain(family, TABLE, "c", *hook), m.new_rule(family, TABLE, "c", expressions)]

    def new_set(key: tuple[int, int], **more: object) -> m.Message:
        return m.new_set(family, TABLE, "s", 1, key=key, **more)  # type: ignore[arg-type]

    yield "nf_tables (CONFIG_NF_TABLES)", []
    yield "nat chains (CONFIG_NFT_NAT)", rule(x.constant(bytes(4), 1), x.dnat(family, 1, 1)) if family == m.IPV4 else []
    yield "masquerade (CONFIG_NFT_MASQ)", rule(x.masquerade(), hook=("nat", 4, 100))
    yield "random numbers (CONFIG_NFT_NUMGEN)", rule(x.numgen(2, 8))
    yield "fib (CONFIG_NFT_FIB)", rule(x.fib(1, 0))
    yield "connection state (CONFIG_NFT_CT)", rule(x.ct(x.CT_STATE))
    yield "reject (CONFIG_NFT_REJECT)", rule(x.reject(family), hook=("filter", 1, 0))
    yield "maps to an address and a port (Linux 5.6)", [new_set(_ADDRESS, data=_CONCATENATION)]
    fields = {"flags": m.SET_INTERVAL | m.SET_CONCAT, "fields": (4, 2)}
    yield "ranges in concatenations (Linux 5.6)", [new_set(_CONCATENATION, **fields)]
    yield (
        "sets that rules fill (Linux 4.3)",
        [
            new_set(_ADDRESS, flags=m.SET_DYNAMIC | m.SET_TIMEOUT, timeout=1000, size=10),
            *rule(x.payload(x.NETWORK, 12, 4, 8), x.remember("s", 1, 8)),
        ],
    )
