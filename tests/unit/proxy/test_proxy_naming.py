"""Chain names against rulesets of real clusters of two eras."""

from __future__ import annotations

import pytest

from glassnet.proxy.naming import Recipe, service_port_name


@pytest.mark.parametrize(
    ("name", "protocol", "chain"),
    [
        ("kube-system/kube-dns:dns-tcp", "TCP", "KUBE-SVC-ERIFXISQEP7F7OF4"),
        ("kube-system/kube-dns:dns", "UDP", "KUBE-SVC-TCOU7JCQXEZGVUNU"),
        ("default/nginx-svc", "TCP", "KUBE-SVC-HL5LMXD5JFHQZ6LN"),
        ("default/nginx", "TCP", "KUBE-SVC-2CMXP7HKUVJN7L6M"),
        ("default/kubernetes:https", "TCP", "KUBE-SVC-NPX46M4PTMTKRN6Y"),
        ("ns1/svc1:p80", "TCP", "KUBE-SVC-XPGD46QRK7WJZT7O"),
    ],
)
def test_service_chains(name: str, protocol: str, chain: str) -> None:
    assert Recipe().service("KUBE-SVC", name, protocol) == chain


@pytest.mark.parametrize(
    ("name", "chain"),
    [("default/nginx", "KUBE-SVC-4N57TFCL4MD7ZTDA"), ("default/my-nginx-service", "KUBE-SVC-BMQ5UNGRIS2RIY35")],
)
def test_the_older_era_kept_the_colon(name: str, chain: str) -> None:
    assert Recipe(colon_without_port_name=True).service("KUBE-SVC", name, "TCP")[-8:] == chain[-8:]


def test_a_named_port_is_alike_in_both_eras() -> None:
    name = service_port_name("default", "kubernetes", "https")
    assert Recipe(True).service("KUBE-SVC", name, "TCP") == Recipe().service("KUBE-SVC", name, "TCP")


def test_endpoint_chains() -> None:
    assert Recipe().endpoint("ns1/svc1:p80", "TCP", "10.180.0.1:80") == "KUBE-SEP-SXIVWICOYRO3J4NJ"
