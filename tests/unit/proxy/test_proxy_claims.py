"""Who has an address when two ask for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from glassnet.kube.view import Key
from glassnet.proxy.claims import Claims
from glassnet.proxy.model import ServicePort

OLD, NEW = Key("demo", "old"), Key("demo", "new")


def port(cluster_ip: str, *external: str, node_port: int = 0) -> tuple[ServicePort, ...]:
    return (ServicePort("demo/x:p", "TCP", cluster_ip, 80, node_port=node_port, external_ips=external),)


def test_the_older_service_has_a_shared_address_and_the_other_gets_it_when_it_goes() -> None:
    claims = Claims()
    first, second = port("172.30.0.1", "198.51.100.1"), port("172.30.0.2", "198.51.100.1", "198.51.100.2")
    assert claims.update(NEW, "2026-02", (), second) == set()
    assert claims.update(OLD, "2026-01", (), first) == {NEW}
    assert claims.granted(OLD, first) == (first, [])
    granted, lost = claims.granted(NEW, second)
    assert granted[0].external_ips == ("198.51.100.2",)
    assert lost == [(("198.51.100.1", "TCP", 80), OLD)]
    assert claims.update(OLD, "2026-01", first, ()) == {NEW}
    assert claims.granted(NEW, second) == (second, [])


def test_a_cluster_ip_goes_before_an_older_external_address() -> None:
    claims = Claims()
    thief, owner = port("172.30.0.1", "172.30.0.2"), port("172.30.0.2")
    claims.update(OLD, "2026-01", (), thief)
    assert claims.update(NEW, "2026-02", (), owner) == {OLD}
    assert claims.granted(NEW, owner) == (owner, [])
    assert claims.granted(OLD, thief)[0][0].external_ips == ()


def test_a_node_port_and_a_cluster_ip_of_two_services_are_given_once() -> None:
    claims = Claims()
    a, b = port("172.30.0.1", node_port=30000), port("172.30.0.1", node_port=30000)
    claims.update(OLD, "2026-01", (), a)
    claims.update(NEW, "2026-01", (), b)
    assert claims.granted(NEW, b) == (b, [])  # of one age: the first by name
    assert claims.granted(OLD, a)[0] == ()


@given(st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 3), max_size=3, unique=True)), max_size=30))
def test_the_outcome_does_not_depend_on_history(history: list[tuple[int, list[int]]]) -> None:
    claims, asked = Claims(), dict[Key, tuple[ServicePort, ...]]()
    for number, external in history:
        key = Key("demo", f"s{number}")
        ports = port(f"172.30.0.{number}", *(f"198.51.100.{n}" for n in external)) if external else ()
        claims.update(key, f"2026-0{1 + number % 2}", asked.get(key, ()), ports)
        asked[key] = ports
    fresh = Claims()
    for key, ports in sorted(asked.items(), reverse=True):
        fresh.update(key, f"2026-0{1 + int(key.name[1:]) % 2}", (), ports)
    assert {key: claims.granted(key, ports) for key, ports in asked.items()} == {
        key: fresh.granted(key, ports) for key, ports in asked.items()
    }
