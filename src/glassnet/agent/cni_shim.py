"""The programs in a runtime's CNI bin directory: thin ones that hand their call to the node's agent, and do it alone when there is none.

Starting Python is most of what a call takes, so a program imports nothing but two modules of the interpreter's own (-I -S), and ends
without cleaning up. `program` writes its text; the protocol is told in `cni_server`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import glassnet
from glassnet.agent.cni_server import SOCKET
from glassnet.cni.plugins import PLUGINS, VERSION_ANSWER
from glassnet.net.errors import GlassnetError

MARK = "# glassnet CNI plugin"  # in the second line: what tells our programs from all others

_TEXT = """#!{python} -IS
{mark} "{plugin}": hands its call to the agent at {socket}, or does the work itself
import posix
from _socket import AF_UNIX, SCM_RIGHTS, SHUT_WR, SOCK_STREAM, SOL_SOCKET, socket

E = posix.environ
CLOEXEC = 0o2000000


def read(fd):
    parts = []
    while data := posix.read(fd, 65536):
        parts.append(data)
    return b"".join(parts)


def alone(text):
    fd = posix.memfd_create("stdin", 0)
    while text:
        text = text[posix.write(fd, text):]
    posix.lseek(fd, 0, 0)
    posix.dup2(fd, 0)
    posix.execv({python!r}, [{python!r}, "-I", "-c", {alone!r}, {plugin!r}])


def main():
    command = E.get(b"CNI_COMMAND", b"")
    if not command:
        alone(b"")
    if command == b"VERSION":
        posix.write(1, {versions!r})
        posix._exit(0)
    text = read(0)
    agent = socket(AF_UNIX, SOCK_STREAM)
    try:
        agent.connect({socket!r})
    except OSError:
        alone(text)
    fds = [posix.open("/proc/self/ns/net", CLOEXEC)]
    try:
        fds.append(posix.open(E.get(b"CNI_NETNS", b""), CLOEXEC))
    except OSError:
        pass
    pairs = b"\\0".join(k + b"=" + v for k, v in E.items() if k[:4] == b"CNI_")
    rights = b"".join(fd.to_bytes(4, {order!r}) for fd in fds)
    answer = b""
    try:
        agent.sendmsg([{plugin!r}.encode() + b"\\0"], [(SOL_SOCKET, SCM_RIGHTS, rights)])
        agent.sendall(pairs + b"\\0\\0" + text)
        agent.shutdown(SHUT_WR)
        while data := agent.recv(65536):
            answer += data
    except OSError:
        pass
    if answer[:1] == b"-":
        alone(text)
    if not answer:
        answer = b'1{{"cniVersion": "1.1.0", "code": 11, "msg": "the agent at {socket} ended before it answered", "details": "try again; DEL or GC takes away what it began"}}\\n'
    out = answer[1:]
    while out:
        out = out[posix.write(1, out):]
    posix._exit(answer[0] - 48)


main()
"""


_PACKAGES = str(Path(glassnet.__file__).parent.parent)
_ALONE = f"import sys; sys.path.insert(0, {_PACKAGES!r}); from glassnet.agent.cni_alone import main; sys.exit(main(sys.argv[1:]))"


def program(plugin: str, python: str = sys.executable, socket: str = SOCKET) -> str:
    """The text of a plugin's program. Alone it runs this glassnet, wherever it lies."""
    return _TEXT.format(
        mark=MARK,
        plugin=plugin,
        python=python,
        socket=socket,
        order=sys.byteorder,
        alone=_ALONE,
        versions=json.dumps(VERSION_ANSWER).encode() + b"\n",
    )


def install(directory: Path, force: bool = True, python: str = sys.executable, socket: str = SOCKET) -> list[str]:
    """Put the programs into a directory; their names. Ours are written anew, what else has their names only with `force`.

    Raises GlassnetError when one is in the way, before any is written, or the disk refuses.
    """
    foreign = [name for name in PLUGINS if (directory / name).exists() and not _ours(directory / name)]
    if foreign and not force:
        raise GlassnetError(
            f"{directory}: {', '.join(foreign)} {'are' if len(foreign) > 1 else 'is'} not glassnet's; "
            "use another directory, or --force to replace them"
        )
    for name in PLUGINS:
        path, beside = directory / name, directory / f".{name}.new"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            beside.write_text(program(name, python, socket))
            beside.chmod(0o755)
            beside.replace(path)  # a runtime may be starting the old one just now
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise GlassnetError(f"{path}: {error.strerror}") from None
    return list(PLUGINS)


def _ours(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return b"\n" + MARK.encode() in file.read(4096)
    except OSError:
        return False
