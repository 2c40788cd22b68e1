"""CNI on a machine for many calls at once: plugins carried out side by side.

Plugins are generators of effects (`cni.effects`); what takes the kernel's time is shared: one iptables-restore that stays (`kernel.restore`),
links that go together (`link_removal`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from glassnet.agent.cni.effects import DELEGATE_TIMEOUT, Effects, NodeState
from glassnet.agent.cni.leases import LOCK_PAUSE, LOCK_WAIT, Busy
from glassnet.agent.cni.link_removal import LinkRemoval
from glassnet.agent.cni.nat_rules import NatRules
from glassnet.agent.cni.rule_keeper import RuleKeeper
from glassnet.cni import effects as e
from glassnet.cni import nat_table
from glassnet.cni.errors import read_answer, unexpected
from glassnet.cni.runtime import PLUGIN_PATH
from glassnet.kernel import network_state
from glassnet.kernel.api import Host, NetNs
from glassnet.kernel.restore import RestoreProgram
from glassnet.net.errors import GlassnetError

T = TypeVar("T")


class Node(NodeState):
    """One machine and what calls on it share."""

    def __init__(self, host: Host, random: Callable[[int], bytes] = os.urandom) -> None:
        super().__init__(host, random)
        self.host = host
        self.links = LinkRemoval(host.netns)
        self.restores = {family: RestoreProgram(host, family) for family in (4, 6)}
        self.nat = {family: NatRules(program, family, self.kept) for family, program in self.restores.items()}
        self.keeper = RuleKeeper(host, self.kept, self.nat)

    def forgetting(self, effect: e.Restore) -> None:
        """What an effect is going to delete is nothing that anybody should wake up for."""
        self.keeper.forgotten(nat_table.deleted_chains(effect.lines))

    async def run(self, steps: e.Steps[T], pod: NetNs | None, environment: Mapping[str, str]) -> T:
        """Carry a plugin out. A caller who is cancelled has it undone first. Raises GlassnetError."""
        return await carry_out(steps, AgentEffects(self, pod, environment).perform)

    async def close(self) -> None:
        """End what runs in the background."""
        await self.links.drained()
        await self.keeper.close()
        for each in self.restores.values():
            await each.close()
        self.forget_nft()


async def carry_out(steps: e.Steps[T], perform: Callable[[e.Effect[Any]], Awaitable[Any]]) -> T:
    """Drive a plugin to its end: carry out each effect and send the answer back, or throw the error in. Raises GlassnetError."""
    send: Callable[[Any], e.Effect[Any]] = steps.send
    value: Any = None
    while True:
        try:
            effect = send(value)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        try:
            value, send = await perform(effect), steps.send
        except GlassnetError as error:
            value, send = error, steps.throw
        except Exception as error:  # nobody has foreseen it: the plugin undoes its work all the same
            value, send = unexpected(error), steps.throw
        except asyncio.CancelledError as error:
            await asyncio.shield(_undone(steps, error, perform))
            raise


async def _undone(
    steps: e.Steps[Any], error: BaseException, perform: Callable[[e.Effect[Any]], Awaitable[Any]]
) -> None:
    def rest() -> e.Steps[None]:
        try:
            effect = steps.throw(error)
            while True:
                try:
                    answer = yield effect
                except GlassnetError as refused:
                    effect = steps.throw(refused)
                else:
                    effect = steps.send(answer)
        except (StopIteration, asyncio.CancelledError):
            return

    await carry_out(rest(), perform)


class AgentEffects(Effects):
    """The effects of one call."""

    def __init__(self, node: Node, pod: NetNs | None, environment: Mapping[str, str]) -> None:
        super().__init__(node, pod)
        self._agent, self._environment = node, environment

    async def perform(self, effect: e.Effect[Any]) -> Any:
        """Carry out one effect. Raises GlassnetError."""
        waiting = _WAITING.get(type(effect))
        if waiting is not None:
            return await waiting(self, effect)
        try:
            return self.now(effect)
        except Busy:
            return await self._when_free(effect)

    async def _when_free(self, effect: e.Effect[Any]) -> Any:
        """Another process changes leases just now: the other calls must not wait for it."""
        for _ in range(int(LOCK_WAIT / LOCK_PAUSE)):
            await asyncio.sleep(LOCK_PAUSE)
            with contextlib.suppress(Busy):
                return self.now(effect)
        return self.now(effect)

    async def _remove(self, effect: e.Remove) -> None:
        name: str | None = effect.name
        if effect.where is e.Where.POD:
            name = self._other_end(effect.name)
            if name is None:
                await LinkRemoval(self.netns(e.Where.POD)).remove(effect.name)
                return
        await self._agent.links.remove(name or "")

    def _other_end(self, name: str) -> str | None:
        """The node's end of a container's pair: with it the container's goes, and it can go together with those of others."""
        inside = network_state.find_link(self.netns(e.Where.POD), name)
        outside = (
            network_state.link_at(self.node.netns, inside.peer)
            if inside is not None and inside.kind == "veth"
            else None
        )
        return outside.name if outside is not None and inside is not None and outside.peer == inside.index else None

    async def _sleep(self, effect: e.Sleep) -> None:
        await asyncio.sleep(effect.seconds)

    async def _restore(self, effect: e.Restore) -> None:
        self._agent.forgetting(effect)
        if await self._agent.nat[effect.family].restore(effect):
            chains = nat_table.own_chains(effect.shared + effect.lines)
            self._agent.keeper.added(chains)

    async def _saved_rules(self, effect: e.SavedRules) -> str:
        return await self._agent.nat[effect.family].listing(effect.chain)

    async def _nft(self, effect: e.Nft) -> str:
        if not effect.keep:
            return await self._run_nft(effect.script)
        async with self._agent.keeper.nft_lock:
            self._agent.kept.before(effect)
            said = await self._run_nft(effect.script)
            if self._agent.kept.after(effect):
                self._agent.keeper.added({mark.table for mark in effect.marks})
        return said

    async def _forget(self, effect: e.ForgetConnections) -> None:
        await asyncio.to_thread(self.now, effect)  # to go through the kernel's whole table takes some 10 ms

    async def _run_nft(self, script: str) -> str:
        """As an argument: nft -j would read a script on standard input as JSON, and do nothing."""
        return (await self._agent.host.run(["nft", "-j", script])).decode() if script else ""

    async def _delegate(self, effect: e.Delegate) -> dict[str, Any]:
        found = self.plugin_program(effect.plugin, self._environment.get("CNI_PATH", PLUGIN_PATH))
        variables = [
            f"{key}={value}"
            for key, value in {**self._environment, **effect.environment, "CNI_COMMAND": effect.command}.items()
        ]
        words = ["env", *variables, "sh", "-c", '"$0"; printf "\\n%s" $?', found]  # its exit status comes last
        printed = await self._agent.host.run(words, json.dumps(effect.config).encode(), timeout=DELEGATE_TIMEOUT)
        text, _, status = printed.rpartition(b"\n")
        return read_answer(effect.plugin, int(status), text)


_WAITING: dict[type, Callable[[AgentEffects, Any], Awaitable[Any]]] = {
    e.Remove: AgentEffects._remove,
    e.Sleep: AgentEffects._sleep,
    e.Restore: AgentEffects._restore,
    e.SavedRules: AgentEffects._saved_rules,
    e.Nft: AgentEffects._nft,
    e.ForgetConnections: AgentEffects._forget,
    e.Delegate: AgentEffects._delegate,
}
