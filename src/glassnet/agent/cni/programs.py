"""The programs in a runtime's CNI bin directory: thin ones that hand their call to the node's agent, and do it alone when there is none.

Starting is most of what a call takes: on x86-64 a program is a kilobyte of instructions (`native`), elsewhere a script that imports nothing
but two modules of the interpreter's own (-I -S) and ends without cleaning up. The protocol is told in `agent.cni.server`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

import glassnet
from glassnet.agent.cni import native
from glassnet.agent.cni.server import SOCKET
from glassnet.cni.errors import OTHER, TRY_AGAIN, CniError, body
from glassnet.cni.plugins import PLUGINS, VERSION_ANSWER
from glassnet.net.errors import GlassnetError

MARK = "# glassnet CNI plugin"  # in the second line: what tells our programs from all others

_TEXT = """#!{python} -IS
{mark} "{plugin}": hands its call to the agent at {socket}, or does the work itself
import posix
from _socket import AF_UNIX, SCM_RIGHTS, SHUT_WR, SOCK_STREAM, SOL_SOCKET, socket

E = posix.environ
CLOEXEC, NONBLOCK = 0o2000000, 0o4000


def alone():
    posix.execv({alone[0]!r}, {alone!r})


def main():
    command = E.get(b"CNI_COMMAND")
    if command == b"VERSION":
        posix.write(1, {version!r})
        posix._exit(0)
    agent = socket(AF_UNIX, SOCK_STREAM)
    try:
        if not command:
            alone()
        agent.connect({socket!r})
        fds = [0, posix.open("/proc/self/ns/net", CLOEXEC)]
    except OSError:
        alone()
    try:
        fds.append(posix.open(E[b"CNI_NETNS"], CLOEXEC | NONBLOCK))
    except (OSError, KeyError):
        pass
    answer = b""
    try:
        rights = b"".join(fd.to_bytes(4, {order!r}) for fd in fds)
        agent.sendmsg([{name!r}], [(SOL_SOCKET, SCM_RIGHTS, rights)])
        agent.sendall(b"".join(k + b"=" + v + b"\\0" for k, v in E.items()))
        agent.shutdown(SHUT_WR)
        while data := agent.recv(65536):
            answer += data
    except OSError:
        pass
    if answer[:1] == b"-":
        alone()
    answer = answer or b"1" + {died!r}
    out = answer[1:]
    while out:
        out = out[posix.write(1, out):]
    posix._exit(answer[0] - 48)


main()
"""


_PLACES = list(dict.fromkeys(str(Path(str(one.__file__)).parent.parent) for one in (glassnet, msgspec)))
# neither collecting garbage nor taking the interpreter down in good order is for those who live this short
_ALONE = (
    f"import gc, os, sys; gc.disable(); sys.path += {_PLACES!r}; from glassnet.agent.cni.alone import main; "
    "status = main(sys.argv[1:]); sys.stdout.flush(); os._exit(status)"
)


def program(plugin: str, socket: str = SOCKET, machine: str = "", python: str = sys.executable) -> bytes:
    """A plugin's program: a native one for processors that we have one for, else a script. `machine` as os.uname() names it.

    Alone it runs this glassnet, wherever it lies.
    """
    alone = [python, "-IS", "-c", _ALONE, plugin]
    version = json.dumps(VERSION_ANSWER).encode() + b"\n"
    died = _error(
        TRY_AGAIN, f"the agent at {socket} ended before it answered", "try again; DEL or GC takes away what it began"
    )
    if machine == native.MACHINE:
        broken = _error(OTHER, f"{python} cannot be run", "install the plugins anew: glassnet cni install")
        return native.executable(plugin, socket, alone, version, died, broken, f"\n{MARK}\n".encode())
    text = _TEXT.format(
        mark=MARK,
        plugin=plugin,
        python=python,
        socket=socket,
        order=sys.byteorder,
        alone=alone,
        version=version,
        died=died,
        name=plugin.encode() + b"\0",
    )
    return text.encode()


def _error(code: int, message: str, details: str) -> bytes:
    return json.dumps(body(CniError(code, message, details))).encode() + b"\n"


def install(
    directory: Path,
    force: bool = True,
    socket: str = SOCKET,
    machine: str = os.uname().machine,
    names: Sequence[str] = tuple(PLUGINS),
) -> list[str]:
    """Put the programs into a directory; their names. Ours are written anew, what else has their names only with `force`.

    Raises GlassnetError when one is in the way, before any is written, or the disk refuses.
    """
    if machine != native.MACHINE and (fault := shebang_fault(sys.executable)):
        raise GlassnetError(fault)
    foreign = [name for name in foreign_programs(directory) if name in names]
    if foreign and not force:
        raise GlassnetError(
            f"{directory}: {', '.join(foreign)} {'are' if len(foreign) > 1 else 'is'} not glassnet's; "
            "use another directory, or --force to replace them"
        )
    for name in names:
        path, beside = directory / name, directory / f".{name}.new"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(program(name, socket, machine))
            beside.chmod(0o755)
            beside.replace(path)  # a runtime may be starting the old one just now
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise GlassnetError(f"{path}: {error.strerror}") from None
    return list(names)


def shebang_fault(python: str) -> str:
    """Why the kernel could not start scripts by this interpreter (execve(2)); "" when it can."""
    if len(f"#!{python} -IS") > 127:
        return f"{python}: the path is longer than the 127 bytes a program's first line may have; install glassnet under a shorter one"
    if any(one.isspace() for one in python):
        return f"{python}: a program's first line cannot name an interpreter with a space in its path; install glassnet elsewhere"
    return "" if python.startswith("/") else f"{python or 'the interpreter'}: its path is not known"


def foreign_programs(directory: Path) -> list[str]:
    """Names of plugins that are taken by programs which are not ours."""
    return [name for name in PLUGINS if os.path.lexists(directory / name) and not is_ours(directory / name)]


def uninstall(directory: Path) -> list[str]:
    """Remove our programs from a directory, those of older versions too; their names. Raises GlassnetError when the disk refuses."""
    gone = []
    try:
        for path in sorted(directory.iterdir()) if directory.is_dir() else []:
            if path.is_file() and is_ours(path):
                path.unlink()
                gone.append(path.name)
    except OSError as error:
        raise GlassnetError(f"{error.filename or directory}: {error.strerror}") from None
    return gone


def is_ours(path: Path) -> bool:
    """Whether a program is one of those written here."""
    try:
        with open(path, "rb") as file:
            return b"\n" + MARK.encode() in file.read(1 << 16)
    except OSError:
        return False
