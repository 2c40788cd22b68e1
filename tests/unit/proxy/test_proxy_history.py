"""After any sequence of changes the state is that of a fresh instance, and the commands given lead there."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from glassnet.kube.view import Key
from glassnet.proxy.backends.nftables import Elements, Options, elements
from glassnet.proxy.backends.nftables_state import State
from glassnet.proxy.model import Endpoint, ServicePort
from glassnet.ruleset.diff import difference

ENDPOINTS = [Endpoint(f"10.0.0.{n}", 8080 + n % 2) for n in range(12)]


@st.composite
def service_port(draw: st.DrawFn, number: int) -> ServicePort:
    cluster = tuple(draw(st.lists(st.sampled_from(ENDPOINTS), unique=True, max_size=10)))
    local = tuple(draw(st.lists(st.sampled_from(cluster), unique=True))) if cluster else ()
    return ServicePort(
        name=f"demo/s{number}:p",
        protocol=draw(st.sampled_from(["TCP", "UDP"])),
        cluster_ip=f"172.30.0.{number}",
        port=80,
        node_port=draw(
            st.sampled_from([0, 30000, 30001])
        ),  # two Services may clash: the API forbids it, the kernel must bear it
        external_ips=draw(st.sampled_from([(), ("198.51.100.1",)])),
        load_balancer_ips=draw(st.sampled_from([(), ("198.51.100.2",)])),
        source_ranges=draw(st.sampled_from([(), ("203.0.113.0/24", "203.0.113.8/29")])),
        external_local=draw(st.booleans()),
        internal_local=draw(st.booleans()),
        affinity_seconds=draw(st.sampled_from([0, 0, 10, 300])),
        health_check_port=0,
        cluster=cluster,
        local=local,
        any_endpoints=bool(cluster),
    )


@st.composite
def change(draw: st.DrawFn) -> tuple[Key, Elements | None]:
    number = draw(st.integers(1, 4))
    port = draw(st.none() | service_port(number))
    return Key("demo", f"s{number}"), elements([port]) if port else None


class Kernel:
    """What the commands leave behind; deleting what is not there and adding what is there with other data are errors, as in the kernel."""

    def __init__(self) -> None:
        self.elements: dict[str, dict[str, str]] = {}
        self.chains: dict[str, list[str]] = {}
        self.sets: dict[str, str] = {}

    def load(self, text: str) -> None:
        for line in text.splitlines():
            if match := re.match(r"(add|delete) element ip glassnet (\S+) \{ (.*) \}$", line):
                content = self.elements.setdefault(match[2], {})
                for item in match[3].split(", "):
                    found = re.match(r'([^":]*?)( comment "[^"]*")?( : .*)?$', item)
                    assert found
                    if match[1] == "delete":
                        del content[item]
                    else:
                        assert found[1] not in content
                        content[found[1]] = item[len(found[1]) :]
            elif match := re.match(r"(add|flush|delete) chain ip glassnet (\S+)$", line):
                if match[1] == "delete":
                    assert not self.chains.pop(match[2])
                    assert not any(f"goto {match[2]}" in rule for rules in self.chains.values() for rule in rules)
                elif match[1] == "flush":
                    self.chains[match[2]].clear()
                else:
                    self.chains.setdefault(match[2], [])
            elif match := re.match(r"add rule ip glassnet (\S+) (.*)$", line):
                self.chains[match[1]].append(match[2])
            elif match := re.match(r"(add|delete) set ip glassnet (\S+)( \{.*\})?$", line):
                if match[1] == "add":
                    assert match[2] not in self.sets
                    self.sets[match[2]] = match[3]
                else:
                    del self.sets[match[2]]
                    assert not any(f"@{match[2]} " in rule for rules in self.chains.values() for rule in rules)

    def content(self) -> tuple[object, ...]:
        return {name: found for name, found in self.elements.items() if found}, self.chains, self.sets


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(change(), min_size=1, max_size=3), max_size=12))
def test_nftables_state_after_any_history_is_a_fresh_one(history: list[list[tuple[Key, Elements | None]]]) -> None:
    lived, kernel, wanted = State(Options()), Kernel(), dict[Key, Elements]()
    lived.full({})
    for batch in history:
        for key, piece in batch:
            wanted.pop(key, None) if piece is None else wanted.update({key: piece})
        text = lived.update(dict(batch))
        if text is None:
            kernel = Kernel()
            text = lived.full(wanted)
        kernel.load(text)
    fresh, new = State(Options()), Kernel()
    new.load(fresh.full(wanted))
    assert kernel.content() == new.content()
    assert lived.contents() == fresh.contents()
    assert lived.update(wanted) == ""


@given(st.dictionaries(st.text(max_size=2), st.integers(0, 2)), st.dictionaries(st.text(max_size=2), st.integers(0, 2)))
def test_a_difference_leads_from_one_state_to_the_other(old: dict[str, int], new: dict[str, int]) -> None:
    change = difference(old, new)
    reached = {name: content for name, content in {**old, **change.written}.items() if name not in change.deleted}
    assert reached == new
    assert bool(change) is (old != new)
