"""`glassnet dns explain`: what becomes of a name that a pod looks up, and why."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glassnet.cli.main import lab_option
from glassnet.net.errors import UsageError

if TYPE_CHECKING:
    from glassnet.dns.resolv_conf import ResolvConf
    from glassnet.kube.types import Pod
    from glassnet.kube.view import View

EPILOG = """
\b
NAME is what an application would look up: web, web.demo, kubernetes.default.svc.cluster.local. (with the dot: as it is), 10.32.0.1.
Without --type it is looked up as getaddrinfo(3) of glibc does it: A and AAAA, through the search list. Nothing is sent.
\b
Exit status: 0 it has an answer, 1 it has none, 3 that is not known here (another server decides).
\b
Examples:
  glassnet dns explain web --from demo/probe
  glassnet dns explain web.demo.svc.cluster.local --from probe
  glassnet dns explain _http._tcp.db.demo.svc.cluster.local. --from demo/probe --type SRV
  glassnet dns explain www.example.com --from probe -o json
  glassnet dns explain 10.32.0.10 --from probe
  glassnet dns explain web --from demo/probe --kubeconfig ~/.kube/config --cluster-dns 10.96.0.10
  glassnet dns explain web --from demo/probe --snapshot dump.tar.gz
"""
_TYPES = ("A", "AAAA", "SRV", "PTR", "TXT", "CNAME", "MX", "NS")


@click.command("explain", epilog=EPILOG, short_help="Say what becomes of a name that a pod looks up, and why.")
@click.argument("name")
@click.option("--from", "source", required=True, metavar="[NAMESPACE/]POD", help="The pod that asks (namespace default when none is given).")  # fmt: skip
@click.option("--type", "kind", type=click.Choice(_TYPES, case_sensitive=False), help="Ask for records of this type alone.")  # fmt: skip
@click.option("--cluster-dns", metavar="ADDRESS,…", help="The kubelet's clusterDNS (default: the addresses of the Service before cluster DNS).")  # fmt: skip
@click.option("--resolv-conf", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="The pod's /etc/resolv.conf (default: composed as the kubelet does).")  # fmt: skip
@click.option("--node-resolv-conf", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="The resolv.conf of the pod's node (default: a lab's own; elsewhere taken for empty, and said).")  # fmt: skip
@click.option("--kubeconfig", metavar="FILE", help="Ask the cluster behind this file.")
@click.option("--snapshot", metavar="FILE", help="A snapshot, or a file of API objects.")
@lab_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the answer.")
def command(name: str, source: str, kind: str | None, cluster_dns: str | None, resolv_conf: str | None, node_resolv_conf: str | None, kubeconfig: str | None, snapshot: str | None, lab: str | None, output: str) -> None:  # fmt: skip
    """Say what becomes of a name that a pod looks up: every query in its order, its answer with the rule and the object, or why there is none."""
    from glassnet.cli import cluster_view
    from glassnet.dns import deployed, explain
    from glassnet.dns.lookup import Names
    from glassnet.kube import kinds

    _check(name)
    wanted = (kinds.NAMESPACE, kinds.SERVICE, kinds.ENDPOINT_SLICE, kinds.POD)
    useful = (kinds.DEPLOYMENT, kinds.DAEMON_SET, kinds.STATEFUL_SET)
    view, unread = cluster_view.load_view(wanted, useful, snapshot, lab, kubeconfig)
    pod = _pod(view, source)
    in_lab = not (snapshot or kubeconfig)

    def node_text(node: str) -> str | None:
        if node_resolv_conf:
            return _read(node_resolv_conf)
        return cluster_view.node_file(lab, node, "/etc/resolv.conf") if in_lab else None

    cluster = deployed.find(view, node_text)
    conf = _conf(pod, cluster, view, resolv_conf, cluster_dns, node_text(pod.spec.node_name))
    known = Names(view, cluster.settings, upstreams_known=cluster.upstreams_known)
    ours = deployed.behind(view, cluster.settings) | _addresses(cluster_dns)
    found = explain.explain(name, (kind,) if kind else (), pod, conf, known, ours)
    front = deployed.front(view, found.asked, _addresses(cluster_dns))
    notes = [*unread, *conf.problems, *cluster.notes]
    if not resolv_conf and node_text(pod.spec.node_name) is None:
        notes.append("the resolv.conf of the pod's node is not known and taken for empty: its search domains would come last (--node-resolv-conf FILE)")  # fmt: skip
    if not deployed.own_addresses(view, cluster.settings):
        notes.append(f"there is no Service {cluster.settings.own_service} with a ClusterIP before cluster DNS")
    if output == "json":
        body = explain.report(found) | {"dns": cluster.where, "front": front._asdict(), "notes": notes}
        click.echo(json.dumps(body, indent=2))
    else:
        from glassnet.cli.show_dns import show

        show(found, front, notes)
    sys.exit(1 if front.problem else {"NOERROR": 0, "FORWARDED": 3, "UNKNOWN": 3}.get(found.code, 1))


def _check(name: str) -> None:
    """Raise UsageError for what no resolver would take for a name."""
    if not name or name.isspace() or any(not label for label in name.removesuffix(".").split(".")) or not name.isascii() or any(each <= " " for each in name):  # fmt: skip
        raise UsageError(f"{name!r} is no name: labels of ASCII characters with dots between, such as web.demo or example.com (xn--… for others)")  # fmt: skip


def _addresses(text: str | None) -> frozenset[str]:
    """The addresses of --cluster-dns. Raises UsageError."""
    from glassnet.net import address

    found = [address.canonical(each.strip()) for each in text.split(",")] if text else []
    if not all(found):
        raise UsageError(f"--cluster-dns {text!r}: want addresses with commas between, such as 10.96.0.10")
    return frozenset(found)


def _pod(view: View, source: str) -> Pod:
    """The pod that asks. Raises UsageError."""
    import difflib

    from glassnet.kube.view import Key

    namespace, slash, name = source.partition("/")
    key = Key(namespace, name) if slash else Key("default", source)
    found = view.pods.get(key)
    if found is None:
        elsewhere = [str(other) for other in view.pods if other.name == key.name]
        close = elsewhere or difflib.get_close_matches(str(key), map(str, view.pods), n=3, cutoff=0.5)
        hint = f"; there is {', '.join(sorted(close))}" if close else "; `kubectl get pods -A` lists them"
        raise UsageError(f"--from {source}: there is no Pod {key}{hint}")
    return found


def _conf(pod: Pod, cluster: Any, view: View, real: str | None, cluster_dns: str | None, node_text: str | None) -> ResolvConf:  # fmt: skip
    from glassnet.dns import deployed, resolv_conf

    if real:
        return resolv_conf.parse(_read(real))
    addresses = cluster_dns or ",".join(deployed.own_addresses(view, cluster.settings))
    return resolv_conf.of_pod(pod, addresses, node_text or "", cluster.settings.domain)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
