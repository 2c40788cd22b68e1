"""server-alias: further hosts of a rule's host."""

from __future__ import annotations

from glassnet.ingress.options.reading import Reader

HOST = r"(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"


def read(annotations: Reader) -> tuple[str, ...]:
    """Hosts, each exact or with a wildcard for its first label. Regular expressions are refused: hosts are looked up, not tried."""
    given = annotations.words(
        "server-alias",
        rf"(?i:{HOST})",
        "give hosts such as shop.example or *.shop.example, in commas; no regular expressions",
    )
    return tuple(dict.fromkeys(each.lower() for each in given))  # fmt: skip
