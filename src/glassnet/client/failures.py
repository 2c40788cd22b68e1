"""What went wrong between us and an API server, in words that say the way out. Nothing here has a secret in it.

Source: RFC 5280 (validity, subject alternative names); openssl-verification-options(1) and x509_vfy.h (numbers of what failed); RFC 9110, sections
5.6.7, 10.2.3 and 15.5 (dates, Retry-After, statuses).
"""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from glassnet.client.access import Access
from glassnet.client.tls import when
from glassnet.net.errors import ApiError

if TYPE_CHECKING:
    from cryptography import x509

CLOCKS_APART = 5.0  # seconds between two clocks that are worth a word
_NOT_YET, _EXPIRED, _WRONG_HOST = 9, 10, (62, 64)
_LONGEST_WAIT = 300.0  # seconds that a server may ask us to wait


class Unreachable(ApiError):
    """No server answers: the connection fails, is refused, or is silent for too long."""

    def __init__(self, message: str) -> None:
        super().__init__(503, "ServiceUnavailable", message)


class Untrusted(Unreachable):
    """Whoever answers cannot prove to be the server, or does not take our certificate."""


class Call(NamedTuple):
    """One request as errors name it. `verb` and `resource` are those of RBAC."""

    verb: str
    resource: str
    path: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} ({self.path})"


def refusal(call: Call, status: int, data: bytes, access: Access, skew: float = 0.0, wait: float | None = None) -> ApiError:  # fmt: skip
    """The ApiError of an answer that is not success: of the server's Status object, or of whatever it said."""
    reason, message, details = "Unknown", "", dict[str, Any]()
    try:
        body = msgspec.json.decode(data)
        reason, message = str(body.get("reason") or reason), str(body.get("message") or "")
        details = dict(body.get("details") or {})
    except (msgspec.DecodeError, AttributeError, TypeError, ValueError):
        message = _gist(data)
    message = access.hide(message) or f"HTTP status {status}"
    if wait is not None:
        details["retryAfterSeconds"] = wait
    if status == 403:
        message = f"no permission to {call.verb} {call.resource}: {message}; a Role or ClusterRole with this verb and resource must be bound to us (RBAC)"
    elif status == 401:
        who = access.described() or f"{access.source or 'the configuration'} gives no credentials"
        message = f"the server does not accept who we are (401, {message}): {who}{_apart(skew)}"
        reason = "Unauthorized"
    elif reason == "Unknown":
        message = f"{call}: {message}"
    return ApiError(status, reason, message, details)


def _gist(data: bytes) -> str:
    """The beginning of an answer that is no Status object: the title of a page, or its first words."""
    text = data[:4096].decode(errors="replace")
    lower = text.lower()
    if "<html" in lower or "<!doctype" in lower:
        begin, end = lower.find("<title>"), lower.find("</title>")
        title = " ".join(text[begin + 7 : end].split()) if 0 <= begin < end else ""
        return f"a web page answered{f' ({title[:100]})' if title else ''}, no API server: a proxy or load balancer in between?"  # fmt: skip
    return " ".join(text[:200].split())


def _apart(skew: float) -> str:
    if abs(skew) <= CLOCKS_APART:
        return ""
    return f"; this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the server's: set it (NTP)"  # fmt: skip


