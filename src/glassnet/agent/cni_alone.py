"""The plugins in a process of their own, for when no agent runs: one call, from the environment and standard input to standard output.

No event loop: it would take longer to load than all the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from glassnet import __version__
from glassnet.agent.cni_effects import DELEGATE_TIMEOUT, Effects, NodeState, container_netns
from glassnet.agent.leases import LOCK_PAUSE, LOCK_WAIT, Busy
from glassnet.cni import effects as e
from glassnet.cni import nat_table, plugins
from glassnet.cni.errors import body, read_answer, unexpected
from glassnet.cni.request import written_version
from glassnet.cni.result import VERSIONS
from glassnet.kernel.links import delete_links
from glassnet.kernel.netns import KernelNetNs
from glassnet.net.errors import CommandError, GlassnetError

T = TypeVar("T")
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
        delete_links(self.netns(effect.where), [effect.name])

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
            done = subprocess.run(
                [found],
                input=json.dumps(effect.config).encode(),
                env={**os.environ, **self._environment, "CNI_COMMAND": effect.command},
                stdout=subprocess.PIPE,  # its errors go where ours go
                check=False,
                timeout=DELEGATE_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise CommandError([found], 124, f"no end after {DELEGATE_TIMEOUT:g} s") from None
        except OSError as error:
            raise CommandError([found], 126, str(error.strerror)) from None
        return read_answer(effect.plugin, done.returncode, done.stdout)


def run(argv: list[str], stdin: str = "") -> str:
    """Run a program to its end; what it printed. Raises CommandError."""
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{_PATH}", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(argv, input=stdin.encode(), capture_output=True, env=environment, check=False, timeout=30)
    except FileNotFoundError:
        raise CommandError(argv, 127, f"there is no program {argv[0]} on the PATH") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(argv, 127, str(error)) from None
    if done.returncode:
        raise CommandError(argv, done.returncode, done.stderr.decode(errors="replace"))
    return done.stdout.decode(errors="replace")


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
        answer = carry_out(steps, LoneEffects(NodeState(here), pod, environment).perform)
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
