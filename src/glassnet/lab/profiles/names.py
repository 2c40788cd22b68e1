"""What the machines of a profile are called. Pure."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterator
from ipaddress import IPv4Address

from glassnet.kube.sections import Fault
from glassnet.lab.profiles.model import Profile

_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")  # RFC 1123, in lower case
_FIELDS = ("number", "address", "tag")
_LETTERS = string.digits + string.ascii_lowercase
_PORT = 15  # bytes a link's name may have
LONGEST = 63  # of a host name's label, and of the label kubernetes.io/hostname


def name_of(template: str, number: int, address: IPv4Address) -> str:
    """A machine's name: {number} counts from 0 ({number:06} with zeros), {address} has hyphens, {tag} is four letters that look like chance.

    Raises ValueError, KeyError or IndexError for a template that is none.
    """
    digest = hashlib.sha256(f"{template}{number}".encode()).digest()
    tag = "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:4])
    return template.format(number=number, address=str(address).replace(".", "-"), tag=tag)


def port_of(name: str, role: str, number: int) -> str:
    """The name of the fabric's port to a machine: the machine's own where a link can have it."""
    return name if len(name) <= _PORT else f"{role}-{number}"


def shown(template: str) -> str:
    """A template in a list: what differs from machine to machine as an ellipsis."""
    return re.sub(r"\{[^}]*\}", "…", template)


def find_faults(profile: Profile) -> Iterator[Fault]:
    """(path, message) of templates that give no names, or one name twice."""
    for path, template, count in (
        ("workers.name", profile.workers.name, profile.workers.count),
        ("controllers.name", profile.controllers.name, profile.controllers.count),
    ):
        why = _fault(template, count)
        if why:
            yield path, f"{path}: {template!r}: {why}"


def _fault(template: str, count: int) -> str:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        if unknown := [field for field in fields if field not in _FIELDS]:
            return f"{{{unknown[0]}}} is not among {', '.join(f'{{{field}}}' for field in _FIELDS)}"
        found = name_of(template, 0, IPv4Address("10.240.255.255"))
    except (ValueError, KeyError, IndexError) as error:
        return str(error)
    if not _DOMAIN.fullmatch(found) or len(found) > LONGEST:
        return f"{found} is no host name (RFC 1123) of at most {LONGEST} characters"
    if found in ("vpc-router", "internet", "fabric", "cloud", "localhost"):
        return f"{found} is another machine of the lab"
    if count > 1 and not fields:
        return "more than one machine has it; put {number} into it"
    return ""
