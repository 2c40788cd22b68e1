"""Where an API server is and how to prove who we are: kubeconfig files, and the service account of a pod.

Source: Kubernetes documentation, "Organizing Cluster Access Using kubeconfig Files", client.authentication.k8s.io/v1 (exec plugins), and
"Accessing the Kubernetes API from a Pod".
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from glassnet.client.access import Access
from glassnet.client.plugin import Plugin
from glassnet.client.tls import Pem, Tls
from glassnet.net.errors import ParseError, UsageError

__all__ = ["SERVICE_ACCOUNT", "Access", "in_cluster", "load"]
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EXTENSION = "client.authentication.k8s.io/exec"


def load(path: str = "", context: str = "", server: str = "", servers: Sequence[str] = ()) -> Access:
    """Read kubeconfig files: `path`, else $KUBECONFIG (several, with colons), else ~/.kube/config.

    `server` overrules the URL; `servers` are further URLs of the same cluster, tried in order after it and verified alike.

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
                    inner = item.get(single) or {}
                    if not isinstance(inner, dict):
                        raise ParseError(f"{kind}[{item['name']}].{single} is no mapping", str(file))
                    found[kind].setdefault(str(item["name"]), (inner, file))
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
    return _access(cluster, cluster_file, user, user_file, (server or str(cluster.get("server") or ""), *servers))


def in_cluster(
    place: Path = SERVICE_ACCOUNT, environment: Mapping[str, str] | None = None, servers: Sequence[str] = ()
) -> Access:
    """The service account of the pod we run in: its token and CA bundle are read anew as the kubelet renews them. `servers` as in `load`.

    Raises UsageError when we run in no pod.
    """
    words = os.environ if environment is None else environment
    host, port = words.get("KUBERNETES_SERVICE_HOST", ""), words.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (place / "token").exists():
        raise UsageError("no kubeconfig is given and this is no pod with a service account; use --kubeconfig FILE")
    address = f"[{host}]" if ":" in host else host
    tls = Tls(str(place), Pem(str(place / "ca.crt")))
    urls = _urls((f"https://{address}:{port}", *servers), "service account")
    return Access(urls, tls, token_file=str(place / "token"), source=str(place))


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
    cluster: Mapping[str, Any],
    cluster_file: Path,
    user: Mapping[str, Any],
    user_file: Path,
    servers: tuple[str, ...],
) -> Access:
    urls = _urls(servers, f"{cluster_file}: clusters[].cluster.server")
    tls = None
    if urls[0].startswith("https://"):
        tls = Tls(
            str(cluster_file) if cluster_file == user_file else f"{cluster_file}, {user_file}",
            _pem(cluster, "certificate-authority", cluster_file),
            _pem(user, "client-certificate", user_file),
            _pem(user, "client-key", user_file),
            bool(cluster.get("insecure-skip-tls-verify")),
        )
        if tls.insecure and tls.authority:
            raise UsageError(f"{cluster_file}: insecure-skip-tls-verify and a certificate-authority exclude each other; take the first away")  # fmt: skip
    if user.get("auth-provider"):
        raise UsageError(f"{user_file}: users[].user.auth-provider is no more; use the provider's exec plugin")
    basic = ""
    if user.get("username"):
        words = f"{user['username']}:{user.get('password', '')}"
        basic = f"Basic {base64.b64encode(words.encode()).decode()}"
    command = user.get("exec")
    plugin = None
    if command is not None:
        if not isinstance(command, dict):
            raise UsageError(f"{user_file}: users[].user.exec is no mapping")
        told = _cluster_info(cluster, cluster_file, urls[0]) if command.get("provideClusterInfo") else None
        plugin = Plugin(command, str(user_file), told)
    return Access(
        urls,
        tls,
        proxy=_proxy(str(cluster.get("proxy-url") or ""), f"{cluster_file}: clusters[].cluster.proxy-url"),
        server_name=str(cluster.get("tls-server-name") or ""),
        token=str(user.get("token") or "").strip(),
        token_file=_path(user.get("tokenFile"), user_file),
        basic=basic,
        plugin=plugin,
        source=str(user_file),
        impersonate=_impersonation(user),
    )


def _urls(servers: tuple[str, ...], source: str) -> tuple[str, ...]:
    """The servers' URLs without a slash at the end, each once. Raises UsageError."""
    found = dict.fromkeys(url.rstrip("/") for url in servers)
    for url in found:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{source} {url!r} is no http or https URL")
        if parts.username or parts.password:
            raise UsageError(f"{source}: a URL with a user in it is not taken; put user or token into users[].user")
    if len({urlsplit(url).scheme for url in found}) > 1:
        raise UsageError(f"{source}: servers {', '.join(found)}: all must be https, or none")
    return tuple(found)


def _proxy(url: str, source: str) -> str:
    """A proxy's URL that we can use. Raises UsageError that names what is not supported."""
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError(f"{source}: a {parts.scheme or 'nameless'} proxy is not supported, only http://HOST:PORT (which tunnels https by CONNECT); run one beside, or reach the server without")  # fmt: skip
    return url


def _cluster_info(cluster: Mapping[str, Any], file: Path, server: str) -> dict[str, Any]:
    """What a plugin is told of the cluster: client.authentication.k8s.io/v1, Cluster."""
    info: dict[str, Any] = {"server": server}
    for name in ("tls-server-name", "insecure-skip-tls-verify", "proxy-url", "disable-compression"):
        if cluster.get(name):
            info[name] = cluster[name]
    try:
        authority = _pem(cluster, "certificate-authority", file).read()
    except (OSError, ValueError):
        authority = ""  # who reads it for TLS says what is wrong
    if authority:
        info["certificate-authority-data"] = base64.b64encode(authority.encode()).decode()
    for extension in cluster.get("extensions") or ():
        if isinstance(extension, dict) and extension.get("name") == _EXTENSION:
            info["config"] = extension.get("extension")
    return info


def _impersonation(user: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Headers for the fields by which a user acts as another (Kubernetes documentation, "User impersonation")."""
    if not user.get("as"):
        return ()
    headers = [("Impersonate-User", str(user["as"]))]
    if user.get("as-uid"):
        headers.append(("Impersonate-Uid", str(user["as-uid"])))
    headers += [("Impersonate-Group", str(group)) for group in user.get("as-groups") or ()]
    for name, values in (user.get("as-user-extra") or {}).items():
        headers += [(f"Impersonate-Extra-{name}", str(value)) for value in values]
    return tuple(headers)


def _pem(body: Mapping[str, Any], name: str, file: Path) -> Pem:
    return Pem(_path(body.get(name), file), _decoded(body, f"{name}-data", file))


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
