"""A pod's volumes: directories on the node's disk, filled from API objects. Source: Kubernetes documentation, "Volumes", "Projected Volumes"."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glassnet.agent.pods import environment
from glassnet.agent.pods.environment import MissingReference
from glassnet.kernel.api import Machine
from glassnet.kube import kinds
from glassnet.kube.api import Api
from glassnet.kube.types import Pod
from glassnet.kube.view import Key, View
from glassnet.net.errors import ApiError, CommandError

PODS = "/var/lib/kubelet/pods"
PLUGINS = {
    "emptyDir": "empty-dir",
    "configMap": "configmap",
    "secret": "secret",
    "downwardAPI": "downward-api",
    "projected": "projected",
}
ANY_PATH = '[ -e "$1" ] || mkdir -p "$1"'  # without a type a runtime makes what a mount lacks
HOST_PATHS = {
    "DirectoryOrCreate": ('mkdir -p "$1"', "is not a directory"),
    "FileOrCreate": ('[ -f "$1" ] || : > "$1"', "is not a file"),
    "Directory": ('[ -d "$1" ]', "is not a directory"),
    "File": ('[ -f "$1" ]', "is not a file"),
    "Socket": ('[ -S "$1" ]', "is not a socket file"),
    "CharDevice": ('[ -c "$1" ]', "is not a character device"),
    "BlockDevice": ('[ -b "$1" ]', "is not a block device"),
}
Files = dict[str, tuple[bytes, int]]


class Volumes:
    """Lays out the volumes of one machine's pods. `allocatable` are the node's resources, for downward API files."""

    def __init__(self, machine: Machine, view: View, api: Api, allocatable: Mapping[str, str]) -> None:
        self._machine, self._root, self._view, self._api = machine, machine.root, view, api
        self._allocatable = allocatable

    async def lay_out(self, pod: Pod) -> dict[str, str]:
        """Path on the node by volume. Raises MissingReference in the kubelet's words for the first that cannot be had."""
        places = {}
        for volume in pod.spec.volumes:
            name = str(volume.get("name"))
            try:
                places[name] = await self._volume(pod, name, volume)
            except (MissingReference, ApiError) as error:
                raise MissingReference(f'MountVolume.SetUp failed for volume "{name}" : {error}') from None
            except OSError as error:
                words = f"{error.filename}: {error.strerror}"
                raise MissingReference(f'MountVolume.SetUp failed for volume "{name}" : {words}') from None
        return places

    def discard(self, pod: Pod) -> None:
        """Take a pod's volumes away; idempotent. Raises OSError when the disk refuses."""
        place = self._root / PODS.lstrip("/") / pod.metadata.uid
        if pod.spec.volumes and place.exists():
            shutil.rmtree(place)

    async def _volume(self, pod: Pod, name: str, volume: Mapping[str, Any]) -> str:
        if "hostPath" in volume:
            return await self._host_path(volume["hostPath"])
        kind = next((key for key in volume if key != "name"), "emptyDir")
        if kind not in PLUGINS:
            raise MissingReference(f"no volume plugin matched: nodes have none for {kind} volumes")
        place = f"{PODS}/{pod.metadata.uid}/volumes/kubernetes.io~{PLUGINS[kind]}/{name}"
        root = self._root / place.lstrip("/")
        files = await self._files(pod, kind, volume.get(kind) or {})
        root.mkdir(parents=True, exist_ok=True)
        if kind == "emptyDir":
            root.chmod(0o777)
        for path, (data, mode) in files.items():
            _write(root, path, data, mode)
        return place

    async def _host_path(self, source: Mapping[str, Any]) -> str:
        """A program on the machine looks, not this process: links on the machine's disk lead within that disk."""
        path, kind = str(source.get("path")), str(source.get("type") or "")
        script, words = HOST_PATHS.get(kind, (ANY_PATH, "cannot be made"))
        try:
            await self._machine.run(["sh", "-c", script, "sh", path])
        except CommandError:
            raise MissingReference(f"hostPath type check failed: {path} {words}") from None
        return path

    # -- what is in them

    async def _files(self, pod: Pod, kind: str, source: Mapping[str, Any]) -> Files:
        if kind == "projected":
            found: Files = {}
            for part in source.get("sources") or ():
                found |= await self._projection(pod, part, int(source.get("defaultMode") or 0o644))
            return found
        return self._object_files(pod, kind, source)

    async def _projection(self, pod: Pod, part: Mapping[str, Any], mode: int) -> Files:
        for kind, source in part.items():
            if kind == "serviceAccountToken":
                return {str(source["path"]): (await self._token(pod, source), mode)}
            if kind in ("configMap", "secret", "downwardAPI"):
                return self._object_files(pod, kind, {"defaultMode": mode, **source})
        raise MissingReference(f"projection of {', '.join(part) or 'nothing'} is not supported here")

    async def _token(self, pod: Pod, source: Mapping[str, Any]) -> bytes:
        audience = [source["audience"]] if source.get("audience") else []
        meta = pod.metadata
        bound = {"kind": "Pod", "apiVersion": "v1", "name": meta.name, "uid": meta.uid}
        spec = {
            "audiences": audience,
            "expirationSeconds": source.get("expirationSeconds") or 3600,
            "boundObjectRef": bound,
        }
        account = pod.spec.service_account_name or "default"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        try:
            answer = await self._api.create(kinds.SERVICE_ACCOUNT, meta.namespace, request, "token", account)
            return str(answer["status"]["token"]).encode()
        except (ApiError, KeyError) as error:
            raise MissingReference(f"failed to fetch token: {error}") from None

    def _object_files(self, pod: Pod, kind: str, source: Mapping[str, Any]) -> Files:
        mode = int(source.get("defaultMode") or 0o644)
        if kind == "downwardAPI":
            return {
                str(item["path"]): (self._field(pod, item), item.get("mode") or mode)
                for item in source.get("items") or ()
            }
        if kind == "emptyDir":
            return {}
        of, name = (kinds.SECRET, source.get("secretName")) if kind == "secret" else (kinds.CONFIG_MAP, None)
        key = Key(pod.metadata.namespace, str(name or source.get("name") or ""))
        optional = bool(source.get("optional"))
        data = environment.object_data(self._view, of, key, optional)
        if not source.get("items"):
            return {name: (value, mode) for name, value in data.items()}
        found = {}
        for item in source["items"]:
            if item["key"] in data:
                found[str(item["path"])] = (data[item["key"]], item.get("mode") or mode)
            elif not optional:
                raise MissingReference(
                    f"{of.name.lower()} references non-existent {of.name.lower()} key: {item['key']}"
                )
        return found

    def _field(self, pod: Pod, item: Mapping[str, Any]) -> bytes:
        if ref := item.get("resourceFieldRef"):
            return environment.resource(pod, ref, self._allocatable).encode()
        return environment.field(pod, (item.get("fieldRef") or {}).get("fieldPath", ""), "", "").encode()


def _write(root: Path, path: str, data: bytes, mode: int) -> None:
    """A file of a volume. Raises MissingReference for a path that leads out of it."""
    if path.startswith("/") or ".." in path.split("/"):
        raise MissingReference(f"{path}: a path within the volume is wanted")
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
    target.chmod(mode)
