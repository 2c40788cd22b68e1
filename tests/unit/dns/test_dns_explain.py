"""Why a name has the answer it has, or none: what is said of each case, and how a cluster's DNS is found in its objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import dns_objects as objects
from dns_objects import endpoint, endpoints, external, headless, namespace, service
from glassnet.cli.main import root
from glassnet.dns import absence, deployed, explain, resolv_conf
from glassnet.dns.lookup import Names
from glassnet.dns.model import DnsSettings, Server, Stub
from glassnet.kube import kinds
from glassnet.kube.types import decode
from glassnet.kube.view import Key, View
from glassnet.net.errors import GlassnetError

SETTINGS = DnsSettings(
    upstreams=(Server("192.0.2.53"), Server("192.0.2.54")), stubs=(Stub("corp.example.", (Server("192.0.2.90"),)),)
)
Z = "svc.cluster.local"
HTTP, DNS_UDP = ("http", "TCP", 80), ("dns", "UDP", 53)


def a_pod(name: str, where: str = "demo", ip: str = "10.200.0.9", *, labels: dict[str, str] | None = None, ready: str = "True", **spec: Any) -> dict[str, Any]:  # fmt: skip
    condition = {"type": "Ready", "status": ready} | ({"reason": "ContainersNotReady"} if ready == "False" else {})
    return {
        "kind": "Pod", "metadata": {"name": name, "namespace": where, "labels": labels or {}},
        "spec": {"nodeName": "worker-0", "dnsPolicy": "ClusterFirst", **spec},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [condition]},
    }  # fmt: skip


def a_deployment(*command: str, args: tuple[str, ...] = (), env: dict[str, str] | None = None) -> dict[str, Any]:
    container = {"command": list(command), "args": list(args), "env": [{"name": name, "value": value} for name, value in (env or {}).items()]}  # fmt: skip
    spec = {"selector": {"matchLabels": {"app": "dns"}}, "template": {"spec": {"containers": [container]}}}
    return {"kind": "Deployment", "metadata": {"name": "dns", "namespace": "kube-system"}, "spec": spec}


CLUSTER: list[dict[str, Any]] = [
    namespace("demo"), namespace("shop"), namespace("kube-system"),
    service("kube-dns", "10.32.0.10", DNS_UDP, namespace="kube-system"),
    endpoints("kube-dns", endpoint("10.200.9.9"), namespace="kube-system"),
    service("web", "10.32.0.20", HTTP, selector={"app": "web"}),
    service("plain", "10.32.0.21", ("", "TCP", 80)),
    service("new", "", HTTP),
    headless("db", HTTP, selector={"app": "db"}),
    endpoints("db", endpoint("10.200.0.7", hostname="db-0", pod="db-0"), endpoint("10.200.0.8", pod="db-x"),
              endpoint("10.200.0.9", hostname="db-9", ready=False, pod="db-9"), ports=(HTTP,)),
    headless("late", selector={"app": "late"}), endpoints("late", endpoint("10.200.0.9", ready=False, pod="db-9")),
    headless("nobody", selector={"app": "none", "tier": "x"}), headless("bare"),
    external("ext", "www.example.com"), external("bad", "10.0.0.1"), external("near", f"web.demo.{Z}"),
    a_pod("db-9", ready="False"), a_pod("probe", "shop", "10.200.1.1", labels={"app": "p"}),
]  # fmt: skip


def view_of(*bodies: dict[str, Any]) -> View:
    view = View()
    for body in bodies:
        kind = {"Pod": kinds.POD, "Deployment": kinds.DEPLOYMENT}.get(body.get("kind", "")) or objects.kind_of(body)
        view.apply(kind, decode(kind, json.dumps(body)))
    return view


VIEW = view_of(*CLUSTER)
KNOWN = Names(VIEW, SETTINGS)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        (f"web.shop.{Z}.", "A", ["there is no Service web in Namespace shop", "a Service web is in demo: web.demo"]),
        (f"wep.demo.{Z}.", "A", ["there is no Service wep in Namespace demo; there is web"]),
        (f"web.shpo.{Z}.", "A", ["there is no Namespace shpo; there is shop"]),
        (f"web.{Z}.", "A", ["there is no Namespace web"]),
        (f"demo.{Z}.", "A", ["the name of a Namespace"]),
        (f"db-9.demo.{Z}.", "A", ["demo/db-9 is a Pod"]),
        (f"late.demo.{Z}.", "A", ["demo/late has no ready endpoint; not ready: Pod db-9 (ContainersNotReady)", "publishNotReadyAddresses"]),
        (f"nobody.demo.{Z}.", "A", ["no Pod that runs has the labels app=none,tier=x"]),
        (f"bare.demo.{Z}.", "A", ["no endpoints, and no selector"]),
        (f"web.demo.{Z}.", "AAAA", ["has IPv4 addresses only"]),
        (f"db.demo.{Z}.", "AAAA", ["has IPv4 addresses only"]),
        (f"web.demo.{Z}.", "SRV", ["SRV records are at _PORT._PROTOCOL.SERVICE"]),
        (f"new.demo.{Z}.", "A", ["has no clusterIP yet"]),
        (f"_http._tcp.plain.demo.{Z}.", "SRV", ["no port of Service demo/plain has a name"]),
        (f"_https._tcp.web.demo.{Z}.", "SRV", ["has the named ports _http._tcp"]),
        (f"_http._tcp.web.demo.{Z}.", "A", ["a port has an SRV record"]),
        (f"web-0.web.demo.{Z}.", "A", ["for headless Services only"]),
        (f"db-9.db.demo.{Z}.", "A", ["db-9 is not ready: Pod db-9 (ContainersNotReady)"]),
        (f"db-x.db.demo.{Z}.", "A", ["Pod db-x is an endpoint, but has no spec.hostname with spec.subdomain: db; its name is 10-200-0-8"]),
        (f"db-7.db.demo.{Z}.", "A", ["no ready endpoint db-7; it has 10-200-0-8, db-0"]),
        (f"db-0.db.demo.{Z}.", "AAAA", ["endpoint db-0 has no AAAA record"]),
        (f"bad.demo.{Z}.", "A", ["10.0.0.1", "is an address"]),
        (f"x.ext.demo.{Z}.", "A", ["nothing below its name"]),
        ("web.cluster.local.", "A", [f"Services are SERVICE.NAMESPACE.{Z}."]),
        ("10-0-0-1.nope.pod.cluster.local.", "A", ["there is no Namespace nope"]),
        ("web.demo.pod.cluster.local.", "A", ["no address with dashes"]),
        ("10-0-0-1.demo.pod.cluster.local.", "AAAA", ["10.0.0.1 is an IPv4 address"]),
        ("demo.pod.cluster.local.", "A", ["begin with an address"]),
        (f"{'x' * 64}.demo.{Z}.", "A", ["longer than DNS allows"]),
    ],
)  # fmt: skip
def test_why_nothing_answers(name: str, kind: str, words: list[str]) -> None:
    assert KNOWN.ask(name, kind).code in ("NXDOMAIN", "NODATA")
    said = "\n".join(absence.why(KNOWN, name, kind))
    assert all(each in said for each in words), said


def of(name: str, *types: str, settings: DnsSettings = SETTINGS, pod: str = "shop/probe", view: View = VIEW, known: bool = True) -> explain.Explanation:  # fmt: skip
    asker = view.pods[Key(*pod.split("/"))]
    conf = resolv_conf.of_pod(asker, "10.32.0.10", "search lab.example\n")
    return explain.explain(name, types, asker, conf, Names(view, settings, upstreams_known=known), deployed.behind(view, settings))  # fmt: skip


def test_the_search_list_and_its_cost() -> None:
    found = of("web.demo")
    assert [query.name for query in found.queries] == [f"web.demo.shop.{Z}.", f"web.demo.{Z}."]
    ((_, a), (_, aaaa)) = found.queries[-1].replies
    assert (a.code, a.data, a.rule, aaaa.code) == ("NOERROR", ("A 10.32.0.20",), "2.3.1", "NODATA")
    assert a.causes == ("Service demo/web spec.clusterIPs: 10.32.0.20",)
    assert (found.code, found.cost) == ("NOERROR", 4)
    assert list(explain.advice(found)) == [f"web.demo.{Z}. with the dot at the end: 2 in place of 4"]
    long = of(f"web.demo.{Z}")
    assert (long.cost, long.shorter) == (10, (("web.demo", 4), ("web.demo.svc", 6)))
    assert any("ndots: 4" in line for line in explain.advice(long))
    dotted = of(f"web.demo.{Z}.")
    assert (dotted.cost, list(explain.advice(dotted))) == (2, [])


@pytest.mark.parametrize(
    ("name", "kind", "rule", "cause"),
    [
        (f"_http._tcp.web.demo.{Z}.", "SRV", "2.3.2", "spec.ports[http].port: 80"),
        ("10.32.0.20", "", "2.3.3", "Service demo/web"),
        (f"db.demo.{Z}.", "A", "2.4.1", "Service demo/db, EndpointSlice db-ipv4: 10.200.0.7 (Pod db-0)"),
        (f"db-0.db.demo.{Z}.", "A", "2.4.1", "EndpointSlice db-ipv4: 10.200.0.7 (Pod db-0)"),
        (f"_http._tcp.db.demo.{Z}.", "SRV", "2.4.2", "EndpointSlice db-ipv4: 10.200.0.8 (Pod db-x)"),
        ("10.200.0.7", "PTR", "2.4.3", "EndpointSlice db-ipv4: 10.200.0.7 (Pod db-0)"),
        (f"near.demo.{Z}.", "A", "2.5 2.3.1", f"Service demo/near spec.externalName: web.demo.{Z}"),
        ("dns-version.cluster.local.", "TXT", "2.2", "the cluster itself"),
        ("10-200-0-7.demo.pod.cluster.local.", "A", "pods insecure", "Namespace demo exists"),
    ],
)
def test_rules_and_objects(name: str, kind: str, rule: str, cause: str) -> None:
    found = of(name, *([kind] if kind else []))
    ((_, reply),) = found.queries[-1].replies
    assert (found.code, reply.rule) == ("NOERROR", rule)
    assert any(cause in each for each in reply.causes), reply.causes
    if rule.startswith("2.4"):
        assert len(reply.causes) == len(reply.data)  # each endpoint stands with its own records


def test_who_is_asked_for_other_names() -> None:
    out = of("www.example.com.")
    assert out.code == "FORWARDED" and out.queries[0].replies[0][1].servers == SETTINGS.upstreams
    assert of("a.corp.example.").queries[0].replies[0][1].servers == (Server("192.0.2.90"),)
    assert of("www.example.com.", known=False).queries[0].replies[0][1].servers is None
    assert of("www.example.com.", settings=DnsSettings()).code == "REFUSED"
    assert of(f"ext.demo.{Z}.").queries[0].replies[0][1].data == ("CNAME www.example.com.",)
    assert of("10.9.9.9").code == "FORWARDED" and of("10.9.9.9", settings=DnsSettings()).code == "NXDOMAIN"
    lone = of(
        "nope", settings=DnsSettings()
    )  # the node's search domain is refused, which ends the search; the name as it is follows
    assert [query.name for query in lone.queries][-2:] == ["nope.lab.example.", "nope."]
    for name in ("nope", "nope.demo", "nope.demo.svc", "db-7.db"):
        (line,) = explain.advice(of(name, pod="demo/db-9"))
        assert "looks like one of the cluster" in line


def test_files_of_the_pod_come_before_dns() -> None:
    view = view_of(*CLUSTER, a_pod("aliased", "shop", "10.200.1.2", hostname="h", subdomain="db", hostAliases=[{"ip": "192.0.2.7", "hostnames": ["old", "older.example"]}]))  # fmt: skip
    for name, line in (
        ("localhost", "127.0.0.1"),
        ("older.example", "192.0.2.7"),
        ("h", "10.200.1.2"),
        (f"h.db.shop.{Z}", "10.200.1.2"),
    ):
        found = of(name, pod="shop/aliased", view=view)
        assert found.hosts.startswith(line) and not found.queries and found.code == "NOERROR"
    assert of("h", "A", pod="shop/aliased", view=view).queries  # dig asks DNS


def test_pods_that_ask_others() -> None:
    view = view_of(*CLUSTER, a_pod("out", "shop", dnsPolicy="None", dnsConfig={"nameservers": ["192.0.2.1"]}))
    found = of("web.demo", pod="shop/out", view=view)
    assert (found.ours, found.code, found.asked) == (False, "UNKNOWN", "192.0.2.1")
    none = view_of(*CLUSTER, a_pod("mute", "shop", dnsPolicy="None"))
    assert of("web.demo", pod="shop/mute", view=none).asked == "127.0.0.1"


def text_of_node(node: str) -> str | None:
    return "nameserver 192.0.2.77\n"


@pytest.mark.parametrize(
    ("deployment", "known", "upstreams", "words"),
    [
        (a_deployment("glassnet", "dns", "serve", args=("--upstream", "192.0.2.53", "--upstream=192.0.2.54:5353")), True,
         (Server("192.0.2.53"), Server("192.0.2.54", 5353)), ""),
        (a_deployment("glassnet", args=("dns", "serve", "--resolv-conf=")), True, (), ""),
        (a_deployment("glassnet", "dns", "serve", env={"GLASSNET_DNS_UPSTREAM": "192.0.2.1 192.0.2.2"}), True, (Server("192.0.2.1"), Server("192.0.2.2")), ""),
        (a_deployment("glassnet", "dns", "serve", env={"GLASSNET_DNS_UPSTREAM": "(left out)"}), False, (), "not in the snapshot"),
        (a_deployment("glassnet", "dns", "serve", "--upstream", "nonsense"), False, (), "cannot be read"),
        (a_deployment("glassnet", "dns", "serve", "--ttl", "x"), False, (), "cannot be read"),
        (a_deployment("glassnet", "dns", "serve"), False, (), "has no --upstream"),
        (a_deployment("coredns", "-conf", "/etc/coredns/Corefile"), False, (), "no Deployment runs"),
    ],
)  # fmt: skip
def test_the_servers_flags_are_found(deployment: dict[str, Any], known: bool, upstreams: tuple[Server, ...], words: str) -> None:  # fmt: skip
    found = deployed.find(view_of(*CLUSTER, deployment))
    assert (found.upstreams_known, found.settings.upstreams) == (known, upstreams)
    assert words in " ".join(found.notes) and bool(found.notes) == bool(words)


def test_the_upstreams_of_its_pods_resolv_conf() -> None:
    view = view_of(*CLUSTER, a_deployment("glassnet", "dns", "serve", "--stub-domain", "corp.example=192.0.2.9"), a_pod("dns-1", "kube-system", labels={"app": "dns"}, dnsPolicy="Default"))  # fmt: skip
    found = deployed.find(view, text_of_node)
    assert found.upstreams_known and found.settings.upstreams == (Server("192.0.2.77"),)
    assert found.settings.stubs[0].servers == (Server("192.0.2.9"),)


def test_the_service_in_front() -> None:
    assert deployed.front(VIEW, "10.32.0.10", frozenset()).what == "Service kube-system/kube-dns, 1 ready endpoint"
    assert "no port 53/UDP" in deployed.front(VIEW, "10.32.0.20", frozenset()).problem
    assert "no Service has the address 10.32.0.66" in deployed.front(VIEW, "10.32.0.66", frozenset({"10.32.0.66"})).problem  # fmt: skip
    assert not deployed.front(VIEW, "192.0.2.1", frozenset()).problem
    late = view_of(service("kube-dns", "10.32.0.10", DNS_UDP, namespace="kube-system"), a_pod("dns-1", "kube-system", "10.200.9.9"),
                   endpoints("kube-dns", endpoint("10.200.9.9", ready=False), namespace="kube-system"))  # fmt: skip
    assert "Pod dns-1 is not ready" in deployed.front(late, "10.32.0.10", frozenset()).problem


# -- the command


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> str:
    file: Path = tmp_path_factory.mktemp("dns") / "cluster.json"
    kept: dict[str, list[dict[str, Any]]] = {}
    for body in CLUSTER:
        kind = kinds.POD if body.get("kind") == "Pod" else objects.kind_of(body)
        kept.setdefault(kind.plural, []).append({"apiVersion": kind.api_version, "kind": kind.name, **body})
    items = [item for group in kept.values() for item in group]
    file.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": items}))
    return str(file)


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(root, ["dns", "explain", *words])
    return done.exit_code, done.output


def test_the_command_on_a_snapshot(snapshot: str) -> None:
    status, text = run("web.demo", "--from", "shop/probe", "--snapshot", snapshot)
    assert status == 0, text
    lines = text.splitlines()
    assert lines[0] == "web.demo from shop/probe: 10.32.0.20"
    assert (
        lines[1]
        == f"resolver  10.32.0.10 (Service kube-system/kube-dns, 1 ready endpoint), ndots 5, search shop.{Z} {Z} cluster.local"
    )
    assert "          why: there is no Service demo in Namespace shop" in lines
    assert "cost      4 queries" in lines
    status, text = run("nope.demo.svc.cluster.local.", "--from", "shop/probe", "--snapshot", snapshot, "-o", "json")
    body = json.loads(text)
    assert status == 1 and body["outcome"] == "NXDOMAIN" and body["cost"] == 2 and body["notes"]
    assert run("www.example.com", "--from", "shop/probe", "--snapshot", snapshot)[0] == 3
    status, text = run("web", "--from", "shop/probe", "--snapshot", snapshot, "--cluster-dns", "10.32.0.66")
    assert status == 1 and "no Service has the address 10.32.0.66" in text and "glassnet trace shop/probe 10.32.0.66:53 --proto udp" in text  # fmt: skip


def test_real_files_are_taken(snapshot: str, tmp_path: Path) -> None:
    (tmp_path / "pod").write_text("search demo.svc.cluster.local\nnameserver 10.32.0.10\noptions ndots:1\n")
    status, text = run("web", "--from", "shop/probe", "--snapshot", snapshot, "--resolv-conf", str(tmp_path / "pod"))
    assert status == 0 and "cost      2 queries" in text
    (tmp_path / "node").write_text("search lab.example\n")
    text = run("nope", "--from", "shop/probe", "--snapshot", snapshot, "--node-resolv-conf", str(tmp_path / "node"))[1]
    assert "nope.lab.example." in text and "taken for empty" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("", "--from", "shop/probe"), "is no name"),
        (("a..b", "--from", "shop/probe"), "is no name"),
        (("grüße", "--from", "shop/probe"), "xn--"),
        (("web", "--from", "probe"), "there is no Pod default/probe; there is shop/probe"),
        (("web", "--from", "shop/prob"), "there is shop/probe"),
        (("web", "--from", "shop/probe", "--cluster-dns", "10.0.0.300"), "want addresses"),
    ],
)
def test_bad_input(snapshot: str, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(GlassnetError, match=message):
        CliRunner().invoke(root, ["dns", "explain", *words, "--snapshot", snapshot], catch_exceptions=False)
