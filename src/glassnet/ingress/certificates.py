"""Certificates of Secrets: whether OpenSSL will take them, found out before NGINX has to.

Sources: kubernetes.io/tls (tls.crt, tls.key), OpenSSL's SSL_CTX_set_security_level(3): level 2, Debian's default, wants 112 bits of strength.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from glassnet.ingress.model import Certificate
from glassnet.kube.types import Data
from glassnet.kube.view import Key
from glassnet.net.errors import UsageError

MOST_OCTETS = 1 << 20


class BadCertificate(UsageError):
    """A Secret without a certificate and key that fit and that OpenSSL takes."""


def of(secret: Data | None, key: Key) -> Certificate:
    """The certificate of a Secret. Raises BadCertificate."""
    if secret is None:
        raise BadCertificate(f"there is no Secret {key}")
    parts = []
    for name in ("tls.crt", "tls.key"):
        try:
            parts.append(base64.b64decode(secret.data[name], validate=False))
        except (KeyError, binascii.Error, ValueError):
            raise BadCertificate(f"Secret {key} has no usable {name}") from None
    try:
        chain, private = checked(parts[0], parts[1])
    except BadCertificate as error:
        raise BadCertificate(f"Secret {key}: {error}") from None
    return Certificate(f"{key.namespace}_{key.name}", key, chain, private)


@lru_cache(8192)
def checked(chain: bytes, key: bytes) -> tuple[bytes, bytes]:
    """A chain and its key, as PEM written anew: nothing else of the files is passed on. Raises BadCertificate."""
    if len(chain) > MOST_OCTETS or len(key) > MOST_OCTETS:
        raise BadCertificate(f"more than {MOST_OCTETS} octets")
    try:
        certificates = x509.load_pem_x509_certificates(chain)
        strong = [_is_strong(each) for each in certificates]
    except (ValueError, UnsupportedAlgorithm):
        raise BadCertificate("tls.crt is no chain of certificates in PEM") from None
    try:
        private = serialization.load_pem_private_key(key, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, UnsupportedAlgorithm):
        raise BadCertificate("tls.key is no private key in PEM") from None
    except TypeError:
        raise BadCertificate("tls.key is encrypted") from None
    if not all(strong):
        raise BadCertificate("a key or a signature in tls.crt is too weak: RSA takes 2048 bits, signatures SHA-256")
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != certificates[0].public_key().public_bytes(*form):
        raise BadCertificate("tls.key is not the key of the first certificate in tls.crt")
    return (
        b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates),
        private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )  # fmt: skip


def _is_strong(certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        strong = 2048 <= key.key_size <= 16384
    elif isinstance(key, ec.EllipticCurvePublicKey):
        strong = key.curve.name in ("secp256r1", "secp384r1", "secp521r1")
    else:
        strong = isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
    self_signed = certificate.issuer == certificate.subject
    return strong and (self_signed or not isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5))


@lru_cache(8192)
def names(chain: bytes) -> tuple[str, ...]:
    """The DNS names a chain's first certificate is for, in lower case."""
    try:
        found = x509.load_pem_x509_certificates(chain)[0].extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (x509.ExtensionNotFound, ValueError, IndexError):
        return ()
    return tuple(each.lower() for each in found.value.get_values_for_type(x509.DNSName))
