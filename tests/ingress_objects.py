"""Objects of the tests of a running Ingress: Ingresses, classes, Services, EndpointSlices and Secrets, as short as they can be said."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from glassnet.agent.ingress.watches import decode
from glassnet.kube import kinds
from glassnet.kube.kinds import Kind
from glassnet.kube.view import View

KINDS: dict[str, Kind] = {kind.name: kind for kind in (kinds.INGRESS, kinds.INGRESS_CLASS, kinds.SERVICE, kinds.ENDPOINT_SLICE, kinds.SECRET, kinds.CONFIG_MAP)}  # fmt: skip
OURS = "glassnet.dev/ingress"
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def _object(kind: Kind, name: str, namespace: str, **more: Any) -> dict[str, Any]:
    where = {"namespace": namespace} if kind.namespaced else {}
    meta = {"name": name, "uid": f"uid-{namespace}-{name}", **where, **more.pop("metadata", {})}
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": meta, **more}


def ingress_class(name: str = "glassnet", controller: str = OURS, **annotations: str) -> dict[str, Any]:
    """An IngressClass."""
    return _object(kinds.INGRESS_CLASS, name, "", metadata={"annotations": annotations}, spec={"controller": controller})  # fmt: skip


def backend(service: str, port: int | str = 80) -> dict[str, Any]:
    """What a path leads to."""
    return {"service": {"name": service, "port": {"name": port} if isinstance(port, str) else {"number": port}}}


def path(service: str, path: str = "/", kind: str = "Prefix", port: int | str = 80) -> dict[str, Any]:
    """One path of a rule."""
    return {"path": path, "pathType": kind, "backend": backend(service, port)}


def rule(host: str, *paths: dict[str, Any]) -> dict[str, Any]:
    """One rule; "" is for all hosts."""
    return {**({"host": host} if host else {}), **({"http": {"paths": list(paths)}} if paths else {})}


def ingress(
    name: str, *rules: dict[str, Any], namespace: str = "demo", cls: str | None = "glassnet", tls: Iterable[dict[str, Any]] = (), default: str = "",
    age: int = 0, annotations: dict[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """An Ingress; `default` is the Service of its defaultBackend, `age` in seconds: the greater, the older."""
    spec: dict[str, Any] = {"rules": list(rules), "tls": list(tls)}
    if cls is not None:
        spec["ingressClassName"] = cls
    if default:
        spec["defaultBackend"] = backend(default)
    made = (_BEGIN - timedelta(seconds=age)).isoformat().replace("+00:00", "Z")
    full = {f"nginx.ingress.kubernetes.io/{key}": value for key, value in (annotations or {}).items()}
    return _object(kinds.INGRESS, name, namespace, metadata={"creationTimestamp": made, "annotations": full}, spec=spec)


def service(name: str, *ports: tuple[str, int], namespace: str = "demo", **spec: Any) -> dict[str, Any]:
    """A Service; `ports` are (name, number)."""
    body = {
        "clusterIP": "10.96.0.10",
        "ports": [{"name": n, "port": p, "protocol": "TCP"} for n, p in ports or (("http", 80),)],
        **spec,
    }
    return _object(kinds.SERVICE, name, namespace, spec=body)


def endpoints(
    of: str, *addresses: str, port: int = 8080, port_name: str = "http", namespace: str = "demo"
) -> dict[str, Any]:
    """The EndpointSlice of a Service; the pod at 10.1.2.3 is called pod-3."""
    members = [
        {"addresses": [each], "conditions": {"ready": True}, "nodeName": "node-a", "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"pod-{each.rpartition('.')[2]}"}}
        for each in addresses
    ]  # fmt: skip
    return _object(
        kinds.ENDPOINT_SLICE, f"{of}-1", namespace, metadata={"labels": {"kubernetes.io/service-name": of}}, addressType="IPv4",
        endpoints=members, ports=[{"name": port_name, "port": port, "protocol": "TCP"}],
    )  # fmt: skip


def secret(
    name: str, data: dict[str, bytes], kind: str = "kubernetes.io/tls", namespace: str = "demo"
) -> dict[str, Any]:
    """A Secret."""
    text = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return _object(kinds.SECRET, name, namespace, data=text, type=kind)


def certificate(*names: str) -> dict[str, bytes]:
    """tls.crt and tls.key for names, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    found = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())  # fmt: skip
    return {"tls.crt": found.public_bytes(serialization.Encoding.PEM), "tls.key": text}


def put(view: View, *bodies: dict[str, Any], deleted: bool = False) -> None:
    """Have a View see objects, or their end."""
    for body in bodies:
        kind = KINDS[body["kind"]]
        view.apply(kind, decode(kind, json.dumps(body).encode()), deleted)
