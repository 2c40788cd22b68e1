"""auth-type: basic, auth-secret, auth-secret-type, auth-realm: name and password (RFC 7617), checked by NGINX itself."""

from __future__ import annotations

import re
from typing import NamedTuple

from glassnet.ingress.options.objects import Objects
from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import PREFIX, UNSUPPORTED, Complaint, Reader
from glassnet.ingress.syntax import directive, value

_LINE = re.compile(rb"[^:\s\x00-\x1f\x7f][^:\x00-\x1f\x7f]*:[\x21-\x7e]+")


class BasicAuth(NamedTuple):
    """`secret` is NAME or NAMESPACE/NAME. `by_user`: each of its keys is a user; else its key `auth` is a file as htpasswd writes it."""

    secret: str = ""
    by_user: bool = False
    realm: str = "Authentication Required"
    file: str = ""


def read(annotations: Reader) -> BasicAuth:
    """The family's annotations. What cannot be carried out lets nobody in."""
    kind = annotations.choice("auth-type", ("basic", "digest"), closes=True)
    secret = annotations.match("auth-secret", r"(?:[a-z0-9.-]+/)?[a-z0-9.-]+", "give a Secret as NAME or NAMESPACE/NAME", closes=True)  # fmt: skip
    by_user = annotations.choice("auth-secret-type", ("auth-file", "auth-map"), "auth-file", closes=True) == "auth-map"
    realm = annotations.match("auth-realm", r"[\x20\x21\x23-\x5b\x5d-\x7e]+", "give printable ASCII without quotes", "Authentication Required")  # fmt: skip
    if kind == "digest":
        annotations.complaints.append(Complaint(UNSUPPORTED, f"{PREFIX}auth-type: NGINX knows no digest authentication: give basic; until then the Ingress answers 503"))  # fmt: skip
        annotations.denied = annotations.denied or f"{PREFIX}auth-type: digest is not supported"
    elif kind and not secret and not annotations.denied:
        annotations.complain("auth-type", "give auth-secret too", closes=True)
    return BasicAuth(secret if kind == "basic" else "", by_user, realm)


def resolve(basic: BasicAuth, objects: Objects) -> BasicAuth:
    """The Secret as a file of users and hashed passwords."""
    if not basic.secret or (found := objects.secret("auth-secret", basic.secret)) is None:
        return basic
    name = f"{objects.namespace}/{basic.secret.rpartition('/')[2]}"
    if not basic.by_user and "auth" not in found:
        objects.complain("auth-secret", f"Secret {name} has no key auth", closes=True)
        return basic
    given = [user.encode() + b":" + found[user].strip() for user in sorted(found)] if basic.by_user else found["auth"].splitlines()  # fmt: skip
    lines = [line.strip() for line in given if line.strip() and not line.lstrip().startswith(b"#")]
    good = [line for line in lines if _LINE.fullmatch(line)]
    if len(good) < len(lines):
        objects.complain(
            "auth-secret",
            f"Secret {name}: {len(lines) - len(good)} of {len(lines)} lines are not USER:HASH, and left out",
        )
    file = f"users/{name.replace('/', '_')}{'_map' if basic.by_user else ''}"
    objects.files[file] = b"".join(line + b"\n" for line in good)
    return basic._replace(file=file)


def spell(basic: BasicAuth, draft: Draft) -> None:
    """Who is let in, and what the browser asks for."""
    if basic.file:
        draft.location.append(directive("auth_basic", value(basic.realm)))
        draft.location.append(directive("auth_basic_user_file", value(basic.file)))
