"""nfacct objects: named counters that iptables rules count into. Source: include/uapi/linux/netfilter/nfnetlink_acct.h."""

from __future__ import annotations

import errno

from glassnet.kernel.api import NetNs
from glassnet.kernel.nfnetlink import NfNetlink, Refusal
from glassnet.net.errors import KernelError
from glassnet.ruleset.nft_messages import CREATE, EXCL, text
from glassnet.ruleset.nft_reader import attributes

_SUBSYSTEM, _NEW, _GET, _DELETE = 7 << 8, 0, 1, 3
_NAME, _PACKETS = 1, 2


class Counters:
    """The nfacct objects of a network namespace."""

    def __init__(self, netns: NetNs) -> None:
        self._socket = NfNetlink(netns)

    def ensure(self, names: tuple[str, ...]) -> bool:
        """Make the objects that are missing; False when the kernel has none of the kind."""
        for name in names:
            try:
                list(self._socket.request(_SUBSYSTEM | _NEW, text(_NAME, name), 4 | CREATE | EXCL))
            except Refusal as error:
                if error.number not in (errno.EEXIST, errno.EBUSY):
                    return False
            except KernelError:
                return False
        return True

    def packets(self, name: str) -> int:
        """How many packets were counted; 0 when there is no such object."""
        try:
            for answer in self._socket.request(_SUBSYSTEM | _GET, text(_NAME, name), 0):
                return int.from_bytes(attributes(answer).get(_PACKETS, b"\0"), "big")
        except KernelError:
            pass
        return 0

    def remove(self, names: tuple[str, ...]) -> None:
        """Remove objects no rule uses any more; the others stay."""
        for name in names:
            try:
                list(self._socket.request(_SUBSYSTEM | _DELETE, text(_NAME, name), 4))
            except KernelError:
                continue

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
