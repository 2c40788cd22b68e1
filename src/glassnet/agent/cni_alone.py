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

from glassnet.agent.cni_effects import Effects, NodeState
from glassnet.cni import effects as e
from glassnet.cni import nat_table, plugins
from glassnet.cni.errors import body, read_answer
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
        slow = _SLOW.get(type(effect))
        return self.now(effect) if slow is None else slow(self, effect)

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
        done = subprocess.run(
            [self.plugin_program(effect.plugin, self._environment.get("CNI_PATH", ""))],
            input=json.dumps(effect.config).encode(),
            env={**os.environ, **self._environment, "CNI_COMMAND": effect.command},
            capture_output=True,
            check=False,
        )
        return read_answer(effect.plugin, done.stdout)


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


def main(argv: list[str]) -> int:
    """Carry out the call of the plugin that `argv` names; the program's exit status."""
    plugin, environment = argv[0], dict(os.environ)
    if not environment.get("CNI_COMMAND"):
        print(
            f"CNI {plugin} plugin of glassnet: a container runtime calls it, see glassnet cni --help", file=sys.stderr
        )
        return 0
    pod = None
    try:
        text = "" if environment["CNI_COMMAND"] == "VERSION" else sys.stdin.buffer.read().decode(errors="replace")
        pod = open_pod(environment)
        steps = plugins.answer(plugin, environment, text, pod.fd if pod else -1)
        answer = carry_out(steps, LoneEffects(NodeState(Here()), pod, environment).perform)
    except GlassnetError as error:
        print(json.dumps(body(error), indent=4))
        return 1
    if answer is not None:
        print(json.dumps(answer, indent=4))
    return 0


def open_pod(environment: Mapping[str, str]) -> KernelNetNs | None:
    """The container's network namespace; None when the call names none, or one that is gone."""
    path = environment.get("CNI_NETNS", "")
    try:
        return (
            KernelNetNs(os.path.basename(path), os.open(path, os.O_RDONLY | os.O_CLOEXEC), kept=True) if path else None
        )
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
