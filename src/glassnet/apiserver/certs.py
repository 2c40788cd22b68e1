"""Certificates of a lab: its own authority, the server's certificate, those of its clients; and the kubeconfig that holds them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from glassnet.apiserver.auth import ACCOUNTS, AGENT, CLOUD, MASTERS

_YEARS = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM texts."""

    ca: bytes
    server: bytes
    server_key: bytes
    admin: bytes
    admin_key: bytes
    agent: bytes
    agent_key: bytes
    cloud: bytes
    cloud_key: bytes


def make(names: Iterable[str], addresses: Iterable[str], now: datetime) -> Certificates:
    """A fresh authority (ECDSA P-256), a server certificate for names and addresses, client certificates of system:masters, of the agents and of the cloud."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "glassnet")])
    ca = (
        _builder(ca_name, ca_name, ca_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(ip_address(address)) for address in addresses]
    server_key = ec.generate_private_key(ec.SECP256R1())
    server = (
        _leaf(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")]), ca, server_key, now)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    admin, admin_key = _client("kubernetes-admin", (MASTERS,), ca, ca_key, now)
    agent, agent_key = _client(AGENT, (ACCOUNTS, f"{ACCOUNTS}:{AGENT.split(':')[2]}"), ca, ca_key, now)
    cloud, cloud_key = _client(CLOUD, (), ca, ca_key, now)
    return Certificates(_pem(ca), _pem(server), _key(server_key), admin, admin_key, agent, agent_key, cloud, cloud_key)


def _client(
    name: str, groups: Iterable[str], ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, now: datetime
) -> tuple[bytes, bytes]:
    """Certificate and key of a client: the user is its common name, the groups are its organizations."""
    who = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _leaf(x509.Name([*who, x509.NameAttribute(NameOID.COMMON_NAME, name)]), ca, key, now)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _pem(certificate), _key(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _YEARS)
    )


def _leaf(
    subject: x509.Name, ca: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    """A certificate that signs handshakes and nothing else; it names its authority's key, as RFC 5280, section 4.2.1.1 asks."""
    authority = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority)
    return (
        _builder(subject, ca.subject, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def kubeconfig(name: str, server: str, ca: bytes, certificate: bytes, key: bytes, user: str = "admin") -> str:
    """A kubeconfig (JSON, which is YAML) with one cluster, user and context called after the lab."""

    def text(raw: bytes) -> str:
        return base64.b64encode(raw).decode()

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": text(ca)}}],
        "users": [
            {
                "name": f"{name}-{user}",
                "user": {"client-certificate-data": text(certificate), "client-key-data": text(key)},
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": f"{name}-{user}"}}],
        "current-context": name,
        "preferences": {},
    }
    return json.dumps(config, indent=2) + "\n"
