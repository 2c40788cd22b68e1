"""The headers a request gets on its way to an endpoint: those ingress-nginx gives it.

What a client says of addresses is believed only of a trusted one (`Settings.trusted`); the variables are made by `defaults`.
"""

from __future__ import annotations

HOST = "$glassnet_host"
"""The host of the request with its port: that of the request line, should the header Host say another (RFC 9112, 3.2.2)."""
SCHEME = "$glassnet_scheme"
PORT = "$glassnet_port"
REQUEST_ID = "$glassnet_request_id"

GRPC: dict[str, str] = {
    "Host": HOST,
    "X-Request-ID": REQUEST_ID,
    "X-Real-IP": "$remote_addr",
    "X-Forwarded-For": "$remote_addr",
    "X-Forwarded-Host": HOST,
    "X-Forwarded-Port": PORT,
    "X-Forwarded-Proto": SCHEME,
    "X-Forwarded-Scheme": SCHEME,
    "X-Scheme": SCHEME,
    "X-Original-Forwarded-For": "$http_x_forwarded_for",
    "Proxy": "",  # CVE-2016-5385: programs take it for the variable HTTP_PROXY
}
"""Without Connection and Upgrade, which HTTP/2 does not have."""
PROXY: dict[str, str] = {**GRPC, "Upgrade": "$http_upgrade", "Connection": "$glassnet_connection"}
