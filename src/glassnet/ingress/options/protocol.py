"""backend-protocol and proxy-ssl-*: how an endpoint is spoken to."""

from __future__ import annotations

from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from glassnet.ingress.options import variables
from glassnet.ingress.options.objects import Objects
from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.syntax import directive, value

PROTOCOLS = ("HTTP", "HTTPS", "GRPC", "GRPCS")
TLS_VERSIONS = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

_SUITE = "(?:ECDHE-(?:ECDSA|RSA)-|DHE-RSA-|)AES(?:128-GCM-SHA256|128-SHA256|128-SHA|256-GCM-SHA384|256-SHA)|(?:ECDHE-(?:ECDSA|RSA)|DHE-RSA)-CHACHA20-POLY1305"
_NEVER = "!(?:aNULL|eNULL|NULL|EXPORT|LOW|MEDIUM|DES|3DES|RC4|MD5|PSK|SRP|CAMELLIA|IDEA|SEED|DSS|ADH|AECDH)"
_CIPHERS = rf"(?:DEFAULT|HIGH|{_SUITE})(?::(?:DEFAULT|HIGH|{_SUITE}|{_NEVER}))*"
"""Lists of which OpenSSL (ciphers(1)) always finds something: of an empty one NGINX makes an error of the whole configuration."""


class Protocol(NamedTuple):
    """`secret` (NAMESPACE/NAME, or NAME) has the client's certificate and the authorities that `verify` checks the endpoint's with."""

    name: str = "HTTP"
    version: str = "1.1"
    secret: str = ""
    verify: bool = False
    depth: int = 1
    ciphers: str = ""
    host: str = ""
    versions: tuple[str, ...] = ()
    sni: bool = False
    certificate: str = ""
    authorities: str = ""

    @property
    def module(self) -> str:
        """NGINX's module: proxy or grpc."""
        return "grpc" if self.name.startswith("GRPC") else "proxy"

    @property
    def tls(self) -> bool:
        """Whether endpoints speak TLS."""
        return self.name.endswith("S")

    @property
    def pool(self) -> str:
        """What tells apart idle connections that must not be mixed in one `upstream` block: "" for plain HTTP."""
        if self.name == "HTTP":
            return ""
        plain = self == Protocol(self.name, self.version)
        return self.name.lower() + ("" if plain else "_" + variables.key(*map(str, self)))


def read(annotations: Reader) -> Protocol:
    """The family's annotations. What restricts whom we speak to (verify, its Secret) fails closed."""
    versions = annotations.raw("proxy-ssl-protocols").split()
    if not set(versions) <= set(TLS_VERSIONS):
        annotations.complain("proxy-ssl-protocols", f"give some of {' '.join(TLS_VERSIONS)}", closes=True)
    return Protocol(
        annotations.choice("backend-protocol", PROTOCOLS, "HTTP", closes=True),
        annotations.choice("proxy-http-version", ("1.0", "1.1"), "1.1"),
        annotations.match("proxy-ssl-secret", r"(?:[a-z0-9.-]+/)?[a-z0-9.-]+", "give a Secret as NAMESPACE/NAME", closes=True),
        annotations.choice("proxy-ssl-verify", ("on", "off"), "off", closes=True) == "on",
        annotations.number("proxy-ssl-verify-depth", 0, 100, 1),
        annotations.match("proxy-ssl-ciphers", _CIPHERS, "give DEFAULT, HIGH or suites such as ECDHE-RSA-AES128-GCM-SHA256 between colons, and what not after !", closes=True),
        annotations.match("proxy-ssl-name", r"[A-Za-z0-9._-]+", "give a host"),
        tuple(dict.fromkeys(each for each in versions if each in TLS_VERSIONS)),
        annotations.choice("proxy-ssl-server-name", ("on", "off"), "off") == "on",
    )  # fmt: skip


def spell(protocol: Protocol, draft: Draft) -> None:
    """The options of the TLS connection, and last of all the hand-over to the upstream."""
    module = protocol.module
    if protocol.tls:
        _tls(protocol, draft)
    if protocol.version == "1.0" and module == "proxy":
        draft.location.append(directive("proxy_http_version", "1.0"))
    if not draft.choice:
        return
    scheme = {"HTTP": "http", "HTTPS": "https", "GRPC": "grpc", "GRPCS": "grpcs"}[protocol.name]
    draft.last.append(directive(f"{module}_pass", f"{scheme}://{draft.choice}"))


def _tls(protocol: Protocol, draft: Draft) -> None:
    module, say = protocol.module, draft.location.append
    if protocol.host:
        say(directive(f"{module}_ssl_name", value(protocol.host)))
    if protocol.sni:
        say(directive(f"{module}_ssl_server_name", "on"))
    if protocol.versions:
        say(directive(f"{module}_ssl_protocols", *protocol.versions))
    if protocol.ciphers:
        say(directive(f"{module}_ssl_ciphers", protocol.ciphers))
    if protocol.certificate:
        say(directive(f"{module}_ssl_certificate", value(protocol.certificate + ".crt")))
        say(directive(f"{module}_ssl_certificate_key", value(protocol.certificate + ".key")))
    if protocol.authorities:
        say(directive(f"{module}_ssl_trusted_certificate", protocol.authorities))
    if protocol.verify:
        say(directive(f"{module}_ssl_verify", "on"))
        say(directive(f"{module}_ssl_verify_depth", protocol.depth))


def resolve(protocol: Protocol, objects: Objects) -> Protocol:
    """The Secret's certificates as files. `certificate` is their name without its end."""
    if not protocol.tls:
        return protocol
    if not protocol.secret:
        if protocol.verify:
            objects.complain("proxy-ssl-verify", "give the authorities with proxy-ssl-secret", closes=True)
        return protocol
    if (found := objects.secret("proxy-ssl-secret", protocol.secret)) is None:
        return protocol
    base = f"upstream/{objects.namespace}_{protocol.secret.rpartition('/')[2]}"
    chain, private, authorities = (found.get(each, b"") for each in ("tls.crt", "tls.key", "ca.crt"))
    if why := faults(chain, private, authorities):
        objects.complain("proxy-ssl-secret", f"Secret {protocol.secret}: {why}", closes=True)
        return protocol
    if protocol.verify and not authorities:
        objects.complain("proxy-ssl-verify", f"Secret {protocol.secret} has no ca.crt", closes=True)
        return protocol
    if chain:
        objects.files |= {f"{base}.crt": chain, f"{base}.key": private}
        protocol = protocol._replace(certificate=base)
    if authorities:
        objects.files[f"{base}.ca"] = authorities
        protocol = protocol._replace(authorities=f"{base}.ca")
    return protocol


def faults(chain: bytes, private: bytes, authorities: bytes) -> str:
    """Why NGINX would not take them, "" when it does."""
    try:
        for pem in (chain, authorities):
            if pem:
                x509.load_pem_x509_certificates(pem)
        if bool(chain) != bool(private):
            return "tls.crt and tls.key go together"
        if chain:
            key = serialization.load_pem_private_key(private, None)
            own = x509.load_pem_x509_certificates(chain)[0].public_key()
            if key.public_key() != own:
                return "tls.key is not the key of tls.crt"
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        return f"its PEM cannot be read: {error}"
    return ""
