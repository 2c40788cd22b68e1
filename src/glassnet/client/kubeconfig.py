"""Where an API server is and how to prove who we are: kubeconfig files, and the service account of a pod.

Source: Kubernetes documentation, "Organizing Cluster Access Using kubeconfig Files", client.authentication.k8s.io/v1 (exec plugins), and
"Accessing the Kubernetes API from a Pod".
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from glassnet.net.errors import ParseError, UsageError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_AGE = 60.0  # seconds after which a token's file is read again
_EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


@dataclass(slots=True)
class Access:
    """How to reach one cluster. `servers` are tried in order; `authorization` gives the header's value, "" for none."""

    servers: tuple[str, ...]
    tls: ssl.SSLContext | None
    proxy: str = ""
    server_name: str = ""
    token: str = ""
    token_file: str = ""
    basic: str = ""
    command: Mapping[str, Any] | None = None
    source: str = ""
    _read_at: float = field(default=-1e9)
    _kept: str = ""
    _expires: float = 0.0

    async def authorization(self, fresh: bool = False) -> str:
        """The Authorization header. Token files are read anew each minute, exec plugins run when their credential ends or was refused (`fresh`).

        Raises UsageError when the file cannot be read or the plugin fails.
        """
        if self.token_file:
            if fresh or time.monotonic() - self._read_at > _TOKEN_AGE:
                try:
                    self._kept = Path(self.token_file).read_text().strip()
                except OSError as error:
                    raise UsageError(f"{self.source}: cannot read the token file: {error}") from None
                self._read_at = time.monotonic()
            return f"Bearer {self._kept}"
        if self.command is not None:
            if fresh or not self._kept or (self._expires and time.time() > self._expires - 10):
                self._kept, self._expires = await _run_plugin(self.command, self.source)
            return f"Bearer {self._kept}" if self._kept else ""
        return f"Bearer {self.token}" if self.token else self.basic


def load(path: str = "", context: str = "", server: str = "") -> Access:
    """Read kubeconfig files: `path`, else $KUBECONFIG (several, with colons), else ~/.kube/config. `server` overrules the URL.

    Raises ParseError or UsageError that names file and field.
    """
    paths = [path] if path else [part for part in os.environ.get("KUBECONFIG", "").split(":") if part]
    paths = paths or [str(Path.home() / ".kube" / "config")]
    found: dict[str, dict[str, tuple[dict[str, Any], Path]]] = {"clusters": {}, "users": {}, "contexts": {}}
    current = context
    for each in paths:
        file = Path(each)
        body = _read(file)
        current = current or str(body.get("current-context") or "")
        for kind, single in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
            for item in body.get(kind) or ():
                if isinstance(item, dict) and item.get("name"):  # what comes first wins
                    found[kind].setdefault(str(item["name"]), (item.get(single) or {}, file))
    source = paths[0]
    if not current and len(found["contexts"]) == 1:
        current = next(iter(found["contexts"]))
    if current not in found["contexts"]:
        names = ", ".join(found["contexts"]) or "none"
        raise UsageError(f"{source}: there is no context {current!r}; it has: {names}" if current else f"{source}: current-context is not set")  # fmt: skip
    chosen, _ = found["contexts"][current]
    cluster, cluster_file = _pick(found["clusters"], chosen, "cluster", source, current)
    user, user_file = (
        _pick(found["users"], chosen, "user", source, current) if chosen.get("user") else ({}, Path(source))
    )
    return _access(cluster, cluster_file, user, user_file, server)


def in_cluster(place: Path = SERVICE_ACCOUNT, environment: Mapping[str, str] | None = None) -> Access:
    """The service account of the pod we run in. Raises UsageError when we run in none."""
    words = os.environ if environment is None else environment
    host, port = words.get("KUBERNETES_SERVICE_HOST", ""), words.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (place / "token").exists():
        raise UsageError("no kubeconfig is given and this is no pod with a service account; use --kubeconfig FILE")
    address = f"[{host}]" if ":" in host else host
    tls = _trust(str(place / "ca.crt"), "", False, str(place / "ca.crt"))
    return Access((f"https://{address}:{port}",), tls, token_file=str(place / "token"), source=str(place))


def _read(file: Path) -> dict[str, Any]:
    try:
        body = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}; use --kubeconfig FILE") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ParseError(error.problem or str(error), str(file), mark.line + 1 if mark else 0) from None
    if not isinstance(body, dict):
        raise ParseError("this is no kubeconfig", str(file))
    return body


