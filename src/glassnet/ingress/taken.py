"""One of our Ingresses, taken in: its options with all they need, and its problems as they are found."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import lru_cache

from glassnet.ingress import options
from glassnet.ingress.model import Problem, Settings
from glassnet.ingress.options import reading
from glassnet.kube import kinds
from glassnet.kube.ingress import Ingress
from glassnet.kube.types import Data
from glassnet.kube.view import Key, View


class Taken:
    """One Ingress. `hosts` are those of its rules that can be served, in order; `files` what its options need beside nginx.conf."""

    def __init__(self, ingress: Ingress, view: View, settings: Settings) -> None:
        self.ingress = ingress
        self.key = Key(ingress.metadata.namespace, ingress.metadata.name)
        self.problems: dict[Problem, None] = {}
        self.hosts: list[str] = []
        given = ingress.metadata.annotations
        read, complaints = _read(tuple(sorted(each for each in given.items() if each[0].startswith(reading.PREFIX))))
        self.options, self.files = read, dict[str, bytes]()
        if read is not options.NONE:
            complaints += self._resolve(view, settings)
        for reason, message in complaints:
            self.wrong(reason, message)

    def _resolve(self, view: View, settings: Settings) -> tuple[options.Complaint, ...]:
        objects = options.Objects(
            self.key.namespace,
            _data(view, kinds.SECRET, self.key, self.options.secrets),
            _data(view, kinds.CONFIG_MAP, self.key, self.options.config_maps),
            settings.resolvers,
            tuple(rule.host for rule in self.ingress.spec.rules) or ("",),
        )
        self.options = options.resolve(self.options, objects)
        self.files = objects.files
        return tuple(objects.complaints)

    def wrong(self, reason: str, message: str) -> None:
        """Note a problem, once."""
        self.problems[Problem("Ingress", self.key, reason, message)] = None


@lru_cache(16384)
def _read(annotations: tuple[tuple[str, str], ...]) -> tuple[options.Options, tuple[options.Complaint, ...]]:
    if not annotations:
        return options.NONE, ()
    read, complaints = options.read(dict(annotations))
    return read, tuple(complaints)


def _data(view: View, kind: kinds.Kind, ingress: Key, names: frozenset[str]) -> Mapping[str, Mapping[str, bytes]]:
    """Objects of the Ingress's own namespace by name; those of others are not for it."""
    out = {}
    for text in sorted(names):
        namespace, _, name = text.rpartition("/")
        found: Data | None = view.get(kind, Key(ingress.namespace, name))
        if found is not None and namespace in ("", ingress.namespace):
            out[name] = _octets(found, encoded=kind is kinds.SECRET)
    return out


def _octets(found: Data, *, encoded: bool) -> dict[str, bytes]:
    out = {}
    for name, text in found.data.items():
        try:
            out[name] = base64.b64decode(text) if encoded else text.encode()
        except (binascii.Error, ValueError):
            continue
    return out
