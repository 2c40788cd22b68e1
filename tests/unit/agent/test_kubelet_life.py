"""A pod's life on a node, minute by minute on a jumping clock: up, restarts and back-off, probes, finish, deletion."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from kubelet_world import World, c, scenario

from glassnet.kube import kinds
from glassnet.net.errors import GlassnetError


def test_a_pod_comes_up(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c())
        await world.until(0.1)
        status = await world.status()
        assert (status["phase"], status["podIP"], status["hostIP"]) == ("Running", "10.200.0.2", "10.240.0.20")
        assert status["podIPs"] == [{"ip": "10.200.0.2"}] and status["hostIPs"] == [{"ip": "10.240.0.20"}]
        assert {k: v["status"] for k, v in (await world.conditions()).items()} == {
            "PodReadyToStartContainers": "True",
            "Initialized": "True",
            "Ready": "True",
            "ContainersReady": "True",
        }
        shown = await world.container()
        assert shown["ready"] and shown["started"] and shown["restartCount"] == 0
        assert shown["state"] == {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        assert (shown["containerID"], shown["imageID"]) == ("glassnet://c-0", "nginx")
        assert await world.events() == [
            'Container image "nginx" already present on machine', "Created container: c", "Started container c"
        ]  # fmt: skip
        files = world.sandboxes[0].files
        assert "10.200.0.2\tweb\n" in files["/etc/hosts"] and files["/etc/hostname"] == "web\n"

    scenario(tmp_path, play)


def test_a_crash_loop_backs_off_as_kubernetes_does(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        at: list[float] = []

        def crash(running: Any) -> None:
            at.append(world.seconds)
            running.exit(3)

        world.on_start["c"] = crash
        await world.pod(c())
        await world.until(9)
        shown = await world.container()
        uid = (await world.api.get(kinds.POD, "default", "web"))["metadata"]["uid"]
        assert shown["state"]["waiting"] == {
            "reason": "CrashLoopBackOff",
            "message": f"back-off 10s restarting failed container=c pod=web_default({uid})",
        }
        assert shown["lastState"]["terminated"]["exitCode"] == 3 and shown["restartCount"] == 1
        assert (await world.status())["phase"] == "Running" and not shown["ready"]
        await world.until(1400)
        pauses = [round(later - earlier) for earlier, later in itertools.pairwise(at)]
        assert pauses[:8] == [0, 10, 20, 40, 80, 160, 300, 300]
        assert (await world.container())["restartCount"] == len(at) - 1
        said = await world.events("BackOff")
        assert said == [f"Back-off restarting failed container c in pod web_default({uid})"]

    scenario(tmp_path, play)


def test_a_long_run_forgets_crashes_but_not_restarts(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        at: list[float] = []

        def start(running: Any) -> None:
            at.append(world.seconds)
            if len(at) != 4:
                running.exit(1)

        world.on_start["c"] = start
        await world.pod(c())
        await world.until(1000)
        assert [round(t) for t in at] == [0, 0, 10, 30]
        world.running().exit(1)
        await world.until(1015)
        assert [round(t) for t in at[4:]] == [1000, 1010]
        assert (await world.container())["restartCount"] == 5

    scenario(tmp_path, play)


def test_restart_policies_and_what_a_finished_pod_frees(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c("a"), c("b"), restartPolicy="OnFailure")
        await world.until(1)
        world.running("a").exit(0)
        world.running("b").exit(1)
        await world.until(2)
        assert (await world.status())["phase"] == "Running" and world.running("b").attempt == 1
        world.running("b").exit(0)
        await world.until(3)
        status = await world.status()
        assert (status["phase"], status["podIP"]) == ("Succeeded", "10.200.0.2")
        assert world.cni.out == {} and world.sandboxes[0].removed
        conditions = await world.conditions()
        assert conditions["Ready"]["reason"] == "PodCompleted" and conditions["Initialized"]["status"] == "True"
        assert conditions["PodReadyToStartContainers"]["status"] == "False"
        await world.delete()
        await world.until(4)
        assert not await world.exists()

    scenario(tmp_path, play)


def test_never_fails_the_pod_and_stops_its_sidecar(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c(), initContainers=[c("side", restartPolicy="Always")], restartPolicy="Never")
        await world.until(1)
        side = world.running("side")
        world.running("c").exit(7)
        await world.until(2)
        assert (await world.status())["phase"] == "Failed" and side.stopped_with == [30.0]
        assert (await world.container())["state"]["terminated"]["exitCode"] == 7
        assert (await world.conditions())["Ready"]["reason"] == "PodFailed"

    scenario(tmp_path, play)


def test_init_containers_run_one_by_one_and_are_tried_again(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        codes = {"one": [1, 1, 0], "two": [0]}
        for name, left in codes.items():
            world.on_start[name] = lambda running, left=left: running.exit(left.pop(0))
        await world.pod(c(), initContainers=[c("one"), c("two")])
        await world.until(5)
        conditions = await world.conditions()
        assert conditions["Initialized"]["message"] == "containers with incomplete status: [one two]"
        assert (await world.status())["phase"] == "Pending"
        assert (await world.container())["state"] == {"waiting": {"reason": "PodInitializing"}}
        shown = await world.container(key="initContainerStatuses")
        assert shown["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        await world.until(20)
        assert [name for name, *_ in world.started] == ["one", "one", "one", "two", "c"]
        assert (await world.conditions())["Initialized"]["status"] == "True"
        assert (await world.container(key="initContainerStatuses"))["ready"]
        assert (await world.status())["phase"] == "Running"

    scenario(tmp_path, play)


def test_a_failed_init_container_fails_a_pod_that_never_restarts(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.on_start["one"] = lambda running: running.exit(1)
        await world.pod(c(), initContainers=[c("one")], restartPolicy="Never")
        await world.until(5)
        assert (await world.status())["phase"] == "Failed" and world.cni.out == {}
        assert [name for name, *_ in world.started] == ["one"]
        await world.delete()
        await world.until(6)
        assert not await world.exists()

    scenario(tmp_path, play)


def test_deletion_gives_time_and_leaves_nothing(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c("good"), c("deaf"), terminationGracePeriodSeconds=20)
        await world.until(1)
        world.running("deaf").deaf = True
        await world.delete()
        await world.until(2)
        status = await world.status()
        assert [s["name"] for s in status["containerStatuses"] if "terminated" in s["state"]] == ["good"]
        assert (await world.conditions())["Ready"]["status"] == "False"
        assert sorted(await world.events("Killing")) == ["Stopping container deaf", "Stopping container good"]
        assert await world.exists() and world.cni.out
        await world.until(20.9)
        assert await world.exists()
        await world.until(22)
        assert not await world.exists() and world.cni.out == {} and world.sandboxes[0].removed

    scenario(tmp_path, play)


def test_a_shorter_grace_hastens_the_end(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c(), terminationGracePeriodSeconds=300)
        await world.until(1)
        world.running().deaf = True
        await world.delete()
        await world.until(5)
        await world.delete(grace=2)
        await world.until(8)
        assert world.running().stopped_with == [300.0, 2.0] and not await world.exists()

    scenario(tmp_path, play)


def test_a_forced_deletion_takes_the_pod_down_too(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c())
        await world.until(1)
        await world.delete(grace=0)
        await world.until(2)
        assert not await world.exists() and world.cni.out == {} and world.sandboxes[0].removed
        assert world.started == world.started[:1]

    scenario(tmp_path, play)


def test_a_deletion_in_the_middle_of_coming_up(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        for number, moment in enumerate((0.0, 0.005, 0.012, 0.016)):
            begun = world.seconds
            await world.pod(c(), name=f"p{number}")
            await world.until(begun + moment)
            await world.delete(name=f"p{number}", grace=1)
            await world.until(begun + 5)
            assert not await world.exists(f"p{number}") and world.cni.out == {}, moment
        assert all(sandbox.removed for sandbox in world.sandboxes)

    scenario(tmp_path, play)


def test_a_deletion_while_the_pod_finishes(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c(), initContainers=[c("side", restartPolicy="Always")], restartPolicy="Never")
        await world.until(1)
        world.running("side").deaf = True
        world.running("c").exit(0)
        await world.until(5)
        await world.delete(grace=3)
        await world.until(12)
        assert not await world.exists() and world.cni.out == {}

    scenario(tmp_path, play)


def test_a_pod_with_a_finalizer_is_taken_down_once(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c())
        await world.api.patch(kinds.POD, "default", "web", {"metadata": {"finalizers": ["example.com/hold"]}})
        await world.until(1)
        await world.delete()
        await world.until(5)
        assert await world.exists() and world.cni.out == {}
        version = (await world.api.get(kinds.POD, "default", "web"))["metadata"]["resourceVersion"]
        await world.until(60)
        assert (await world.api.get(kinds.POD, "default", "web"))["metadata"]["resourceVersion"] == version
        await world.api.patch(kinds.POD, "default", "web", {"metadata": {"finalizers": None}})
        assert not await world.exists() and len(world.sandboxes) == 1

    scenario(tmp_path, play)


def test_what_keeps_a_sandbox_from_being_made_is_told_and_tried_again(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.sandbox_errors = [GlassnetError("no namespaces left"), OSError(28, "No space left on device")]
        await world.pod(c())
        await world.until(0.3)
        assert (await world.container())["state"] == {"waiting": {"reason": "ContainerCreating"}}
        assert await world.events("FailedCreatePodSandBox") == ["Failed to create pod sandbox: no namespaces left"]
        assert (await world.conditions())["PodReadyToStartContainers"]["status"] == "False"
        await world.until(5)
        assert (await world.status())["phase"] == "Running"

    scenario(tmp_path, play)


def test_what_refuses_to_go_is_tried_again(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c())
        await world.until(1)
        world.cni.delete_errors = [GlassnetError("iptables is locked")]
        await world.delete()
        await world.until(1.2)
        assert await world.exists() and await world.events("FailedKillPod") == ["error killing pod: iptables is locked"]
        await world.until(5)
        assert not await world.exists() and world.cni.out == {}

    scenario(tmp_path, play)


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        world.start_errors["c"] = GlassnetError("no such program")
        await world.pod(c())
        await world.until(5)
        shown = await world.container()
        assert shown["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert shown["lastState"]["terminated"]["message"] == "no such program"
        del world.start_errors["c"]
        await world.until(11)
        assert (await world.container())["ready"]

    scenario(tmp_path, play)


def test_a_deadline_ends_the_pod(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c(), activeDeadlineSeconds=60)
        await world.until(59)
        assert (await world.status())["phase"] == "Running"
        await world.until(62)
        status = await world.status()
        assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
        assert status["message"] == "Pod was active on the node longer than the specified deadline"
        assert world.cni.out == {}

    scenario(tmp_path, play)


def test_a_new_image_restarts_the_container(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c())
        await world.until(1)
        patch = {"spec": {"containers": [c(image="httpd")]}}
        await world.api.patch(kinds.POD, "default", "web", patch, content_type="application/strategic-merge-patch+json")
        await world.until(2)
        assert [image for _, image, *_ in world.started] == ["nginx", "httpd"]
        assert await world.events("Killing") == ["Container c definition changed, will be restarted"]
        assert (await world.container())["restartCount"] == 1

    scenario(tmp_path, play)


def test_an_agent_started_anew_starts_the_pods_anew(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c())
        await world.pod(c(), name="done", restartPolicy="Never")
        await world.until(1)
        world.sandboxes[1].running["c"].exit(0)
        await world.until(2)
        await world.restart_agent()
        await world.until(3)
        assert (await world.container())["restartCount"] == 1 and (await world.container())["ready"]
        assert (await world.status("done"))["phase"] == "Succeeded" and len(world.sandboxes) == 3
        await world.delete(name="done")
        await world.until(4)
        assert not await world.exists("done")

    scenario(tmp_path, play)


def test_readiness_gates(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c(), readinessGates=[{"conditionType": "example.com/lb"}])
        await world.until(1)
        conditions = await world.conditions()
        assert conditions["ContainersReady"]["status"] == "True"
        assert (conditions["Ready"]["status"], conditions["Ready"]["reason"]) == ("False", "ReadinessGatesNotReady")

    scenario(tmp_path, play)


def test_a_status_is_written_when_something_changed_and_not_otherwise(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.pod(c("a"), c("b"), c("d"))
        await world.until(1)
        version = (await world.api.get(kinds.POD, "default", "web"))["metadata"]["resourceVersion"]
        await world.until(3600)
        assert (await world.api.get(kinds.POD, "default", "web"))["metadata"]["resourceVersion"] == version

    scenario(tmp_path, play)


def test_the_node_and_its_lease(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        await world.kubelet.register()
        node = await world.api.get(kinds.NODE, "", "worker-0")
        assert node["status"]["addresses"] == [
            {"type": "InternalIP", "address": "10.240.0.20"},
            {"type": "ExternalIP", "address": "203.0.113.20"},
            {"type": "Hostname", "address": "worker-0"},
        ]
        assert node["spec"]["podCIDR"] == "10.200.0.0/24"
        assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.36.2+glassnet"
        assert (tmp_path / "opt/cni/bin/bridge").stat().st_mode & 0o111
        first = (await world.api.get(kinds.LEASE, "kube-node-lease", "worker-0"))["spec"]["renewTime"]
        await world.until(10)
        await world.kubelet.heartbeat()
        assert (await world.api.get(kinds.LEASE, "kube-node-lease", "worker-0"))["spec"]["renewTime"] > first
        await world.kubelet.register()

    scenario(tmp_path, play)
