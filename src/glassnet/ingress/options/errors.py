"""custom-http-errors and default-backend: another Service answers in place of an endpoint that fails."""

from __future__ import annotations

from typing import NamedTuple

from glassnet.ingress.headers import HOST, REQUEST_ID
from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import Reader
from glassnet.ingress.options.variables import key
from glassnet.ingress.syntax import Directive, block, directive, value

NAME = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"


class Errors(NamedTuple):
    """`codes` are statuses that the Service `backend` answers instead; it answers 503 too where a path has no endpoints."""

    codes: tuple[int, ...] = ()
    backend: str = ""


def read(annotations: Reader) -> Errors:
    """The family's annotations."""
    codes = annotations.words("custom-http-errors", r"[45][0-9][0-9]", "give statuses from 400 to 599, in commas")
    return Errors(
        tuple(int(each) for each in codes if int(each) != 499),
        annotations.match("default-backend", NAME, "give the name of a Service of the Ingress' namespace"),
    )


def spell(errors: Errors, draft: Draft, module: str, signin: bool) -> None:
    """A named location for each status. `signin`: 401 is taken already."""
    if not errors.codes:
        return
    place = draft.place
    if place.errors is None:
        return  # nobody to ask: the endpoints' own answers are sent
    draft.location.append(directive(f"{module}_intercept_errors", "on"))
    for code in errors.codes:
        if code == 401 and signin:
            continue
        name = f"@error_{code}_{key(*_names(draft), place.errors.upstream)}"
        draft.internal.append(block("location", name, of=answer(draft, code)))
        draft.location.append(directive("error_page", code, "=", name))


def _names(draft: Draft) -> tuple[str, str, str, str]:
    return draft.place.namespace, draft.place.ingress, draft.place.service, draft.place.port


def answer(draft: Draft, code: int) -> list[Directive]:
    """The default backend asked for a page: it learns by headers what has failed, and its status is the answer's."""
    place = draft.place
    assert place.errors is not None
    headers = {
        "X-Code": str(code),
        "X-Format": "$http_accept",
        "X-Original-URI": "$request_uri",
        "X-Namespace": value(place.namespace),
        "X-Ingress-Name": value(place.ingress),
        "X-Service-Name": value(place.service),
        "X-Service-Port": value(place.port),
        "X-Request-ID": REQUEST_ID,
        "Host": HOST,
        "Connection": "",
    }
    return [
        directive("rewrite", "^", "/", "break"),
        directive("proxy_intercept_errors", "off"),
        directive("proxy_pass_request_body", "off"),
        *(directive("proxy_set_header", header, text) for header, text in {**headers, "Content-Length": ""}.items()),
        directive("proxy_pass", f"http://{place.errors.upstream}"),
    ]
