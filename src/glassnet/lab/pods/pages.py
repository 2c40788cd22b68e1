"""Web servers of pages: nginx, httpd, the AKS tutorial's page, and images that say one thing."""

from __future__ import annotations

import html
import mimetypes
import posixpath
from pathlib import Path

from glassnet.lab.pods.http_server import HttpApp, HttpConnection
from glassnet.lab.pods.http_wire import Request, Response, reason_phrase, text
from glassnet.lab.pods.surroundings import Surroundings

NGINX_SERVER = "nginx (glassnet built-in)"
HTTPD_SERVER = "Apache (glassnet built-in)"
MAX_FILE = 8 * 1024 * 1024
"""Larger files of a volume are not served (413 would be the client's fault; it is 500 with the reason)."""

NGINX_WELCOME = b"""<!DOCTYPE html>
<html>
<head><meta charset="utf-8"><title>Welcome to nginx!</title></head>
<body>
<h1>Welcome to nginx!</h1>
<p>A pod of this lab answers in the place of nginx. The network that brought you here is real;
the page is glassnet's own. Mount a volume at /usr/share/nginx/html to serve your files.</p>
</body>
</html>
"""
HTTPD_WELCOME = b"<html><body><h1>It works!</h1></body></html>\n"
_HTML = "text/html"


class SiteApp(HttpApp):
    """A static site: files of a volume mounted at the web root, one welcome page without a volume."""

    __slots__ = ("_place", "_root", "_server", "_welcome")

    def __init__(self, place: Surroundings, root: str, server: str, welcome: bytes) -> None:
        self._place, self._root, self._server, self._welcome = place, root, server, welcome

    def answer(self, request: Request, connection: HttpConnection) -> Response:
        status, body, kind, extra = self._content(request)
        return Response(body, status, kind, (("Server", self._server), *extra))

    def _content(self, request: Request) -> tuple[int, bytes, str, tuple[tuple[str, str], ...]]:
        if request.method not in ("GET", "HEAD"):
            return self._error(405)
        path = request.path
        if not path.startswith("/") or "\0" in path or _leaves_root(path):
            return self._error(400)
        inside = posixpath.normpath(path).lstrip("/")
        file = self._place.file(posixpath.join(self._root, inside)) if self._place.mounts else None
        if file is not None:
            return self._from_volume(request, path, file)
        if self._place.file(self._root) is None and inside in ("", "index.html"):
            return 200, self._welcome, _HTML, ()
        return self._error(404)

    def _from_volume(
        self, request: Request, path: str, file: Path
    ) -> tuple[int, bytes, str, tuple[tuple[str, str], ...]]:
        if file.is_dir():
            if not path.endswith("/"):
                target = f"http://{request.header('host') or 'localhost'}{path}/"
                return (*self._error(301)[:3], (("Location", target),))
            file = file / "index.html"
            if not file.exists():
                return self._error(403)
        try:
            if not file.is_file():
                return self._error(404)
            if file.stat().st_size > MAX_FILE:
                self._place.log(f"{file.name}: larger than the {MAX_FILE} bytes a built-in server serves", 2)
                return self._error(500)
            return 200, file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream", ()
        except PermissionError:
            return self._error(403)
        except OSError as error:
            self._place.log(f"{path}: {error}", 2)
            return self._error(404 if isinstance(error, FileNotFoundError) else 500)

    def _error(self, status: int) -> tuple[int, bytes, str, tuple[tuple[str, str], ...]]:
        title = f"{status} {reason_phrase(status)}"
        page = f"<html><head><title>{title}</title></head>\n<body><h1>{title}</h1><p>{self._server}</p></body></html>\n"
        return status, page.encode(), _HTML, ()

    def answered(self, request: Request, response: Response, connection: HttpConnection) -> None:
        """The access log of the nginx image: the combined format and the X-Forwarded-For field."""
        sent = 0 if request.method == "HEAD" else len(response.body)
        time = f"{self._place.clock():%d/%b/%Y:%H:%M:%S %z}"
        fields = (request.header(name) or "-" for name in ("referer", "user-agent", "x-forwarded-for"))
        quoted = " ".join(f'"{_escaped(field)}"' for field in fields)
        line = f'{connection.peer.address} - - [{time}] "{_escaped(request.line)}" {response.status} {sent} {quoted}'
        self._place.log(line)


def _leaves_root(path: str) -> bool:
    """True when `..` segments climb above the root."""
    depth = 0
    for segment in path.split("/"):
        depth += -1 if segment == ".." else 1 if segment not in ("", ".") else 0
        if depth < 0:
            return True
    return False


def _escaped(value: str) -> str:
    """As nginx escapes log variables: quotes, backslashes and bytes that are not printable as \\xXX."""
    return "".join(char if " " <= char <= "~" and char not in '"\\' else f"\\x{ord(char) & 0xFF:02X}" for char in value)


class AksApp(HttpApp):
    """One page with a title out of the environment."""

    __slots__ = ("_page",)

    def __init__(self, title: str) -> None:
        words = html.escape(title)
        page = f'<!DOCTYPE html>\n<html>\n<head><meta charset="utf-8"><title>{words}</title></head>\n'
        self._page = f"{page}<body>\n<h1>{words}</h1>\n<p>Served by glassnet in the place of aks-helloworld.</p>\n</body>\n</html>\n".encode()

    def answer(self, request: Request, connection: HttpConnection) -> Response:
        if request.path != "/":
            return text("404: no such page\n", 404)
        if request.method not in ("GET", "HEAD"):
            return text("405: GET this page\n", 405)
        return Response(self._page, type="text/html; charset=utf-8")


class TextApp(HttpApp):
    """The same text for every request."""

    __slots__ = ("_response",)

    def __init__(self, words: str) -> None:
        self._response = text(words)

    def answer(self, request: Request, connection: HttpConnection) -> Response:
        return self._response
