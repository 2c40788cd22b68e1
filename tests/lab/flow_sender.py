"""Sends flows from one network namespace: JSON lines of [id, protocol, address, port, source, tries] in, [id, result, who answered, whom it saw] out.

A program of its own, so that it can run anywhere in a lab with the plain interpreter. With the word `serve` it is the host outside that answers.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TIMEOUT = 2.5
HEALTH = range(30199, 30200)


def attempt(protocol: str, address: str, port: int, source: str) -> tuple[str, str, str]:
    """One flow: result, who answered, which source it saw."""
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(TIMEOUT)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect((address, port))
            ask = tcp if protocol == "TCP" else udp
            return ("ok", *ask(sock, port))
        except TimeoutError:
            return "timeout", "", ""
        except ConnectionRefusedError:
            return "refused", "", ""
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error)).lower(), "", ""


def tcp(sock: socket.socket, port: int) -> tuple[str, str]:
    """Ask netexec; what is no netexec says something else."""
    if port in (53, 443, 6443, 9153) or port in HEALTH:
        if port in HEALTH:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: sock.recv(65536), b""))
            status, _, body = text.decode().partition("\r\n\r\n")
            return f"{status.split()[1]} {' '.join(body.split())}", ""
        with contextlib.suppress(TimeoutError, OSError):
            if port == 443 and peer_is_netexec(sock):
                return get(sock, "hostname"), host(get(sock, "clientip"))
        return "connected", ""
    return get(sock, "hostname"), host(get(sock, "clientip"))


def peer_is_netexec(sock: socket.socket) -> bool:
    """The restricted Service has port 443 and speaks plain HTTP; the API server does not."""
    return sock.getpeername()[0] != "10.32.0.1"


def get(sock: socket.socket, what: str) -> str:
    """One request on a kept connection."""
    sock.sendall(f"GET /{what} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(4096)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "closed")
        head += data
    text, _, body = head.partition(b"\r\n\r\n")
    lengths = [line for line in text.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths else len(body)
    while len(body) < length:
        body += sock.recv(4096)
    return body.decode().strip()


def udp(sock: socket.socket, port: int) -> tuple[str, str]:
    """Ask netexec's UDP server; a DNS server gets a query."""
    if port == 53:
        name = b"".join(bytes([len(part)]) + part for part in (b"web", b"demo", b"svc", b"cluster", b"local")) + b"\0"
        sock.send(b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1")
        sock.recv(512)
        return "connected", ""
    sock.send(b"hostname\n")
    name_ = sock.recv(512).decode().strip()
    sock.send(b"clientip\n")
    return name_, host(sock.recv(512).decode().strip())


def host(text: str) -> str:
    """The address of `address:port`."""
    return text.rpartition(":")[0]


def run(line: str) -> list[object]:
    """All tries of one flow, one after the other."""
    number, protocol, address, port, source, tries = json.loads(line)
    return [number, [attempt(protocol, address, port, source) for _ in range(tries)]]


class Outside(BaseHTTPRequestHandler):
    """A host outside the cluster that answers as netexec does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """/hostname or /clientip."""
        text = "vm" if self.path == "/hostname" else f"{self.client_address[0]}:{self.client_address[1]}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Send what stands on standard input, or serve until it ends."""
    if sys.argv[1:2] == ["serve"]:
        server = ThreadingHTTPServer((sys.argv[2], 8080), Outside)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("serving", flush=True)
        sys.stdin.read()
        return
    lines = [line for line in sys.stdin.read().splitlines() if line]
    with ThreadPoolExecutor(48) as pool:
        for result in pool.map(run, lines):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
