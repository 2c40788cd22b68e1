"""Routes of pod CIDRs: the plan, the difference, and the loop that keeps a router in step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from glassnet.agent.routes import vpc as agent_routes
from glassnet.agent.routes.vpc import RouteLoop
from glassnet.kube import kinds
from glassnet.kube.types import Node, decode
from glassnet.kube.view import View
from glassnet.net.errors import KernelError
from glassnet.netstack.ops import AddRoute, DelRoute, Operation
from glassnet.routes import vpc


def node(name: str, cidr: str, address: str) -> Node:
    addresses = [{"type": "Hostname", "address": name}]
    addresses += [{"type": "InternalIP", "address": address}] if address else []
    made: Node = decode(
        kinds.NODE,
        json.dumps({"metadata": {"name": name}, "spec": {"podCIDR": cidr}, "status": {"addresses": addresses}}),
    )
    return made


WORKERS = [node(f"worker-{i}", f"10.200.{i}.0/24", f"10.240.0.2{i}") for i in range(3)]


def test_one_route_per_pod_cidr() -> None:
    assert vpc.routes([*WORKERS, node("no-cidr", "", "10.240.0.9"), node("no-address", "10.200.9.0/24", "")]) == {
        "10.200.0.0/24": "10.240.0.20",
        "10.200.1.0/24": "10.240.0.21",
        "10.200.2.0/24": "10.240.0.22",
    }


def test_a_route_goes_by_the_nodes_address_of_its_family() -> None:
    body = {
        "metadata": {"name": "w"},
        "spec": {"podCIDR": "10.200.0.0/24", "podCIDRs": ["10.200.0.0/24", "fd00:200::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": a} for a in ("10.240.0.20", "fd00:240::14")]},
    }
    dual: Node = decode(kinds.NODE, json.dumps(body))
    assert vpc.routes([dual]) == {"10.200.0.0/24": "10.240.0.20", "fd00:200::/64": "fd00:240::14"}
    body["status"] = {"addresses": [{"type": "InternalIP", "address": "10.240.0.20"}]}
    assert vpc.routes([decode(kinds.NODE, json.dumps(body))]) == {"10.200.0.0/24": "10.240.0.20"}


def test_routes_of_another_table() -> None:
    operations = vpc.diff({"10.1.0.0/24": "10.0.0.1"}, {"10.2.0.0/24": "10.0.0.1"}, "eth0", 100)
    assert [operation.table for operation in operations] == [100, 100]


tables = st.dictionaries(
    st.sampled_from([f"10.200.{i}.0/24" for i in range(4)]), st.sampled_from(["10.0.0.1", "10.0.0.2"])
)


@given(tables, tables)
def test_the_difference_leads_from_one_to_the_other(present: dict[str, str], wanted: dict[str, str]) -> None:
    table = dict(present)
    operations = vpc.diff(wanted, present, "eth0")
    for operation in operations:
        assert operation.protocol == vpc.PROTOCOL and operation.dev == "eth0"
        if isinstance(operation, DelRoute):
            assert table.pop(operation.destination) == operation.gateway
        else:
            table[operation.destination] = operation.gateway
    assert table == wanted and (operations == []) == (present == wanted)


class Router:
    """A namespace that keeps its routes in a dict, and refuses some."""

    name = "vpc-router"

    def __init__(self) -> None:
        self.table: dict[str, str] = {}
        self.refused: set[str] = set()

    def apply(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            assert isinstance(operation, AddRoute | DelRoute)
            if operation.destination in self.refused:
                raise KernelError(f"add route {operation.destination}", 101)
            if isinstance(operation, DelRoute):
                del self.table[operation.destination]
            else:
                self.table[operation.destination] = operation.gateway


async def settled(router: Router, wanted: dict[str, str]) -> None:
    for _ in range(1000):
        if router.table == wanted:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(router.table)


async def test_the_loop_follows_the_nodes() -> None:
    view, router = View(), Router()
    task = asyncio.create_task(RouteLoop(view, router, "eth0").run())  # type: ignore[arg-type]
    for worker in WORKERS:
        view.apply(kinds.NODE, worker)
    await settled(router, vpc.routes(WORKERS))
    view.apply(kinds.NODE, node("worker-1", "10.200.1.0/24", "10.240.0.99"))
    view.apply(kinds.NODE, WORKERS[2], deleted=True)
    await settled(router, {"10.200.0.0/24": "10.240.0.20", "10.200.1.0/24": "10.240.0.99"})
    task.cancel()


async def test_a_refused_route_holds_up_no_other_and_is_tried_again() -> None:
    agent_routes_again, agent_routes.AGAIN = agent_routes.AGAIN, 0.01
    try:
        view, router = View(), Router()
        router.refused = {"10.200.0.0/24"}
        for worker in WORKERS:
            view.apply(kinds.NODE, worker)
        task = asyncio.create_task(RouteLoop(view, router, "eth0").run())  # type: ignore[arg-type]
        await settled(router, vpc.routes(WORKERS[1:]))
        router.refused.clear()
        await settled(router, vpc.routes(WORKERS))
        task.cancel()
    finally:
        agent_routes.AGAIN = agent_routes_again
