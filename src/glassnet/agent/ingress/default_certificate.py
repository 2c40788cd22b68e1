"""The certificate for hosts without one: signed by itself, made once for each directory, of use to encrypt and not to know whom one talks to."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAME = "glassnet ingress default certificate"
_HOST = "ingress.invalid"  # RFC 2606: a name that nobody has
_LIFE, _RENEW = timedelta(days=365), timedelta(days=30)


class Pair(NamedTuple):
    """PEM of a certificate and of its key."""

    chain: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Pair(…)"


def kept(directory: Path, now: datetime) -> Pair:
    """The one that is kept in a directory (default.crt, default.key); a new one when there is none, or it ends within a month. Raises OSError."""
    files = directory / "default.crt", directory / "default.key"
    try:
        pair = Pair(*(file.read_bytes() for file in files))
        certificate = x509.load_pem_x509_certificate(pair.chain)
        key = serialization.load_pem_private_key(pair.key, None)
        if certificate.not_valid_after_utc > now + _RENEW and certificate.public_key() == key.public_key():
            return pair
    except (OSError, ValueError):
        pass
    pair = make(now)
    for file, content in zip(files, pair, strict=True):
        fresh = file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as out:
            out.write(content)
        fresh.rename(file)
    return pair


def make(now: datetime) -> Pair:
    """A new one (ECDSA P-256)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), text)
