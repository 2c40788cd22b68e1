"""One container of a pod: start, probes, its end, the back-off before the next start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Protocol

from glassnet.agent.pods import environment, pod_status, probes
from glassnet.agent.pods.pod_status import ContainerState, stamp, terminated
from glassnet.agent.pods.probes import EAGER, PATIENT, Outcome, Place
from glassnet.kube.runtime import ExitStatus, PodSandbox, RunningContainer
from glassnet.kube.types import Container, Probe
from glassnet.net.errors import GlassnetError

LONG_RUN = 600.0  # seconds after which a container's crashes are forgotten
RETRY = 1.0  # seconds between looks for a ConfigMap or Secret that is missing
REMIND = 60.0  # seconds between Events that say the same


class Home(Protocol):
    """What a container's loop needs of its pod."""

    @property
    def stopping(self) -> bool: ...
    @property
    def grace(self) -> float: ...
    @property
    def ip(self) -> str: ...
    @property
    def restart_policy(self) -> str: ...
    @property
    def full_name(self) -> str:
        """name_namespace(uid), as in messages about back-off."""

    def sandbox(self) -> PodSandbox: ...
    def now(self) -> datetime: ...
    def container(self, name: str) -> Container: ...
    def show(self) -> None: ...
    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
    def settings(self, container: Container) -> tuple[dict[str, str], dict[str, str]]:
        """Environment and mounts. Raises environment.MissingReference."""

    def stand_in(self, container: Container) -> str: ...
    async def event(self, type: str, reason: str, message: str, container: str = "") -> None: ...


