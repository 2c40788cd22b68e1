"""A client on the host outside, driven by JSON lines: fetches pages by new connections, and keeps some open to ask again.

["fetch", address, port, path, times] -> what each new connection got ("patient": one that waits half a minute to be taken); ["udp", address, port, times] -> the same by datagrams;
["open", name, address, port, times] and ["ask", name, path] -> what each kept connection got.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

TIMEOUT = 1.5


def connected(address: str, port: int, timeout: float = TIMEOUT) -> socket.socket:
    """A new connection."""
    return socket.create_connection((address, port), timeout)


def page(sock: socket.socket, path: str) -> str:
    """What a server says at a path; the connection stays."""
    sock.settimeout(TIMEOUT)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    text = b""
    while b"\r\n\r\n" not in text:
        text += more(sock)
    head, _, body = text.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += more(sock)
    return body.decode()


def more(sock: socket.socket) -> bytes:
    """Further bytes of an answer."""
    found = sock.recv(4096)
    if not found:
        raise ConnectionResetError
    return found


def datagram(address: str, port: int) -> str:
    """What netexec says to `hostname` by UDP."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect((address, port))
        sock.send(b"hostname")
        return sock.recv(4096).decode()


def tried(what: object, *words: object) -> str:
    """A result, or how it failed."""
    try:
        return what(*words)  # type: ignore[operator, no-any-return]
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def once(address: str, port: int, path: str, timeout: float = TIMEOUT) -> str:
    """A page by a connection of its own."""
    with connected(address, port, timeout) as sock:
        return page(sock, path)


def main() -> None:
    """Until the input ends."""
    kept: dict[str, list[socket.socket]] = {}
    with ThreadPoolExecutor(16) as pool:
        for line in sys.stdin:
            verb, *words = json.loads(line)
            if verb == "fetch":
                *where, times = words
                found = list(pool.map(lambda _, where=where: tried(once, *where), range(times)))
            elif verb == "patient":
                *where, times = words
                found = list(pool.map(lambda _, where=where: tried(once, *where, 30), range(times)))
            elif verb == "udp":
                *where, times = words
                found = list(pool.map(lambda _, where=where: tried(datagram, *where), range(times)))
            elif verb == "open":
                name, *where, times = words
                kept[name] = [connected(*where) for _ in range(times)]
                found = []
            else:
                name, path = words
                found = list(pool.map(lambda sock, path=path: tried(page, sock, path), kept[name]))
            print(json.dumps(found), flush=True)


main()