def _pick(
    found: Mapping[str, tuple[dict[str, Any], Path]], context: Mapping[str, Any], kind: str, source: str, name: str
) -> tuple[dict[str, Any], Path]:
    wanted = str(context.get(kind) or "")
    if wanted not in found:
        raise UsageError(f"{source}: context {name!r} names {kind} {wanted!r}, which is not there")
    return found[wanted]


def _access(
    cluster: Mapping[str, Any], cluster_file: Path, user: Mapping[str, Any], user_file: Path, server: str
) -> Access:
    url = server or str(cluster.get("server") or "")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{cluster_file}: clusters[].cluster.server {url!r} is no http or https URL")
    insecure = bool(cluster.get("insecure-skip-tls-verify"))
    tls = None
    if url.startswith("https://"):
        ca = _path(cluster.get("certificate-authority"), cluster_file)
        data = _decoded(cluster, "certificate-authority-data", cluster_file)
        tls = _trust(ca, data, insecure, str(cluster_file))
        _identify(tls, user, user_file)
    basic = ""
    if user.get("username"):
        words = f"{user['username']}:{user.get('password', '')}"
        basic = f"Basic {base64.b64encode(words.encode()).decode()}"
    command = user.get("exec")
    if command is not None and command.get("apiVersion") not in _EXEC_VERSIONS:
        raise UsageError(f"{user_file}: exec.apiVersion {command.get('apiVersion')!r} is not among {', '.join(_EXEC_VERSIONS)}")  # fmt: skip
    return Access(
        (url.rstrip("/"),),
        tls,
        proxy=str(cluster.get("proxy-url") or ""),
        server_name=str(cluster.get("tls-server-name") or ""),
        token=str(user.get("token") or ""),
        token_file=_path(user.get("tokenFile"), user_file),
        basic=basic,
        command=command,
        source=str(user_file),
    )


def _path(value: Any, file: Path) -> str:
    """A path in a kubeconfig is relative to it."""
    return str(file.parent / str(value)) if value else ""


def _decoded(body: Mapping[str, Any], name: str, file: Path) -> str:
    value = body.get(name)
    if not value:
        return ""
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, ValueError):
        raise UsageError(f"{file}: {name} is not base64 of a PEM text") from None


def _trust(ca: str, data: str, insecure: bool, source: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None, cadata=data or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{source}: certificate authority {ca or 'data'}: {error}") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _identify(context: ssl.SSLContext, user: Mapping[str, Any], file: Path) -> None:
    """Load the client's certificate; what is data goes through a file that only we can read, as ssl takes nothing else."""
    certificate, key = _path(user.get("client-certificate"), file), _path(user.get("client-key"), file)
    texts = [_decoded(user, name, file) for name in ("client-certificate-data", "client-key-data")]
    try:
        if all(texts):
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as whole:
                whole.write("\n".join(texts))
                whole.flush()
                context.load_cert_chain(whole.name)
        elif certificate and key:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{file}: client certificate: {error}") from None


async def _run_plugin(command: Mapping[str, Any], source: str) -> tuple[str, float]:
    """Token of an exec credential plugin, and when it ends (seconds since 1970; 0: never)."""
    words = [str(command.get("command") or ""), *(str(word) for word in command.get("args") or ())]
    info = {"apiVersion": command["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    environment = {**os.environ, **{each["name"]: each["value"] for each in command.get("env") or ()}}
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(info)
    if "/" in words[0] and not os.path.isabs(words[0]):
        words[0] = str(Path(source).parent / words[0])
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe, stdin=asyncio.subprocess.DEVNULL, env=environment)  # fmt: skip
        output, errors = await asyncio.wait_for(process.communicate(), 30)
    except (OSError, TimeoutError) as error:
        hint = command.get("installHint") or ""
        raise UsageError(f"{source}: credential plugin {words[0]!r}: {error or 'no answer in 30 s'} {hint}".strip()) from None  # fmt: skip
    if process.returncode:
        raise UsageError(f"{source}: credential plugin {words[0]!r}: exit status {process.returncode}: {errors.decode()[:300].strip()}")  # fmt: skip
    try:
        status = json.loads(output)["status"]
        ends = status.get("expirationTimestamp")
        expires = datetime.fromisoformat(ends.replace("Z", "+00:00")).timestamp() if ends else 0.0
        return str(status.get("token") or ""), expires
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{source}: credential plugin {words[0]!r} printed no ExecCredential with a status") from None
