"""whitelist-source-range (allowlist-source-range) and denylist-source-range: who may come in, by the client's address."""

from __future__ import annotations

from typing import NamedTuple

from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.syntax import directive


class Access(NamedTuple):
    """Prefixes as NGINX takes them. `any_of` lets in who passes the addresses or the authentication."""

    allowed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    any_of: bool = False


def read(annotations: Reader) -> Access:
    """The family's annotations. A list that cannot be read lets nobody in."""
    newer = annotations.networks("allowlist-source-range", closes=True)
    older = annotations.networks("whitelist-source-range", closes=True)
    return Access(
        newer or older,
        annotations.networks("denylist-source-range", closes=True),
        annotations.choice("satisfy", ("all", "any"), closes=True) == "any",
    )


def spell(access: Access, draft: Draft) -> None:
    """NGINX takes the first rule that matches: what is refused stands first."""
    draft.location += [directive("deny", each) for each in access.refused]
    draft.location += [directive("allow", each) for each in access.allowed]
    if access.allowed:
        draft.location.append(directive("deny", "all"))
    if access.any_of:
        draft.location.append(directive("satisfy", "any"))
