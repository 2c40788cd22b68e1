"""Formats that Kubernetes demands of names, labels, ports and addresses, with its messages (k8s.io/apimachinery, util/validation)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from glassnet.apiserver.schema.errors import FieldError, invalid_value, not_supported, required

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_ENV = re.compile(r"[^=]+")
_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")

LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric "
    "character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_1035_MESSAGE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an "
    "alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
QUALIFIED_MESSAGE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
PORT_MESSAGE = "must be between 1 and 65535, inclusive"


def dns_label(value: str, path: str) -> Iterator[FieldError]:
    """RFC 1123 label."""
    if len(value) > 63:
        yield invalid_value(path, value, "must be no more than 63 characters")
    if not _LABEL.fullmatch(value):
        yield invalid_value(path, value, LABEL_MESSAGE)


def dns_subdomain(value: str, path: str) -> Iterator[FieldError]:
    """RFC 1123 subdomain."""
    if len(value) > 253:
        yield invalid_value(path, value, "must be no more than 253 characters")
    if not _SUBDOMAIN.fullmatch(value):
        yield invalid_value(path, value, SUBDOMAIN_MESSAGE)


def dns_1035_label(value: str, path: str) -> Iterator[FieldError]:
    """RFC 1035 label."""
    if len(value) > 63:
        yield invalid_value(path, value, "must be no more than 63 characters")
    if not _LABEL_1035.fullmatch(value):
        yield invalid_value(path, value, LABEL_1035_MESSAGE)


def qualified_name(value: str, path: str) -> Iterator[FieldError]:
    """A label's or annotation's key: optional DNS prefix and a slash, then a name of at most 63 characters."""
    prefix, slash, name = value.rpartition("/")
    if slash and not (prefix and _SUBDOMAIN.fullmatch(prefix)):
        yield invalid_value(path, value, f"prefix part {SUBDOMAIN_MESSAGE}")
    if not name:
        yield invalid_value(path, value, "name part must be non-empty")
    elif len(name) > 63:
        yield invalid_value(path, value, "name part must be no more than 63 characters")
    elif not _QUALIFIED.fullmatch(name):
        yield invalid_value(path, value, QUALIFIED_MESSAGE)


def labels(values: dict[str, Any] | None, path: str) -> Iterator[FieldError]:
    """A map of labels."""
    for key, value in (values or {}).items():
        yield from qualified_name(key, path)
        if len(value) > 63:
            yield invalid_value(path, value, "must be no more than 63 bytes")
        elif value and not _QUALIFIED.fullmatch(value):
            yield invalid_value(path, value, VALUE_MESSAGE)


def label_selector(selector: dict[str, Any] | None, path: str) -> Iterator[FieldError]:
    """A metav1.LabelSelector."""
    yield from labels((selector or {}).get("matchLabels"), f"{path}.matchLabels")
    for index, term in enumerate((selector or {}).get("matchExpressions") or ()):
        where = f"{path}.matchExpressions[{index}]"
        operator, values = term.get("operator", ""), term.get("values") or []
        yield from qualified_name(term.get("key", ""), f"{where}.key")
        if operator in ("In", "NotIn"):
            if not values:
                yield required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                yield FieldError(
                    "FieldValueForbidden",
                    "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    f"{where}.values",
                )
        else:
            yield invalid_value(f"{where}.operator", operator, "not a valid selector operator")


def port_number(value: Any, path: str) -> Iterator[FieldError]:
    """A port: 1 to 65535."""
    if not isinstance(value, int) or not 1 <= value <= 65535:
        yield invalid_value(path, value, PORT_MESSAGE)


def port_name(value: str, path: str) -> Iterator[FieldError]:
    """An IANA service name, RFC 6335 section 5.1."""
    if len(value) > 15:
        yield invalid_value(path, value, "must be no more than 15 characters")
    elif not _PORT_NAME.fullmatch(value):
        yield invalid_value(
            path,
            value,
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens, at least one letter, and no hyphen at either end or twice in a row",
        )


def port_or_name(value: Any, path: str) -> Iterator[FieldError]:
    """A port as number or name."""
    yield from port_name(value, path) if isinstance(value, str) else port_number(value, path)


def protocol(value: Any, path: str) -> Iterator[FieldError]:
    """TCP, UDP or SCTP."""
    if not value:
        yield required(path)
    elif value not in ("TCP", "UDP", "SCTP"):
        yield not_supported(path, value, ("SCTP", "TCP", "UDP"))


def one_of(value: Any, allowed: tuple[str, ...], path: str) -> Iterator[FieldError]:
    """A value of an enumeration."""
    if value not in allowed:
        yield not_supported(path, value, allowed)


def not_negative(value: Any, path: str) -> Iterator[FieldError]:
    """A number of 0 or more; None is fine."""
    if value is not None and value < 0:
        yield invalid_value(path, value, "must be greater than or equal to 0")


def ip_address(value: str, path: str) -> Iterator[FieldError]:
    """An IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        yield invalid_value(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")


def cidr(value: str, path: str) -> Iterator[FieldError]:
    """A range in CIDR notation."""
    try:
        if "/" not in value:
            raise ValueError
        ipaddress.ip_network(value.strip(), strict=False)
    except ValueError:
        yield invalid_value(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")


def env_name(value: str, path: str) -> Iterator[FieldError]:
    """Name of an environment variable."""
    if not value:
        yield required(path)
    elif not _ENV.fullmatch(value):
        yield invalid_value(
            path,
            value,
            "a valid environment variable name must consist only of printable ASCII characters other than '='",
        )


def config_key(value: str, path: str) -> Iterator[FieldError]:
    """A key of a ConfigMap or Secret."""
    if len(value) > 253 or not _KEY.fullmatch(value) or value in (".", ".."):
        yield invalid_value(
            path,
            value,
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        )