class ContainerLoop:
    """Keeps one container as its spec wants it. `state` is what its status shows."""

    __slots__ = ("_complaint", "_home", "_redefined", "_watchers", "name", "running", "state", "task")

    def __init__(self, home: Home, name: str, state: ContainerState) -> None:
        self._home, self.name, self.state = home, name, state
        self.running: RunningContainer | None = None
        self.task: asyncio.Task[None] | None = None
        self._watchers: list[asyncio.Task[None]] = []
        self._redefined = False
        self._complaint: tuple[str, float] = ("", 0.0)

    async def keep_running(self) -> None:
        """Start it, and again after each end as the restart policy says; returns when it is not to run again."""
        while True:
            status = await self.run_once()
            policy = self._home.container(self.name).restart_policy or self._home.restart_policy
            if self._home.stopping or policy == "Never" or (policy == "OnFailure" and status.code == 0):
                return
            await self.back_off()

    async def back_off(self) -> None:
        """Wait as long as its crashes so far ask for; then it counts as restarted."""
        state = self.state
        delay = 0 if self._redefined else pod_status.crash_delay(state.crashes)
        self._redefined = False
        if "terminated" in state.state:
            state.last = state.state
        if delay:
            text = f"back-off {duration(delay)} restarting failed container={self.name} pod={self._home.full_name}"
            state.state = {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
            self._home.show()
            said = f"Back-off restarting failed container {self.name} in pod {self._home.full_name}"
            await self._home.event("Warning", "BackOff", said, self.name)
            await asyncio.sleep(delay)
        state.restarts += 1

    async def run_once(self) -> ExitStatus:
        """Start it and wait for its end."""
        container, state = self._home.container(self.name), self.state
        running = await self._start(container)
        if isinstance(running, ExitStatus):
            state.crashes += 1
            return running
        self.running = running
        state.id, state.state = running.id, {"running": {"startedAt": stamp(running.started_at)}}
        state.started = container.startup_probe is None
        state.ready = state.started and container.readiness_probe is None
        hook = None
        if container.lifecycle and container.lifecycle.post_start:
            hook = self._home.spawn(self._post_start(container))
        else:
            self._probe(container)
        self._home.show()
        try:
            status = await running.wait()
        finally:
            self.stop_probes()
            if hook is not None:
                hook.cancel()
        self._ended(running, status)
        return status

    def _ended(self, running: RunningContainer, status: ExitStatus) -> None:
        state, now = self.state, self._home.now()
        self.running = None
        state.crashes = 1 if (now - running.started_at).total_seconds() >= LONG_RUN else state.crashes + 1
        state.started = False
        state.ready = False
        state.state = terminated(status.code, status.reason, status.message, running.started_at, now, running.id)
        self._home.show()

    async def _start(self, container: Container) -> RunningContainer | ExitStatus:
        """Start it; what keeps it from starting becomes its state."""
        env, mounts = await self._settings(container)
        state, home = self.state, self._home
        if text := home.stand_in(container):
            await home.event("Normal", "StandIn", text, self.name)
        else:
            text = f'Container image "{container.image}" already present on machine'
            await home.event("Normal", "Pulled", text, self.name)
        try:
            running = await home.sandbox().start(container, env, mounts, state.restarts)
        except GlassnetError as error:
            reason, code = getattr(error, "reason", "StartError"), int(getattr(error, "code", 128))
            now = home.now()
            state.state = terminated(code, reason, str(error), now, now, "")
            home.show()
            await home.event("Warning", "Failed", f"Error: {error}", self.name)
            return ExitStatus(code, reason, str(error))
        await home.event("Normal", "Created", f"Created container: {self.name}", self.name)
        await home.event("Normal", "Started", f"Started container {self.name}", self.name)
        return running

    async def _settings(self, container: Container) -> tuple[dict[str, str], dict[str, str]]:
        """Environment and mounts, once all that they refer to is there."""
        while True:
            try:
                return self._home.settings(container)
            except environment.MissingReference as error:
                self.state.state = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
                self._home.show()
                time = asyncio.get_running_loop().time()
                if self._complaint[0] != str(error) or time - self._complaint[1] >= REMIND:
                    self._complaint = (str(error), time)
                    await self._home.event("Warning", "Failed", f"Error: {error}", self.name)
                await asyncio.sleep(RETRY)

    async def _post_start(self, container: Container) -> None:
        """The hook runs beside the container; when it fails the container is stopped, until it is done nothing is probed."""
        assert container.lifecycle and container.lifecycle.post_start
        place = Place(self._home.sandbox(), container, self._home.ip)
        good, text = await probes.attempt(place, container.lifecycle.post_start, self._home.grace or 30.0)
        if good:
            self._probe(container)
            return
        await self._home.event("Warning", "FailedPostStartHook", f"PostStartHook failed: {text}", self.name)
        await self.kill("FailedPostStartHook", self._home.grace)

    # -- probes

    def _probe(self, container: Container) -> None:
        if container.startup_probe and not self.state.started:
            self._watch(container, container.startup_probe, EAGER, self._on_startup)
            return
        if container.readiness_probe:
            self._watch(container, container.readiness_probe, EAGER, self._on_readiness)
        if container.liveness_probe:
            self._watch(container, container.liveness_probe, PATIENT, self._on_liveness)

    def _watch(
        self, container: Container, probe: Probe, early: tuple[float, ...], tell: Callable[[Outcome], None]
    ) -> None:
        place = Place(self._home.sandbox(), container, self._home.ip)
        self._watchers.append(self._home.spawn(probes.watch(place, probe, early, tell)))

    def stop_probes(self) -> None:
        """End all probing, until the container is started again."""
        for task in self._watchers:
            task.cancel()
        self._watchers.clear()

    def _on_startup(self, outcome: Outcome) -> None:
        if outcome.verdict:
            container = self._home.container(self.name)
            self.state.started, self.state.ready = True, container.readiness_probe is None
            self.stop_probes()
            self._probe(container)
            self._home.show()
        elif not outcome.good:
            self._unhealthy("Startup", outcome)

    def _on_readiness(self, outcome: Outcome) -> None:
        if outcome.verdict is not None and outcome.verdict != self.state.ready:
            self.state.ready = outcome.verdict
            self._home.show()
        if not outcome.good:
            self._home.spawn(self._say_unhealthy("Readiness", outcome.text))

    def _on_liveness(self, outcome: Outcome) -> None:
        if not outcome.good:
            self._unhealthy("Liveness", outcome)

    def _unhealthy(self, kind: str, outcome: Outcome) -> None:
        if self._home.stopping or self.running is None:
            return
        if outcome.verdict is False:
            self.stop_probes()
        self._home.spawn(self._after_failure(kind, outcome))

    async def _after_failure(self, kind: str, outcome: Outcome) -> None:
        await self._say_unhealthy(kind, outcome.text)
        if outcome.verdict is False:
            container = self._home.container(self.name)
            probe = container.startup_probe if kind == "Startup" else container.liveness_probe
            own = probe.termination_grace_period_seconds if probe else None
            await self.kill(
                f"Container {self.name} failed {kind.lower()} probe, will be restarted",
                self._home.grace if own is None else float(own),
            )

    async def _say_unhealthy(self, kind: str, text: str) -> None:
        await self._home.event("Warning", "Unhealthy", f"{kind} probe failed: {text}", self.name)

    # -- its end

    def redefine(self) -> None:
        """Its image has been changed: it is started anew from the new one."""
        if self.running is not None:
            self._redefined = True
            self._home.spawn(
                self.kill(f"Container {self.name} definition changed, will be restarted", self._home.grace)
            )

    async def kill(self, why: str, grace: float) -> None:
        """Stop it, and say why."""
        await self._home.event("Normal", "Killing", why, self.name)
        await self.stop(grace)

    async def stop(self, grace: float) -> None:
        """preStop hook, SIGTERM, and SIGKILL once `grace` seconds are over; nothing when it does not run."""
        running = self.running
        if running is None:
            return
        hook = self._home.container(self.name).lifecycle
        if hook and hook.pre_stop and grace:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            place = Place(self._home.sandbox(), self._home.container(self.name), self._home.ip)
            good, text = await probes.attempt(place, hook.pre_stop, grace)
            if not good:
                await self._home.event("Warning", "FailedPreStopHook", f"PreStopHook failed: {text}", self.name)
            grace = max(2.0, grace - (loop.time() - begun))
        await running.stop(grace)


def duration(seconds: int) -> str:
    """10s, 1m20s, as Go prints durations."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
