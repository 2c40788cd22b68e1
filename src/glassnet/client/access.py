"""How one cluster is reached, and the proof of who we are that goes with each request."""

from __future__ import annotations

import base64
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from glassnet.client.plugin import Credential, Plugin, without_secrets
from glassnet.client.tls import Tls, when
from glassnet.net.errors import UsageError

log = logging.getLogger(__name__)
_SHORTEST = 8  # characters of a secret: a shorter one is no secret, and part of too many words
_TOKEN_AGE = 60.0  # seconds after which a token's file is read again


@dataclass(slots=True)
class Access:
    """One cluster. `servers` are URLs, tried in order, each verified by `tls`; `server_name` is whom a certificate must name, "" for the URL's host.

    `proxy` is an http proxy's URL. Of the proofs, `token_file` comes before `plugin`, `token` and `basic`. `impersonate` are headers.
    """

    servers: tuple[str, ...]
    tls: Tls | None
    proxy: str = field(default="", repr=False)
    server_name: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    basic: str = field(default="", repr=False)
    plugin: Plugin | None = None
    source: str = ""
    impersonate: tuple[tuple[str, str], ...] = ()
    _read_at: float = field(default=-1e9, repr=False)
    _kept: str = field(default="", repr=False)
    _credential: Credential | None = field(default=None, repr=False)

    async def authorization(self) -> str:
        """The Authorization header's value, "" for none. Token files are read anew each minute, plugins run when their credential ends.

        Raises UsageError when there is no token to be read, or the plugin fails.
        """
        if self.token_file:
            if time.monotonic() - self._read_at > _TOKEN_AGE:
                self._read_token()
            return f"Bearer {self._kept}"
        if self.plugin is not None:
            self._take(await self.plugin.credential())
            return f"Bearer {self._kept}" if self._kept else ""
        return f"Bearer {_fit(self.token, self.source)}" if self.token else self.basic

    @property
    def proof(self) -> object:
        """What `authorization` went by last; for `renew`."""
        return self._credential or self._kept

    async def renew(self, refused: object = None) -> bool:
        """The server refused us: get the proof anew, unless another has since it was `refused`. True when it is worth another try.

        Raises as `authorization`.
        """
        if self.tls is not None and self.tls.refresh():
            return True
        before = self.proof
        if refused is not None and refused != before:
            return True
        if self.token_file:
            self._read_token()
        elif self.plugin is not None:
            self._take(await self.plugin.credential(refused=self._credential))
        return self.proof != before

    def described(self) -> str:
        """The proof in words, its end included, without any secret; "" when all is well known to the user."""
        if self.tls is not None and (certificate := self.tls.shown()) is not None:
            until = when(certificate.not_valid_after_utc)
            ended = "expired at" if certificate.not_valid_after_utc.timestamp() < time.time() else "valid until"
            return f"client certificate {certificate.subject.rfc4514_string()!r} of {self.source}, {ended} {until}"
        if self.token_file:
            return f"token of {self.token_file}{_ends(self._kept)}"
        if self.plugin is not None:
            return f"credential of the plugin in {self.source}{_ends(self._kept)}"
        source = self.source or "the configuration"
        if self.token:
            return f"token in {source}{_ends(self.token)}"
        return f"user and password in {source}" if self.basic else ""

    def hide(self, text: str) -> str:
        """A text without our secrets, and without what looks like one."""
        for secret in (self.token, self._kept, self.basic.removeprefix("Basic ")):
            if len(secret) >= _SHORTEST:
                text = text.replace(secret, "[hidden]")
        return without_secrets(text)

    def _read_token(self) -> None:
        """Keep the old token when the file cannot be read just now; there must be one at the beginning."""
        try:
            text = Path(self.token_file).read_text().strip()
            reason = "" if text else "it is empty"
        except OSError as error:
            text, reason = "", error.strerror or type(error).__name__
        except ValueError:
            text, reason = "", "it is no text"
        if reason and not self._kept:
            raise UsageError(f"{self.source}: cannot read the token file {self.token_file}: {reason}")
        if reason:
            log.warning("cannot read the token file %s: %s; the token read before stays in use", self.token_file, reason)  # fmt: skip
        self._read_at = time.monotonic()
        self._kept = _fit(text, self.token_file) if text else self._kept

    def _take(self, credential: Credential) -> None:
        if credential is self._credential:
            return
        token = _fit(credential.token, self.source)
        if credential.certificate:
            if self.tls is None:
                raise UsageError(f"{self.source}: the credential plugin gave a client certificate, but the server is not https")  # fmt: skip
            self.tls.show(credential.certificate, credential.key)
        self._kept, self._credential = token, credential


def _fit(token: str, source: str) -> str:
    """A token as a header may carry it. Raises UsageError."""
    if not token.isascii() or not token.isprintable():
        raise UsageError(f"{source}: the token has characters that no token has: is this another file?")
    return token


def _ends(token: str) -> str:
    """When a token ends, if it says so (RFC 7519, section 4.1.4)."""
    try:
        payload = token.split(".")[1]
        ends = float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, ValueError, KeyError, TypeError):
        return ""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))
    return f", {'expired at' if ends < time.time() else 'valid until'} {moment}"
