"""proxy-body-size, proxy-buffering, proxy-buffer-size and their kin: how much is taken, and where it is kept.

Source of the bounds: nginx, src/http/modules/ngx_http_proxy_module.c (ngx_http_proxy_merge_loc_conf).
"""

from __future__ import annotations

from typing import NamedTuple

from glassnet.ingress.options.place import Draft
from glassnet.ingress.options.reading import Reader, octets
from glassnet.ingress.syntax import Directive, directive

_MOST = 4 << 20  # one buffer of one request


class Buffers(NamedTuple):
    """Sizes as NGINX writes them, "" where not given; `number` -1, flags None."""

    body: str = ""
    client: str = ""
    buffering: bool | None = None
    requests: bool | None = None
    size: str = ""
    number: int = -1
    busy: str = ""
    temporary: str = ""

    @property
    def one(self) -> int:
        """Octets of one buffer."""
        return octets(self.size or "4k")

    @property
    def slots(self) -> int:
        """How many buffers a request may have."""
        return self.number if self.number > 0 else 4


def read(annotations: Reader) -> Buffers:
    """The family's annotations."""
    found = Buffers(
        annotations.size("proxy-body-size", "kmg"),
        annotations.size("client-body-buffer-size", "km", 1, 64 << 20),
        _switch(annotations, "proxy-buffering"),
        _switch(annotations, "proxy-request-buffering"),
        annotations.size("proxy-buffer-size", "km", 512, _MOST),
        annotations.number("proxy-buffers-number", 2, 256),
        annotations.size("proxy-busy-buffers-size", "km", 512, 256 * _MOST),
        annotations.size("proxy-max-temp-file-size", "kmg"),
    )
    if found.busy and not found.one <= octets(found.busy) <= (found.slots - 1) * found.one:
        would = f"with {found.slots} buffers of {found.one} octets give {found.one} to {(found.slots - 1) * found.one}"
        annotations.complain("proxy-busy-buffers-size", would)
        found = found._replace(busy="")
    if found.temporary and 0 < octets(found.temporary) < found.one:
        annotations.complain("proxy-max-temp-file-size", f"give 0, or a buffer's {found.one} octets or more")
        found = found._replace(temporary="")
    return found


def _switch(annotations: Reader, name: str) -> bool | None:
    return {"": None, "on": True, "off": False}[annotations.choice(name, ("on", "off"))]


def defaults() -> list[Directive]:
    """What holds without annotations, for the http block."""
    return [
        directive("client_max_body_size", "1m"),
        directive("client_body_buffer_size", "8k"),
        directive("proxy_buffering", "off"),
        directive("proxy_request_buffering", "on"),
        directive("proxy_buffer_size", "4k"),
        directive("proxy_buffers", 4, "4k"),
        directive("proxy_max_temp_file_size", "1024m"),
        directive("grpc_buffer_size", "4k"),
    ]


def spell(buffers: Buffers, draft: Draft, module: str) -> None:
    """Only what differs from the defaults. A buffer's size is that of all: NGINX refuses some of the mixtures."""
    if buffers.body:
        draft.location.append(directive("client_max_body_size", buffers.body))
    if buffers.client:
        draft.location.append(directive("client_body_buffer_size", buffers.client))
    if module == "grpc":
        if buffers.size:
            draft.location.append(directive("grpc_buffer_size", buffers.size))
        return
    if buffers.buffering is not None:
        draft.location.append(directive("proxy_buffering", "on" if buffers.buffering else "off"))
    if buffers.requests is not None:
        draft.location.append(directive("proxy_request_buffering", "on" if buffers.requests else "off"))
    if buffers.size or buffers.number > 0 or buffers.busy:
        busy = buffers.busy or str(min(2, buffers.slots - 1) * buffers.one)
        draft.location.append(directive("proxy_buffer_size", buffers.size or "4k"))
        draft.location.append(directive("proxy_buffers", buffers.slots, buffers.size or "4k"))
        draft.location.append(directive("proxy_busy_buffers_size", busy))
    if buffers.temporary:
        draft.location.append(directive("proxy_max_temp_file_size", buffers.temporary))
