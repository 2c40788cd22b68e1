"""Servers that say who answered and what was asked: whoami, echo servers, and the stand-in for images nobody knows."""

from __future__ import annotations

import json

from glassnet.lab.pods.http_server import HttpApp, HttpConnection, Peer
from glassnet.lab.pods.http_wire import Request, Response, WireError, text
from glassnet.lab.pods.surroundings import Surroundings


class WhoamiApp(HttpApp):
    """traefik/whoami's /, /api, /bench and /health, as its README shows them."""

    __slots__ = ("_health", "_name", "_place")

    def __init__(self, place: Surroundings, name: str) -> None:
        self._place, self._name = place, name
        self._health = 200

    def answer(self, request: Request, connection: HttpConnection) -> Response:
        path = request.path
        if path == "/bench":
            return text("1")
        if path == "/health":
            return self._check(request)
        if path == "/api":
            return self._api(request, connection)
        lines = [f"Name: {self._name}"] if self._name else []
        lines += [f"Hostname: {self._place.pod.hostname}", f"IP: {connection.local.address}"]
        lines += [f"RemoteAddr: {connection.peer}", request.line]
        lines += [f"{name}: {value}" for name, value in request.fields]
        return text("\n".join(lines) + "\n")

    def _check(self, request: Request) -> Response:
        if request.method != "POST":
            return Response(status=self._health)
        code = request.body.decode("ascii", "replace").strip()
        if not (code.isdigit() and 200 <= int(code) <= 599):
            return text(f"{code!r} is no status code\n", 400)
        self._health = int(code)
        return Response()

    def _api(self, request: Request, connection: HttpConnection) -> Response:
        headers: dict[str, list[str]] = {}
        for name, value in request.fields:
            if name.lower() != "host":
                headers.setdefault(name, []).append(value)
        facts = {
            "hostname": self._place.pod.hostname,
            "ip": [connection.local.address],
            "headers": headers,
            "url": request.target,
            "host": request.header("host"),
            "method": request.method,
            "name": self._name,
            "remoteAddr": str(connection.peer),
        }
        body = json.dumps({key: value for key, value in facts.items() if value != ""})
        return Response(body.encode() + b"\n", type="application/json")


class EchoApp(HttpApp):
    """Who answered, who asked, what was asked, and its body."""

    __slots__ = ("_place",)

    def __init__(self, place: Surroundings) -> None:
        self._place = place

    def answer(self, request: Request, connection: HttpConnection) -> Response:
        pod, peer = self._place.pod, connection.peer
        lines = [f"Hostname: {pod.hostname}", "", "Pod Information:"]
        lines += [f"\tnode name:\t{pod.node}", f"\tpod name:\t{pod.name}", f"\tpod namespace:\t{pod.namespace}"]
        lines += [f"\tpod IP:\t{connection.local.address}", "", "Request Information:"]
        lines += [f"\tclient_address={peer.address}", f"\tmethod={request.method}", f"\treal path={request.target}"]
        lines += [f"\tquery={request.target.partition('?')[2]}", f"\trequest_version=1.{request.minor}", ""]
        lines += ["Request Headers:", *(f"\t{name.lower()}={value}" for name, value in request.fields), ""]
        lines += ["Request Body:", request.body.decode("utf-8", "replace") or "\t-no body in request-", ""]
        return text("\n".join(lines))


class StandInApp(HttpApp):
    """The same few lines for every request: who answered in whose place, and who asked. Every status is 200.

    A client that speaks something other than HTTP gets the lines bare.
    """

    __slots__ = ("_place",)

    def __init__(self, place: Surroundings) -> None:
        self._place = place

    def words(self, peer: Peer) -> str:
        """The lines, one fact each."""
        place, pod = self._place, self._place.pod
        return (
            f"pod: {pod.name}\nnamespace: {pod.namespace}\nnode: {pod.node}\ncontainer: {place.container}\n"
            f"image: {place.image} (glassnet stand-in)\nclient: {peer}\n"
        )

    def answer(self, request: Request, connection: HttpConnection) -> Response:
        return text(self.words(connection.peer))

    def answer_garbage(self, error: WireError, connection: HttpConnection) -> bytes | None:
        return self.words(connection.peer).encode() if error.status == 400 else None

    def answered(self, request: Request, response: Response, connection: HttpConnection) -> None:
        self._place.log(f"{connection.peer} {request.line} {response.status}")

    def datagram(self, data: bytes, peer: Peer) -> bytes:
        """The answer to a UDP datagram."""
        return self.words(peer).encode()
