"""Annotations that are not carried out: snippets never, others not yet or not by stock NGINX. Each is told."""

from __future__ import annotations

import re

from glassnet.ingress.options.reading import PREFIX, REFUSED, UNKNOWN, UNSUPPORTED, Complaint, Reader

SNIPPETS = ("server-snippet", "configuration-snippet", "stream-snippet", "auth-snippet", "modsecurity-snippet")
_LOCKS = re.compile(r"\b(?:deny|allow|auth_\w+|satisfy|internal|return|if|limit_\w+|valid_referers|secure_link\w*|\w+_by_lua\w*)\b")  # fmt: skip

UNSUPPORTED_NAMES = {
    "auth-cache-duration": "answers of auth-url are not kept: each request is asked",
    "auth-cache-key": "answers of auth-url are not kept: each request is asked",
    "auth-keepalive": "each question to auth-url has a connection of its own",
    "auth-keepalive-requests": "each question to auth-url has a connection of its own",
    "auth-keepalive-share-vars": "each question to auth-url has a connection of its own",
    "auth-keepalive-timeout": "each question to auth-url has a connection of its own",
    "custom-headers-allowed": "headers of custom-headers need no list of permitted ones",
    "disable-proxy-intercept-errors": "leave out custom-http-errors instead",
    "enable-access-log": "every request is logged",
    "enable-global-auth": "there is no authentication for all Ingresses",
    "enable-modsecurity": "there is no web application firewall in stock NGINX",
    "enable-opentelemetry": "there is no tracing in stock NGINX",
    "enable-opentracing": "there is no tracing in stock NGINX",
    "enable-owasp-core-rules": "there is no web application firewall in stock NGINX",
    "enable-rewrite-log": "rewrites are shown by glassnet ingress explain",
    "ewma": "endpoints are taken in turn",
    "http2-push-preload": "browsers know no push any more",
    "load-balance": "endpoints are taken in turn",
    "mirror-host": "requests are not mirrored",
    "mirror-request-body": "requests are not mirrored",
    "mirror-target": "requests are not mirrored",
    "modsecurity-transaction-id": "there is no web application firewall in stock NGINX",
    "opentelemetry-operation-name": "there is no tracing in stock NGINX",
    "opentelemetry-trust-incoming-span": "there is no tracing in stock NGINX",
    "preserve-trailing-slash": "a redirect keeps the whole URI",
    "proxy-cookie-domain": "cookies of endpoints stay as they are",
    "proxy-cookie-path": "cookies of endpoints stay as they are",
    "service-upstream": "requests go to endpoints, not to the Service's address",
    "ssl-ciphers": "ciphers are the controller's",
    "ssl-prefer-server-ciphers": "ciphers are the controller's",
    "upstream-hash-by": "endpoints are taken in turn; affinity: cookie keeps a client at one",
    "upstream-hash-by-subset": "endpoints are taken in turn",
    "upstream-hash-by-subset-size": "endpoints are taken in turn",
}
"""Known to ingress-nginx, not here; what happens instead."""
LOCKS = {
    "auth-tls-secret": "clients' certificates are not checked",
    "auth-tls-verify-client": "clients' certificates are not checked",
    "auth-tls-match-cn": "clients' certificates are not checked",
    "enable-owasp-modsecurity-crs": "there is no web application firewall in stock NGINX",
}
"""Such as restrict who may come in: without them the Ingress answers 503."""
_QUIET = {
    "auth-tls-verify-depth": "",
    "auth-tls-error-page": "",
    "auth-tls-pass-certificate-to-upstream": "",
}


def read(annotations: Reader) -> None:
    """Complains of all that no family asked for. Call it last."""
    for name in SNIPPETS:
        if text := annotations.raw(name):
            _snippet(annotations, name, text)
    for name in annotations.unasked():
        text = annotations.raw(name)
        if name in LOCKS:
            closes = text not in ("off", "false", "")
            end = "; until it is taken away the Ingress answers 503" if closes else ""
            annotations.complaints.append(
                Complaint(UNSUPPORTED, f"{PREFIX}{name} is not supported: {LOCKS[name]}{end}")
            )
            if closes:
                annotations.denied = annotations.denied or f"{PREFIX}{name} is not supported"
        elif name in UNSUPPORTED_NAMES:
            annotations.complaints.append(Complaint(UNSUPPORTED, f"{PREFIX}{name} is not supported: {UNSUPPORTED_NAMES[name]}"))  # fmt: skip
        elif name not in _QUIET:
            shown = name if len(name) <= 60 else name[:57] + "..."
            annotations.complaints.append(Complaint(UNKNOWN, f"{PREFIX}{shown} is not known, and left out"))


def locks(text: str) -> str:
    """The first directive of a snippet that restricts access, or "" without one."""
    found = _LOCKS.search(re.sub(r"#[^\n]*", "", text))
    return found[0] if found else ""


def _snippet(annotations: Reader, name: str, text: str) -> None:
    end = "the Ingress is served without it"
    if lock := locks(text):
        end = f"since it restricts access ({lock}), the Ingress answers 503 until it is taken away"
        annotations.denied = annotations.denied or f"{PREFIX}{name} is refused"
    annotations.complaints.append(Complaint(REFUSED, f"{PREFIX}{name}: text of a user never becomes configuration; {end}"))  # fmt: skip
