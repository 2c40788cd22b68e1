"""The plugins in a process of their own, for when no agent runs: one call, from the environment and standard input to standard output.

No event loop: it would take longer to load than all the rest.
"""

from __future__ import annotations

import _thread
import errno
import json
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from glassnet import __version__
from glassnet.agent.cni.effects import DELEGATE_TIMEOUT, Effects, NodeState, container_netns
from glassnet.agent.cni.leases import LOCK_PAUSE, LOCK_WAIT, Busy
from glassnet.cni import effects as e
from glassnet.cni import nat_table, plugins
from glassnet.cni.errors import body, read_answer, unexpected
from glassnet.cni.request import written_version
from glassnet.cni.result import VERSIONS
from glassnet.kernel.api import NetNs
from glassnet.kernel.links import delete_links_on, has_link, link_socket
from glassnet.kernel.netns import KernelNetNs
from glassnet.net.errors import CommandError, GlassnetError

T = TypeVar("T")
PROGRAM_TIMEOUT = 30.0  # seconds
_AT_ONCE = 8  # links that are being removed
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Here:
    """The machine this process runs on, or rather the network namespace it was started in. Implements `kernel.api.Node`."""

    def __init__(self) -> None:
        self.name, self.root = os.uname().nodename, Path("/")
        self.netns = KernelNetNs(self.name, os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), kept=True)


class LoneEffects(Effects):
    """Effects carried out one after the other, each to its end."""

    def __init__(self, state: NodeState, pod: KernelNetNs | None, environment: Mapping[str, str]) -> None:
        super().__init__(state, pod)
        self._environment = environment
        self._removals: list[Removal] = []

    def run(self, steps: e.Steps[T]) -> T:
        """Drive a plugin to its end, and wait for what goes on in the background. Raises GlassnetError."""
        try:
            answer = carry_out(steps, self.perform)
        finally:
            for removal in self._removals:
                removal.wait()
        for removal in self._removals:
            removal.join()
        return answer

    def perform(self, effect: e.Effect[Any]) -> Any:
        """Carry out one effect. Raises GlassnetError."""
        slow, deadline = _SLOW.get(type(effect)), time.monotonic() + LOCK_WAIT
        while True:
            try:
                return self.now(effect) if slow is None else slow(self, effect)
            except Busy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_PAUSE)

    def _remove(self, effect: e.Remove) -> None:
        """Answered when the link is out of sight: for another 20 ms the kernel waits for its readers, while other things are done."""
        netns = self.netns(effect.where)
        if len(self._removals) >= _AT_ONCE:
            self._removals.pop(0).join()
        removal = Removal(netns, effect.name)
        while not removal.ended() and has_link(netns, effect.name):
            time.sleep(0.0002)
        if removal.ended():
            removal.join()
        else:
            self._removals.append(removal)

    def _sleep(self, effect: e.Sleep) -> None:
        time.sleep(effect.seconds)

    def _restore(self, effect: e.Restore) -> None:
        with self.state.kept.lock():
            self.state.kept.before(effect)
            try:
                _restore(effect.family, nat_table.checks(effect.shared) + effect.lines)
            except CommandError:
                if effect.shared:
                    table = nat_table.parse(_saved(effect.family))
                    _restore(effect.family, nat_table.missing_shared(effect.shared, table) + effect.lines)
                elif effect.otherwise:
                    _restore(effect.family, effect.otherwise)
                else:
                    raise
            self.state.kept.after(effect)

    def _saved_rules(self, effect: e.SavedRules) -> str:
        return _saved(effect.family, effect.chain)

    def _nft(self, effect: e.Nft) -> str:
        if not effect.keep:
            return _nft(effect.script)
        with self.state.kept.lock():
            self.state.kept.before(effect)
            said = _nft(effect.script)
            self.state.kept.after(effect)
        return said

    def _delegate(self, effect: e.Delegate) -> dict[str, Any]:
        found = self.plugin_program(effect.plugin, self._environment.get("CNI_PATH", ""))
        try:
            environment = {**os.environ, **self._environment, **effect.environment, "CNI_COMMAND": effect.command}
            given = json.dumps(effect.config).encode()
            status, output, _ = run_program([found], given, environment, DELEGATE_TIMEOUT, own_errors=True)
        except OSError as error:
            raise CommandError([found], 126, str(error.strerror)) from None
        return read_answer(effect.plugin, status, output)


def run(argv: list[str], stdin: str = "") -> str:
    """Run a program to its end; what it printed. Raises CommandError."""
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{_PATH}", "LC_ALL": "C.UTF-8"}
    try:
        status, output, errors = run_program(argv, stdin.encode(), environment, PROGRAM_TIMEOUT)
    except FileNotFoundError:
        raise CommandError(argv, 127, f"there is no program {argv[0]} on the PATH") from None
    except OSError as error:
        raise CommandError(argv, 127, str(error)) from None
    if status:
        raise CommandError(argv, status, errors.decode(errors="replace"))
    return output.decode(errors="replace")


