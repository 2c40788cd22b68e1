"""`glassnet ingress explain`: which server, rule, Service and endpoints a URL leads to, and whose address each of them sees."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from glassnet.cli.worlds import asked_kubeconfig, load_world, snapshot_options
from glassnet.net.errors import UsageError

if TYPE_CHECKING:
    from glassnet.agent.ingress.explained import Answer, Question
    from glassnet.ingress.model import Settings

EPILOG = """
\b
The objects are those of the running lab, of --kubeconfig, or of --snapshot (which has no Secrets: certificates are not known then).
With a lab or a snapshot the addresses are traced; with --kubeconfig the command that shows them is named.
\b
Exit status: 0 an endpoint gets the request, or NGINX redirects; 1 NGINX refuses it (404, 503, …).
\b
Examples:
  glassnet ingress explain http://shop.example/cart
  glassnet ingress explain https://shop.example/cart --from probe --header 'X-Canary: always'
  glassnet ingress explain http://shop.example/ --from internet -o json
  glassnet ingress explain http://shop.example/ --kubeconfig ~/.kube/config --through glassnet-ingress/glassnet-ingress
"""


@click.command("explain", epilog=EPILOG, short_help="Say which rule and endpoints a URL leads to, and why.")
@click.argument("url", metavar="URL")
@click.option(
    "--from", "source", metavar="FROM", default="", help="Who asks: a pod, a node, a host, `internet`, or an address."
)
@click.option("--method", default="GET", show_default=True, help="The request's method.")
@click.option("--header", "headers", metavar="'NAME: VALUE'", multiple=True, help="A header of the request.")
@click.option("--cookie", "cookies", metavar="NAME=VALUE", multiple=True, help="A cookie of the request.")
@click.option("--sni", metavar="NAME", help="The name that TLS asks for; the URL's host without it.")
@click.option(
    "--through",
    metavar="NAMESPACE/NAME",
    default="",
    help="The Service in front of the controller; found by the Ingress's status without it.",
)
@click.option(
    "--controller",
    metavar="NAME",
    multiple=True,
    help="Whose IngressClasses are looked at; glassnet.dev/ingress and k8s.io/ingress-nginx without it.",
)
@click.option(
    "--ingress-class",
    metavar="NAME",
    default="nginx",
    show_default=True,
    help="Ours in the annotation kubernetes.io/ingress.class.",
)
@click.option("--watch-without-class", is_flag=True, help="Ingresses without a class are served, too.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the answer.")
@snapshot_options
def command(url: str, output: str, snapshot: str | None, lab: str | None, **given: Any) -> None:
    """Say what becomes of a request for URL: the certificate, the server, the location and the Ingress it comes from, the Service, its endpoints."""
    from glassnet.agent.ingress.explained import SETTINGS

    question = _question(url, given)
    settings = SETTINGS._replace(
        controllers=given["controller"] or SETTINGS.controllers, class_name=given["ingress_class"], watch_without_class=given["watch_without_class"]
    )  # fmt: skip
    answer = _answer(question, settings, snapshot, lab)
    body = _body(question, answer)
    if output == "json":
        click.echo(json.dumps(body, indent=2))
    else:
        _show(body)
    sys.exit(1 if answer.found.status >= 400 else 0)


def _question(url: str, given: dict[str, Any]) -> Question:
    """The request of the arguments. Raises UsageError."""
    from glassnet.agent.ingress.explained import Question
    from glassnet.ingress.explain import Request
    from glassnet.kube.view import Key

    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url}: it must begin with http://HOST or https://HOST")
    headers = dict(_pair("--header", text, ":") for text in given["headers"])
    cookies = dict(_pair("--cookie", text, "=") for text in given["cookies"])
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = headers.pop("host", parts.netloc.rpartition("@")[2])
    request = Request(parts.scheme, host, target, given["method"].upper(), headers, cookies, given["sni"])
    namespace, slash, name = given["through"].partition("/")
    if given["through"] and not (namespace and slash and name):
        raise UsageError(f"--through {given['through']}: it must be NAMESPACE/NAME")
    return Question(request, given["source"], Key(namespace, name) if slash else None)


def _pair(flag: str, text: str, separator: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name.strip():
        raise UsageError(f"{flag} {text!r}: it must be NAME{separator}VALUE")
    return (name.strip().lower(), value.strip()) if separator == ":" else (name.strip(), value)


def _answer(question: Question, settings: Settings, snapshot: str | None, lab: str | None) -> Answer:
    """From wherever the objects are. Raises GlassnetError."""
    import asyncio

    from glassnet.agent.ingress import explained
    from glassnet.client import kubeconfig as kubeconfigs
    from glassnet.client.rest import RestApi

    if snapshot is not None:
        world = load_world(snapshot, lab)
        return explained.answer(explained.view_of(world.objects), question, world, settings, secrets=False)

    async def read(path: str) -> Any:
        api = RestApi(kubeconfigs.load(path))
        try:
            return await explained.read(api, settings)
        finally:
            await api.close()

    if (path := asked_kubeconfig()) is not None:
        return explained.answer(asyncio.run(read(path)), question, None, settings)
    from glassnet.lab.state import running_lab

    view = asyncio.run(read(str(running_lab(lab).kubeconfig)))
    return explained.answer(view, question, load_world(None, lab), settings)


def _body(question: Question, answer: Answer) -> dict[str, Any]:
    """The answer as plain values."""
    found, request = answer.found, question.request
    location = found.location
    certificate = None
    if found.certificate is not None:
        certificate = found.certificate or (
            "not known: Secrets were not read" if answer.unread else "the default certificate"
        )
    return {
        "request": {"method": request.method, "url": f"{request.scheme}://{request.host}{request.target}"},
        "result": "endpoint" if found.status == 0 else "redirect" if found.to else "refused",
        "status": found.status,
        "redirect": found.to,
        "server": (found.server.host or "(all other hosts)") if found.server else "",
        "certificate": certificate,
        "location": {
            "type": str(location.type), "path": location.written or location.path, "ingress": str(location.source.ingress), "field": location.source.field,
            "service": str(location.backend),
        } if location else None,
        "matched": found.path,
        "sent": found.sent,
        "backends": [
            {
                "service": str(each.backend), "ingress": str(each.ingress), "share": round(each.share, 6), "why": each.why,
                "endpoints": [{"address": e.address, "port": e.port, "pod": e.pod, "node": e.node} for e in each.endpoints],
            }
            for each in found.choices
        ],
        "why": list(found.why),
        "passed_over": [{"path": f"{each.type} {each.written or each.path}", "ingress": str(each.source.ingress), "why": why} for each, why in found.others],
        "not_ours": list(answer.not_ours),
        "problems": list(answer.problems),
        "hops": [each._asdict() for each in answer.hops],
    }  # fmt: skip


def _show(body: dict[str, Any]) -> None:
    request = body["request"]
    outcome = {"endpoint": "an endpoint gets it", "redirect": f"{body['status']}, sent to {body['redirect']}", "refused": f"{body['status']}, by NGINX itself"}  # fmt: skip
    click.echo(f"{request['method']} {request['url']}: {outcome[body['result']]}")
    _line("server", body["server"])
    if body["certificate"] is not None:
        _line("certificate", body["certificate"])
    if location := body["location"]:
        _line("rule", f"Ingress {location['ingress']} {location['field']}: {location['type']} {location['path']} -> Service {location['service']}")  # fmt: skip
    for each in body["backends"]:
        share = "" if each["share"] == 1 else f", {each['share']:.0%} of such requests"
        _line("service", f"{each['service']}{share}{': ' + each['why'] if each['why'] else ''}")
        for end in each["endpoints"]:
            _line("endpoint", f"{end['address']}:{end['port']}{' pod ' + end['pod'] if end['pod'] else ''}{' on ' + end['node'] if end['node'] else ''}")  # fmt: skip
    if body["result"] == "endpoint":
        _line("sent as", body["sent"])
    for name, title in (("why", "because"), ("problems", "problem"), ("not_ours", "not served")):
        for text in body[name]:
            _line(title, text)
    for each in body["passed_over"]:
        _line("not", f"{each['path']} of Ingress {each['ingress']}: {each['why']}")
    for each in body["hops"]:
        _line("source", _hop(each))
    for text in dict.fromkeys(each["command"] for each in body["hops"] if each["command"]):
        _line("see", text)


def _hop(hop: dict[str, Any]) -> str:
    seen = f" sees {hop['seen']}" if hop["seen"] else ""
    return f"{hop['source']} -> {hop['to']}{seen}{' (' + hop['how'] + ')' if hop['how'] not in ('ok', 'delivered') else ''}"


def _line(title: str, text: str) -> None:
    click.echo(f"  {title:<11} {text}")
