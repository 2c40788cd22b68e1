"""What becomes of a URL in the dumps of a real cluster, to which an Ingress is added: its backends, and the address that each hop sees."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from glassnet.agent.ingress import explained
from glassnet.agent.ingress.explained import Answer, Question
from glassnet.ingress.explain import Request
from glassnet.kube.view import Key
from glassnet.net.errors import UsageError
from glassnet.tracer.world import World
from ingress_objects import ingress, ingress_class, path, rule
from tracer_worlds import capture

LOCAL, CLUSTER = (
    "198.51.100.11",
    "198.51.100.10",
)  # two Services of type LoadBalancer: externalTrafficPolicy Local, and Cluster
CLIENT = "203.0.113.10"  # of the host that is taken for the internet


def world_with(*bodies: dict[str, Any]) -> World:
    """The captured cluster with further objects."""
    world = copy.copy(capture("hardway-iptables")[0])
    world.objects = {
        **world.objects,
        "ingresses": [each for each in bodies if each["kind"] == "Ingress"],
        "ingressclasses": [ingress_class()],
    }
    return world


def ask(body: dict[str, Any], url: str, source: str = "internet", **more: Any) -> Answer:
    world = world_with(body)
    host, _, target = url.removeprefix("http://").partition("/")
    question = Question(Request("http", host, f"/{target}"), source, **more)
    return explained.answer(explained.view_of(world.objects), question, world, secrets=False)


def shop(address: str = LOCAL, **more: Any) -> dict[str, Any]:
    body = ingress("shop", rule("shop.example", path("api", "/cart", port=8000)), **more)
    body["status"] = {"loadBalancer": {"ingress": [{"ip": address}]}}
    return body


def test_each_hop_tells_whose_address_the_other_end_sees() -> None:
    found = ask(shop(), "http://shop.example/cart?a=b")
    assert found.found.status == 0 and found.found.sent == "/cart?a=b"
    endpoints = {each.address for choice in found.found.choices for each in choice.endpoints}
    first = [hop for hop in found.hops if hop.source == "internet"]
    assert first and {hop.seen for hop in first} == {CLIENT}  # Local: the client's own
    assert {hop.command for hop in first} == {"glassnet trace internet svc/edge-lb-local:http -n demo"}
    second = [hop for hop in found.hops if hop.source != "internet"]
    controllers = {hop.to for hop in first}
    assert {hop.source for hop in second} == controllers and endpoints
    world = capture("hardway-iptables")[0]
    for hop in second:  # the pod sees the controller's pod, or the node it is on where that masquerades
        pod, node = world.machines[hop.source], world.machines[world.machines[hop.source].node]
        assert hop.seen in {a.text for machine in (pod, node) for a in machine.stack.addresses}
    assert not any(hop.seen == CLIENT for hop in second)


def test_a_service_with_policy_cluster_hides_the_client_behind_a_node() -> None:
    seen = {hop.seen for hop in ask(shop(CLUSTER), "http://shop.example/cart").hops if hop.source == "internet"}
    assert seen and CLIENT not in seen


def test_what_is_not_known_is_said() -> None:
    found = ask(shop("203.0.113.99"), "http://shop.example/cart")
    assert [hop.how for hop in found.hops] == [
        "no Service has an address of the Ingress's status: --through NAMESPACE/NAME names the one in front of the controller"
    ]
    named = ask(shop("203.0.113.99"), "http://shop.example/cart", service=Key("demo", "edge-lb-local"))
    assert named.hops[0].seen == CLIENT
    other = ask(shop(cls="somebody-else"), "http://shop.example/cart")
    assert other.found.status == 404 and other.not_ours == (
        "Ingress demo/shop: there is no IngressClass somebody-else",
    )
    with pytest.raises(UsageError, match="nobody-like-that"):
        ask(shop(), "http://shop.example/cart", source="nobody-like-that")


def test_secrets_that_a_snapshot_does_not_have_are_no_fault() -> None:
    annotations = {"auth-type": "basic", "auth-secret": "passwords"}
    found = ask(
        shop(
            tls=[{"hosts": ["shop.example"], "secretName": "pair"}],
            annotations={**annotations, "ssl-redirect": "false"},
        ),
        "http://shop.example/cart",
    )
    assert found.unread == ("demo/pair", "demo/passwords")
    assert found.found.status == 0 and found.problems == ()
    assert json.dumps([hop._asdict() for hop in found.hops])
