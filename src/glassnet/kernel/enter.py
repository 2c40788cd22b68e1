"""Ways into namespaces from outside: the lab's process leaves the host behind, a user's command enters a machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from glassnet.kernel import libc
from glassnet.kernel.libc import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_PRIVATE,
    MS_REC,
)
from glassnet.kernel.spawn import KINDS, PATH
from glassnet.net.errors import KernelError, LabError, PreflightError


def enter_lab_namespaces(rootless: bool, started: Callable[[int], None]) -> None:
    """Leave the host: returns in a child that is the first process of new namespaces; the caller's process calls
    `started(pid of the child, as the host counts)` and exits.

    When the child ends, the kernel ends everything in its PID namespace. Call it in a process with one thread.
    Raises PreflightError when the kernel does not allow it.
    """
    try:
        if rootless:
            _become_root_of_a_user_namespace()
        libc.unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID)
    except KernelError as error:
        way = (
            "sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces, or run as root"
            if rootless
            else "run as root, or as an ordinary user"
        )
        raise PreflightError(f"this kernel gives no namespaces ({error}): {way}") from None
    pid = os.fork()
    if pid:
        started(pid)
        os._exit(0)
    try:
        libc.mount("", "/", flags=MS_REC | MS_PRIVATE)
    except KernelError as error:
        raise PreflightError(
            f"{error}: a chroot's / is no mount of its own; bind it on itself and pivot_root into it first"
        ) from None
    try:
        libc.mount("proc", "/proc", "proc", libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC)
    except KernelError as error:
        raise PreflightError(
            f"{error}: something covers parts of the host's /proc (a container does that); run as root there"
        ) from None


def _become_root_of_a_user_namespace() -> None:
    """user_namespaces(7): one user and one group, mapped to root inside; setgroups is given up."""
    user, group = os.geteuid(), os.getegid()
    libc.unshare(CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def exec_in(process: str, argv: Sequence[str]) -> int:
    """Run a command in the namespaces of a process, with the caller's terminal; its exit status (128+N for signal N).

    `process` is the process's directory under some /proc. Raises LabError when it is gone.
    """
    try:
        spaces = {kind: os.open(f"{process}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", *KINDS)}
    except OSError as error:
        raise LabError(f"the machine cannot be entered ({error.strerror}); is the lab yours, and running?") from None
    if os.fstat(spaces["user"]).st_ino != os.stat("/proc/self/ns/user").st_ino:
        libc.setns(spaces["user"], CLONE_NEWUSER)
    for kind in ("pid", "ipc", "uts", "net", "mnt"):
        libc.setns(spaces[kind], KINDS[kind])
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        _become(argv)
    for number in (signal.SIGINT, signal.SIGQUIT):  # the terminal sends them to the command too: it decides
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _become(argv: Sequence[str]) -> None:
    kept = {name: value for name in ("TERM", "LANG", "LC_ALL", "COLUMNS", "LINES") if (value := os.environ.get(name))}
    env = {**kept, "PATH": PATH, "HOME": "/root", "USER": "root"}
    try:
        try:
            os.chdir("/root")
        except OSError:
            os.chdir("/")
        os.execvpe(argv[0], list(argv), env)
    except OSError as error:
        os.write(2, f"glassnet: {argv[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