def run_program(
    argv: list[str], given: bytes, environment: Mapping[str, str], timeout: float, own_errors: bool = False
) -> tuple[int, bytes, bytes]:
    """Run a program on the PATH of `environment`: its exit status, output, and errors (which go where ours go with `own_errors`).

    It reads and writes files in memory, so that it never waits for us; `subprocess` would take 7 ms to load. Raises OSError when it cannot be
    started, CommandError when it has not ended after `timeout` seconds: it is killed then.
    """
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        os.write(files[0], given)
        os.lseek(files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files[: 2 if own_errors else 3])]
        pid = os.posix_spawn(_found(argv[0], environment), argv, environment, file_actions=actions)
        process = os.pidfd_open(pid)
        try:
            ended = bool(select.select([process], [], [], timeout)[0])
            if not ended:
                os.kill(pid, 9)
        finally:
            os.close(process)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not ended:
            raise CommandError(argv, 124, f"no end after {timeout:g} s")
        return status, *(os.pread(file, os.fstat(file).st_size, 0) for file in files[1:])  # type: ignore[return-value]
    finally:
        for file in files:
            os.close(file)


def _found(program: str, environment: Mapping[str, str]) -> str:
    """A program's path. Raises FileNotFoundError."""
    if "/" in program:
        return program
    places = environment.get("PATH", "").split(":")
    found = next((path for place in places if place and os.access(path := f"{place}/{program}", os.X_OK)), "")
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    return found


class Removal:
    """Deletes a link in a thread of its own."""

    def __init__(self, netns: NetNs, name: str) -> None:
        self._sock, self._name = link_socket(netns), name
        self._error: GlassnetError | None = None
        self._running = _thread.allocate_lock()
        self._running.acquire()
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            delete_links_on(self._sock, [self._name])
        except Exception as error:
            self._error = error if isinstance(error, GlassnetError) else unexpected(error)
        finally:
            self._sock.close()
            self._running.release()

    def ended(self) -> bool:
        """Whether it has come to its end."""
        return not self._running.locked()

    def wait(self) -> None:
        """Wait for its end."""
        with self._running:
            pass

    def join(self) -> None:
        """Wait for its end; raises what it failed by."""
        self.wait()
        if self._error is not None:
            raise self._error


def _restore(family: int, lines: str) -> None:
    run(["iptables-restore" if family == 4 else "ip6tables-restore", "-w", "5", "--noflush"], f"*nat\n{lines}COMMIT\n")


def _saved(family: int, chain: str = "") -> str:
    """The nat table or a chain of it; "" when there is no such chain. Raises CommandError."""
    if not chain:
        return run(["iptables-save" if family == 4 else "ip6tables-save", "-t", "nat"])
    try:
        return run(["iptables" if family == 4 else "ip6tables", "-w", "5", "-t", "nat", "-S", chain])
    except CommandError as error:
        if error.status == 1:
            return ""
        raise


def _nft(script: str) -> str:
    """As an argument: nft -j would read a script on standard input as JSON, and do nothing."""
    return run(["nft", "-j", script]) if script else ""


_SLOW: dict[type, Callable[[LoneEffects, Any], Any]] = {
    e.Remove: LoneEffects._remove,
    e.Sleep: LoneEffects._sleep,
    e.Restore: LoneEffects._restore,
    e.SavedRules: LoneEffects._saved_rules,
    e.Nft: LoneEffects._nft,
    e.Delegate: LoneEffects._delegate,
}


def carry_out(steps: e.Steps[T], perform: Callable[[e.Effect[Any]], Any]) -> T:
    """Drive a plugin to its end. Raises GlassnetError."""
    send: Callable[[Any], e.Effect[Any]] = steps.send
    value: Any = None
    while True:
        try:
            effect = send(value)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        try:
            value, send = perform(effect), steps.send
        except GlassnetError as error:
            value, send = error, steps.throw
        except Exception as error:  # nobody has foreseen it: the plugin undoes its work all the same
            value, send = unexpected(error), steps.throw


def main(argv: list[str]) -> int:
    """Carry out the call of the plugin that `argv` names; the program's exit status."""
    plugin, environment, text = argv[0], dict(os.environ), ""
    if not environment.get("CNI_COMMAND"):
        print(
            f"CNI {plugin} plugin of glassnet {__version__}: a container runtime calls it, see glassnet cni --help\n"
            f"CNI protocol versions supported: {', '.join(VERSIONS)}",
            file=sys.stderr,
        )
        return 0
    try:
        if environment["CNI_COMMAND"] != "VERSION":
            text = sys.stdin.buffer.read().decode(errors="replace")
        here = Here()
        pod, absent = open_pod(environment, here.netns)
        steps = plugins.answer(plugin, environment, text, pod.fd if pod else -1, absent)
        answer = LoneEffects(NodeState(here), pod, environment).run(steps)
    except Exception as error:
        told = error if isinstance(error, GlassnetError) else unexpected(error)
        print(json.dumps(body(told, written_version(text)), indent=4))
        return 1
    if answer is not None:
        print(json.dumps(answer, indent=4))
    return 0


def open_pod(environment: Mapping[str, str], node: KernelNetNs) -> tuple[KernelNetNs | None, str]:
    """The container's network namespace, or None and the reason: the call names none, or it is gone, or none of a container's."""
    path = environment.get("CNI_NETNS", "")
    if not path:
        return None, ""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return None, str(error.strerror).lower()
    if absent := container_netns(descriptor, node, environment):
        os.close(descriptor)
        return None, absent
    return KernelNetNs(os.path.basename(path), descriptor, kept=True), ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
