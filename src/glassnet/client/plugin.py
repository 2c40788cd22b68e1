"""Credentials from a program: exec plugins of kubeconfig files.

Source: Kubernetes documentation, "Authenticating", section client-go credential plugins; client.authentication.k8s.io/v1.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from glassnet.net.errors import UsageError

VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_PATIENCE = 30.0  # seconds a plugin has
_EARLY = 10.0  # seconds before its end at which a credential is got anew
_JWT = re.compile(r"\beyJ[\w-]+\.[\w-]+(\.[\w-]*)?")
_BEARER = re.compile(
    r"(?i)\b(bearer|basic)(\s+)[^\s\"',}]{16,}|\b([\w-]*(?:token|password|passwd|secret)\"?)(\s*[:=]\s*\"?)[^\s\"',}]{4,}"
)
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.S)


@dataclass(frozen=True, slots=True)
class Credential:
    """What a plugin gave: a token, or a certificate with its key (PEM), or both. `ends` is in seconds since 1970, 0 for never."""

    token: str = field(default="", repr=False)
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    ends: float = 0.0


class Plugin:
    """One exec plugin. `cluster` is what the plugin is told of the cluster, when the kubeconfig asks for that (provideClusterInfo).

    Raises UsageError for what cannot be run here.
    """

    def __init__(self, command: Mapping[str, Any], source: str, cluster: Mapping[str, Any] | None = None) -> None:
        self._command, self._source, self._cluster = command, source, cluster
        if command.get("apiVersion") not in VERSIONS:
            raise UsageError(f"{source}: exec.apiVersion {command.get('apiVersion')!r} is not among {', '.join(VERSIONS)}")  # fmt: skip
        if not command.get("command"):
            raise UsageError(f"{source}: exec.command is missing")
        if command.get("interactiveMode") == "Always":
            raise UsageError(f"{source}: exec.interactiveMode Always: nobody is here to type; use IfAvailable or Never")
        self._lock = asyncio.Lock()
        self._kept: Credential | None = None

    async def credential(self, refused: Credential | None = None) -> Credential:
        """The credential in use; got anew when it is about to end, or when it is the one that was `refused`. One run serves all who wait.

        Raises UsageError when the plugin fails; its words are in the text, what looks like a secret in them is not.
        """
        async with self._lock:
            kept = self._kept
            if kept is None or kept is refused or (kept.ends and time.time() > kept.ends - _EARLY):
                self._kept = kept = await self._run()
            return kept

    async def _run(self) -> Credential:
        words = [str(self._command["command"]), *(str(word) for word in self._command.get("args") or ())]
        if "/" in words[0] and not os.path.isabs(words[0]):
            words[0] = str(Path(self._source).parent / words[0])
        name = f"{self._source}: credential plugin {words[0]!r}"
        try:
            environment = {**os.environ, **{str(each["name"]): str(each["value"]) for each in self._command.get("env") or ()}}  # fmt: skip
        except (KeyError, TypeError):
            raise UsageError(f"{self._source}: exec.env: each entry needs name and value") from None
        spec: dict[str, Any] = {"interactive": False, **({"cluster": self._cluster} if self._cluster else {})}
        info = {"apiVersion": self._command["apiVersion"], "kind": "ExecCredential", "spec": spec}
        environment["KUBERNETES_EXEC_INFO"] = json.dumps(info)
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        hint = f"; {self._command['installHint']}" if self._command.get("installHint") else ""
        try:
            process = await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe, stdin=nothing, env=environment)  # fmt: skip
        except OSError as error:
            raise UsageError(f"{name}: {error.strerror}{hint}") from None
        try:
            output, errors = await asyncio.wait_for(process.communicate(), _PATIENCE)
        except TimeoutError:
            raise UsageError(f"{name}: no answer in {_PATIENCE:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            said = without_secrets(errors.decode(errors="replace").strip())[:300]
            raise UsageError(f"{name}: exit status {process.returncode}: {said}")
        return self._read(output, name)

    def _read(self, output: bytes, name: str) -> Credential:
        try:
            body = json.loads(output)
            status, version = body["status"], body.get("apiVersion")
            ends = status.get("expirationTimestamp")
            expires = datetime.fromisoformat(ends.replace("Z", "+00:00")).timestamp() if ends else 0.0
            found = Credential(
                str(status.get("token") or ""),
                str(status.get("clientCertificateData") or ""),
                str(status.get("clientKeyData") or ""),
                expires,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(f"{name} printed no ExecCredential with a status") from None
        if found.certificate and not found.ends:
            found = replace(found, ends=_certificate_ends(found.certificate))
        if version not in (None, self._command["apiVersion"]):
            raise UsageError(f"{name} printed {version}, the kubeconfig asks for {self._command['apiVersion']}")
        if bool(found.certificate) != bool(found.key):
            raise UsageError(f"{name}: clientCertificateData and clientKeyData are needed both")
        if not found.token and not found.certificate:
            raise UsageError(f"{name} gave neither a token nor a client certificate")
        return found


def _certificate_ends(text: str) -> float:
    """When a certificate ends, in seconds since 1970; 0 for what is none, which TLS will say."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc.timestamp()
    except ValueError:
        return 0.0


def without_secrets(text: str) -> str:
    """A text of a stranger with all that looks like a token, a password or a private key blotted out."""
    text = _KEY.sub("[private key]", text)
    text = _JWT.sub("[token]", text)
    return _BEARER.sub(lambda m: f"{m[1] or m[3]}{m[2] or m[4]}[hidden]", text)
