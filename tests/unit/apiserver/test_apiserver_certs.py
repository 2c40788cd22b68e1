"""The lab's certificates as TLS libraries judge them, and its kubeconfig."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from glassnet.apiserver import certs
from glassnet.apiserver.auth import ssl_context

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def made() -> certs.Certificates:
    return certs.make(["localhost", "kubernetes.default.svc"], ["127.0.0.1", "10.32.0.1"], NOW)


def read(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_both_certificates_are_signed_by_the_authority_and_match_their_keys(made: certs.Certificates) -> None:
    authority = read(made.ca)
    for certificate, key in ((made.server, made.server_key), (made.admin, made.admin_key)):
        found = read(certificate)
        found.verify_directly_issued_by(authority)
        assert found.public_key() == load_pem_private_key(key, None).public_key()
        assert found.not_valid_before_utc < NOW < NOW + timedelta(days=3000) < found.not_valid_after_utc
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not constraints.ca
    serials = {read(pem).serial_number for pem in (made.ca, made.server, made.admin)}
    assert len(serials) == 3


def test_server_certificate_names_what_clients_dial(made: certs.Certificates) -> None:
    names = read(made.server).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "kubernetes.default.svc"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1"), ip_address("10.32.0.1")]


def test_each_certificate_serves_one_end_only(made: certs.Certificates) -> None:
    def usage(pem: bytes) -> list[x509.ObjectIdentifier]:
        return list(read(pem).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)

    assert usage(made.server) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert usage(made.admin) == usage(made.agent) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_admin_is_a_master(made: certs.Certificates) -> None:
    subject = read(made.admin).subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "kubernetes-admin"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:masters"


def test_the_agents_are_a_service_account_with_its_groups(made: certs.Certificates) -> None:
    subject = read(made.agent).subject
    assert (
        subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        == "system:serviceaccount:glassnet-system:glassnet-agent"
    )
    groups = [each.value for each in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    assert groups == ["system:serviceaccounts", "system:serviceaccounts:glassnet-system"]


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> dict[str, object] | None:
    """A TLS handshake in memory; the client's certificate as the server sees it."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    served = server.wrap_bio(up, down, server_side=True)
    asking = client.wrap_bio(down, up, server_hostname=name)
    waiting = [asking, served]
    for _ in range(10):
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            return served.getpeercert()
    raise AssertionError("the handshake did not end")


def contexts(made: certs.Certificates, directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    for name, raw in (("ca", made.ca), ("crt", made.server), ("key", made.server_key)):
        (directory / name).write_bytes(raw)
    client = ssl.create_default_context(cadata=made.ca.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # RFC 5280 to the letter, the default of newer clients
    return ssl_context(directory / "crt", directory / "key", directory / "ca"), client


def with_certificate(client: ssl.SSLContext, certificate: bytes, key: bytes, directory: Path) -> None:
    (directory / "own").write_bytes(certificate + key)
    client.load_cert_chain(directory / "own")


@pytest.mark.parametrize("name", ["127.0.0.1", "10.32.0.1", "localhost", "kubernetes.default.svc"])
def test_strict_clients_accept_the_server(made: certs.Certificates, tmp_path: Path, name: str) -> None:
    server, client = contexts(made, tmp_path)
    with_certificate(client, made.admin, made.admin_key, tmp_path)
    seen = handshake(server, client, name)
    assert seen is not None
    assert seen["subject"] == ((("organizationName", "system:masters"),), (("commonName", "kubernetes-admin"),))


def test_clients_without_certificate_are_let_to_the_token_check(made: certs.Certificates, tmp_path: Path) -> None:
    server, client = contexts(made, tmp_path)
    assert not handshake(server, client, "localhost")


@pytest.mark.parametrize("which", ["a stranger's", "the server's own"])
def test_other_certificates_of_clients_are_refused(made: certs.Certificates, tmp_path: Path, which: str) -> None:
    server, client = contexts(made, tmp_path)
    if which == "the server's own":
        with_certificate(client, made.server, made.server_key, tmp_path)
    else:
        stranger = certs.make([], [], NOW)
        with_certificate(client, stranger.admin, stranger.admin_key, tmp_path)
    with pytest.raises(ssl.SSLError):
        handshake(server, client, "localhost")


def test_unnamed_hosts_are_refused_by_the_client(made: certs.Certificates, tmp_path: Path) -> None:
    server, client = contexts(made, tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "10.32.0.2")


def test_kubeconfig_holds_everything_and_is_named_after_the_lab(made: certs.Certificates) -> None:
    config = yaml.safe_load(certs.kubeconfig("mylab", "https://127.0.0.1:6443", made.ca, made.admin, made.admin_key))
    cluster, user, context = config["clusters"][0], config["users"][0], config["contexts"][0]
    assert (cluster["name"], context["name"], config["current-context"]) == ("mylab", "mylab", "mylab")
    assert context["context"] == {"cluster": "mylab", "user": user["name"]}
    assert cluster["cluster"]["server"] == "https://127.0.0.1:6443"
    assert base64.b64decode(cluster["cluster"]["certificate-authority-data"]) == made.ca
    assert base64.b64decode(user["user"]["client-certificate-data"]) == made.admin
    assert base64.b64decode(user["user"]["client-key-data"]) == made.admin_key
