"""What a user of ingress-nginx finds otherwise here: by annotation, and by key of that controller's ConfigMap."""

from __future__ import annotations

from collections.abc import Mapping

ANNOTATIONS: Mapping[str, str] = {
    "affinity": "the cookie names the endpoint that has answered, and leads to it as long as it lives; ingress-nginx may move clients when endpoints come",
    "affinity-mode": "both modes keep a client at its endpoint while that lives",
    "auth-always-set-cookie": "only the first Set-Cookie of the authentication server's answer is passed on",
    "auth-response-headers": "a header that the client sent and the authentication server did not is taken away",
    "auth-secret": "only a Secret of the Ingress' own namespace is read",
    "auth-signin": "variables are those of a list; a part of the URI with more than 8 of &, + or %2 is not escaped to its end",
    "auth-url": "asked for each request, nothing is kept; names are looked up without search domains",
    "canary-by-cookie": "the cookie's name is compared with case",
    "canary-by-header-pattern": "no named groups and references",
    "cors-allow-origin": "headers of the endpoint's own CORS are taken away, also for origins that are not allowed; OPTIONS without Origin goes to the endpoint",
    "custom-headers": "only a ConfigMap of the Ingress' own namespace is read; no list of permitted headers is needed",
    "default-backend": "its errors and those of custom-http-errors come with the status that it answers",
    "enable-cors": "headers of the endpoint's own CORS are taken away; OPTIONS without Origin goes to the endpoint",
    "limit-connections": "counted by each replica of the controller",
    "limit-rpm": "counted by each replica of the controller",
    "limit-rps": "counted by each replica of the controller",
    "permanent-redirect": "variables are those of a list, every other dollar sign stays",
    "proxy-redirect-from": "default changes nothing",
    "proxy-ssl-secret": "only a Secret of the Ingress' own namespace is read",
    "rewrite-target": "only paths of type ImplementationSpecific are regular expressions, they know case, and other paths of the host are what they were; only $1 to $9 are variables",
    "server-alias": "hosts and wildcards for one label, no regular expressions",
    "session-cookie-expires": "sent as Max-Age, which goes before Expires in all browsers",
    "ssl-passthrough": "needs NGINX's stream module (Debian: libnginx-mod-stream)",
    "temporal-redirect": "variables are those of a list, every other dollar sign stays",
    "upstream-vhost": "variables are those of a list, every other dollar sign stays",
    "use-regex": "only paths of type ImplementationSpecific are regular expressions, they know case, and other paths of the host are what they were",
}  # fmt: skip
"""Annotations that are carried out, with a difference."""

SAME = "it is so here"
CONFIG: Mapping[str, str] = {
    "annotations-risk-level": "annotations are checked one by one; there are no levels",
    "allow-cross-namespace-resources": "Secrets and ConfigMaps of other namespaces are never read",
    "compute-full-forwarded-for": "X-Forwarded-For is the client's address alone",
    "enable-real-ip": "name the trusted proxies instead (--trusted)",
    "forwarded-for-header": "X-Forwarded-For is read, from trusted proxies",
    "global-allowed-response-headers": "custom-headers needs no list of permitted headers",
    "hsts": "Strict-Transport-Security is not sent by itself: give it with custom-headers",
    "hsts-include-subdomains": "Strict-Transport-Security is not sent by itself: give it with custom-headers",
    "hsts-max-age": "Strict-Transport-Security is not sent by itself: give it with custom-headers",
    "proxy-real-ip-cidr": "name the trusted proxies instead (--trusted)",
    "use-forwarded-headers": "X-Forwarded-* of trusted proxies are believed: name them (--trusted)",
    "use-http2": SAME,
    "use-proxy-protocol": "ask for it instead (--proxy-protocol)",
    "worker-processes": "one for each processor, or as told",
    "worker-shutdown-timeout": SAME,
}  # fmt: skip
"""Keys of the controller's ConfigMap, and what is to be done about them."""

CONFIG_LOCKS: Mapping[str, str] = {
    "block-cidrs": "clients that were kept out come in: use denylist-source-range of each Ingress",
    "block-referers": "clients that were kept out come in",
    "block-user-agents": "clients that were kept out come in",
    "denylist-source-range": "clients that were kept out come in: use the annotation of each Ingress",
    "enable-modsecurity": "there is no web application firewall",
    "global-auth-signin": "there is no authentication for all: use auth-url and auth-signin of each Ingress",
    "global-auth-url": "there is no authentication for all: use auth-url of each Ingress",
    "global-rate-limit-memcached-host": "there are no limits over all replicas",
    "whitelist-source-range": "clients that were kept out come in: use the annotation of each Ingress",
}
"""Keys that keep somebody out."""

CONFIG_SNIPPETS = ("main-snippet", "http-snippet", "server-snippet", "location-snippet", "stream-snippet")
CONFIG_DEFAULTS: Mapping[str, str] = {
    "client-body-buffer-size": "8k",
    "force-ssl-redirect": "false",
    "http-redirect-code": "308",
    "proxy-body-size": "1m",
    "proxy-buffer-size": "4k",
    "proxy-buffering": "off",
    "proxy-buffers-number": "4",
    "proxy-connect-timeout": "5",
    "proxy-next-upstream": "error timeout",
    "proxy-read-timeout": "60",
    "proxy-request-buffering": "on",
    "proxy-send-timeout": "60",
    "ssl-redirect": "true",
}
"""Defaults for all Ingresses that have an annotation too: the same here, unless the ConfigMap says otherwise."""
