"""Options that name other objects of the API: their content taken in, and what is missing told."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from glassnet.ingress.options.reading import INVALID, PREFIX, Complaint

_NOTHING: Mapping[str, Mapping[str, bytes]] = MappingProxyType({})


class Objects:
    """What an Ingress' options may look at: Secrets and ConfigMaps of its namespace, by name, with their decoded values.

    `resolvers` are addresses of name servers, `hosts` those of the Ingress' rules ("" for all others). `files` and `complaints` fill up while options take what they need; `denied` says why nobody
    may be let in. The names of files are relative to the directory of nginx.conf.
    """

    def __init__(
        self,
        namespace: str,
        secrets: Mapping[str, Mapping[str, bytes]] = _NOTHING,
        config_maps: Mapping[str, Mapping[str, bytes]] = _NOTHING,
        resolvers: tuple[str, ...] = (),
        hosts: tuple[str, ...] = (),
    ) -> None:
        self.namespace, self.resolvers, self.hosts = namespace, resolvers, hosts
        self._secrets, self._config_maps = secrets, config_maps
        self.files: dict[str, bytes] = {}
        self.complaints: list[Complaint] = []
        self.denied = ""

    def complain(self, name: str, what: str, *, closes: bool = False) -> None:
        """Records what annotation `name` lacks. With `closes` the Ingress answers 503."""
        end = "; until then the Ingress answers 503" if closes else ""
        self.complaints.append(Complaint(INVALID, f"{PREFIX}{name}: {what}{end}"))
        if closes:
            self.denied = self.denied or f"{PREFIX}{name}: {what}"

    def secret(self, annotation: str, reference: str) -> Mapping[str, bytes] | None:
        """The Secret NAME or NAMESPACE/NAME, whose lack closes the Ingress. Another namespace's is nobody's to read."""
        return self._find("Secret", self._secrets, annotation, reference, closes=True)

    def config_map(self, annotation: str, reference: str) -> Mapping[str, bytes] | None:
        """The ConfigMap NAME or NAMESPACE/NAME."""
        return self._find("ConfigMap", self._config_maps, annotation, reference, closes=False)

    def _find(
        self, kind: str, among: Mapping[str, Mapping[str, bytes]], annotation: str, reference: str, *, closes: bool
    ) -> Mapping[str, bytes] | None:
        namespace, _, name = reference.rpartition("/")
        if namespace not in ("", self.namespace):
            self.complain(annotation, f"{kind} {reference} is of another namespace", closes=closes)
            return None
        if name not in among:
            self.complain(annotation, f"there is no {kind} {self.namespace}/{name}", closes=closes)
            return None
        return among[name]