def retry_after(value: str, date: str, now: float) -> float | None:
    """Seconds that a Retry-After header asks for, at most five minutes; None when it says nothing that can be read.

    A date is counted from the answer's own Date header, as our clock may be another.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(_LONGEST_WAIT, float(value[:9]))
    try:
        until = parsedate_to_datetime(value).timestamp()
    except ValueError:
        return None
    begin = seconds_of(date)
    return max(0.0, min(_LONGEST_WAIT, until - (now if begin is None else begin)))


def seconds_of(date: str) -> float | None:
    """A Date header in seconds since 1970."""
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None


async def unreachable(server: str, error: BaseException, access: Access, now: float, skew: float = 0.0) -> Unreachable:
    """Why no connection came about. For a certificate that is not trusted, the server is asked once more which one it has."""
    reason = _tls_error(error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Untrusted(f"{server}: {await _untrusted(server, reason, access, now, skew)}")
    if reason is not None:
        return Untrusted(f"{server}: {_handshake(reason, access)}")
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    if isinstance(error, TimeoutError) and not isinstance(error, ConnectionError):
        said = "no answer in time; is it reachable from here, and no firewall in between?"
    elif isinstance(error, OSError) and isinstance(error.__cause__, ConnectionRefusedError):
        said = "connection refused; does the API server run there?"
    words = access.described() if access.tls is not None else ""
    return Unreachable(f"{server}: {access.hide(said)}{f' ({words})' if 'expired' in words else ''}")


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS error in an error of the HTTP client, if that is what it is."""
    # aiohttp's own classes for them are TLS errors as well, but without what the inner ones know
    for each in (getattr(error, "certificate_error", None), getattr(error, "os_error", None), error.__cause__, error):
        if isinstance(each, ssl.SSLError):
            return each
    return None


def _handshake(error: ssl.SSLError, access: Access) -> str:
    reason = error.reason or type(error).__name__
    if "WRONG_VERSION" in reason or "HTTP_REQUEST" in reason:
        return "what answers there does not speak TLS; http://, or another port?"
    if "ALERT" in reason or "CERTIFICATE" in reason:
        who = access.described() or "we have none to show"
        return f"the server ended the TLS handshake ({reason.lower()}); our {who}"
    return f"the TLS handshake failed ({reason.lower()}); is a proxy in between?"


async def _untrusted(server: str, error: ssl.SSLCertVerificationError, access: Access, now: float, skew: float) -> str:
    found = None if access.proxy else await _presented(server, access)
    issuer = f" (issuer {found.issuer.rfc4514_string()})" if found is not None else ""
    clock = f"this machine's clock says {when(datetime.fromtimestamp(now, UTC))}"
    match getattr(error, "verify_code", 0):
        case code if code == _EXPIRED:
            if found is not None and found.not_valid_after_utc.timestamp() < now:
                until = when(found.not_valid_after_utc)
                return f"the server's certificate has expired: it was valid until {until}, {clock}{_apart(skew)}; renew it on the server"
            return f"a certificate in the server's chain has expired, {clock}; renew it on the server"
        case code if code == _NOT_YET:
            begin = f" before {when(found.not_valid_before_utc)}" if found is not None else ""
            return f"the server's certificate is not yet valid{begin}, {clock}{_apart(skew)}; the two clocks are apart: set this one (NTP), or the one that issued it"
        case code if code in _WRONG_HOST:
            wanted = access.server_name or urlsplit(server).hostname
            names = f", but for {', '.join(_names(found))}" if found is not None else ""
            return f"the server's certificate is not for {wanted}{names}; use a server URL with such a name, or tls-server-name, or issue it anew"
    where = access.tls.authority.path if access.tls is not None and access.tls.authority.path else access.source
    trusted = f"the certificate-authority of {where or 'the configuration'}" if access.tls is not None and access.tls.authority else "the system's authorities"  # fmt: skip
    return f"the server's certificate{issuer} is of an authority that {trusted} does not know ({getattr(error, 'verify_message', error.reason)}); take the cluster's own CA, or the new one if it was changed"


def _names(certificate: x509.Certificate) -> list[str]:
    """The names and addresses a certificate is for."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ["no name at all"]
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


async def _presented(server: str, access: Access) -> x509.Certificate | None:
    """The certificate a server shows. Nothing is trusted for it and nothing is sent: it is for the words of an error alone."""
    from cryptography import x509

    parts = urlsplit(server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(3):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=context, server_hostname=access.server_name or parts.hostname)  # fmt: skip
            raw = writer.get_extra_info("ssl_object").getpeercert(True)
            writer.transport.abort()
            return x509.load_der_x509_certificate(raw)
    except (OSError, TimeoutError, ValueError):
        return None
