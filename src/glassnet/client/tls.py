"""Whom we trust and which certificate we show: TLS contexts made of PEM texts, and made anew when their files change.

Source: Kubernetes documentation, "Organizing Cluster Access Using kubeconfig Files"; memfd_create(2); RFC 5280, section 4.1.2.5 (validity).
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from glassnet.net.errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509

log = logging.getLogger(__name__)
_LOOK = 1.0  # seconds between two looks whether a file has changed


@dataclass(frozen=True, slots=True)
class Pem:
    """A PEM text: as a file, as data, or none. Data comes first where both are given, as kubectl has it."""

    path: str = ""
    data: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.path or self.data)

    def read(self) -> str:
        """The text; "" where there is none. Raises OSError or ValueError."""
        if self.data or not self.path:
            return self.data
        with open(self.path, encoding="ascii") as file:
            return file.read()

    def stamp(self) -> tuple[int, ...]:
        """What changes when the file does. Follows links, as kubelets and mounted Secrets change files by them."""
        if self.data or not self.path:
            return ()
        try:
            found = os.stat(self.path)
        except OSError:
            return (0,)
        return (found.st_mtime_ns, found.st_size, found.st_ino)


class Tls:
    """The TLS side of one cluster. A file that cannot be read (half written, away) leaves what was in use, and is looked at again.

    `source` names the configuration in errors; `insecure` trusts anybody. Raises UsageError when the first reading fails.
    """

    def __init__(self, source: str, authority: Pem, certificate: Pem = Pem(), key: Pem = Pem(), insecure: bool = False) -> None:  # fmt: skip
        self.source, self.authority, self.insecure = source, authority, insecure
        self._certificate, self._key = certificate, key
        self._stamp = self._stamps()
        self._context = self._made()
        self._looked = time.monotonic()
        self._said = ""

    def context(self) -> ssl.SSLContext:
        """The context for the next connection; a new one when a file has changed."""
        if time.monotonic() - self._looked >= _LOOK:
            self._looked = time.monotonic()
            self.refresh()
        return self._context

    def refresh(self) -> bool:
        """Look at the files now; True when what they say is new and in use."""
        stamp = self._stamps()
        if stamp == self._stamp:
            return False
        try:
            self._context = self._made()
        except UsageError as error:
            if str(error) != self._said:
                log.warning("%s; the one read before stays in use", error)
            self._said = str(error)
            return False
        self._stamp, self._said = stamp, ""
        return True

    def show(self, certificate: str, key: str) -> None:
        """Show this client certificate (PEM texts) from now on. Raises UsageError."""
        if (certificate, key) == (self._certificate.data, self._key.data):
            return
        self._certificate, self._key = Pem(data=certificate), Pem(data=key)
        self._context, self._stamp = self._made(), self._stamps()

    def shown(self) -> x509.Certificate | None:
        """The client certificate in use, for what errors say about it."""
        from cryptography import x509

        try:
            text = self._certificate.read()
            return x509.load_pem_x509_certificate(text.encode()) if text else None
        except (OSError, ValueError):
            return None

    def _stamps(self) -> tuple[tuple[int, ...], ...]:
        return (self.authority.stamp(), self._certificate.stamp(), self._key.stamp())

    def _made(self) -> ssl.SSLContext:
        try:
            text = self.authority.read()
            if self.authority and not text.strip():
                raise ValueError("empty")  # and never the system's authorities instead
            context = ssl.create_default_context(cadata=text or None)
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.source}: certificate authority {self.authority.path or 'data'}: {_reason(error)}") from None  # fmt: skip
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if bool(self._certificate) != bool(self._key):
            raise UsageError(f"{self.source}: client certificate: client-certificate and client-key are needed both")
        if self._certificate:
            self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        """ssl takes certificate and key out of a file alone: it gets one that is in memory and nowhere else."""
        try:
            text = f"{self._certificate.read()}\n{self._key.read()}\n"
            memory = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
            try:
                with open(memory, "w", closefd=False) as file:
                    file.write(text)
                context.load_cert_chain(f"/proc/self/fd/{memory}", password=lambda: "")
            finally:
                os.close(memory)
        except (OSError, ValueError) as error:
            place = self._certificate.path or "data"
            key = f" with key {self._key.path}" if self._key.path else ""
            raise UsageError(f"{self.source}: client certificate {place}{key}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """An error of reading PEM in words, never with the text that was read."""
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if "MISMATCH" in reason:
            return "the key is another certificate's"
        return (
            f"this is no PEM text of a certificate{' and an unencrypted key' if reason else ''} ({reason or 'empty'})"
        )
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "this is no PEM text"


def when(moment: datetime) -> str:
    """A moment as certificates and logs have it: UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
