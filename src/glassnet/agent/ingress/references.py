"""Which objects Ingresses speak of: what happens to others need wake nobody, and Secrets that nobody names need not be read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from glassnet.kube import kinds
from glassnet.kube.view import SERVICE_NAME_LABEL, Event, Key

_PREFIX = "nginx.ingress.kubernetes.io/"
# annotations whose value is [NAMESPACE/]NAME of an object
_SECRETS = tuple(_PREFIX + name for name in ("auth-secret", "proxy-ssl-secret", "auth-tls-secret"))
_CONFIG_MAPS = (_PREFIX + "custom-headers",)
_SERVICES = (_PREFIX + "default-backend",)


class References(NamedTuple):
    """The Services, Secrets and ConfigMaps that a set of Ingresses names."""

    services: frozenset[Key] = frozenset()
    secrets: frozenset[Key] = frozenset()
    config_maps: frozenset[Key] = frozenset()

    def concern(self, event: Event) -> bool:
        """Whether something NGINX is to do may have changed by an event."""
        match event.kind:
            case kinds.INGRESS:
                return not _only_status(event)
            case kinds.INGRESS_CLASS:
                return True
            case kinds.SERVICE:
                return event.key in self.services
            case kinds.SECRET:
                return event.key in self.secrets
            case kinds.CONFIG_MAP:
                return event.key in self.config_maps
            case kinds.ENDPOINT_SLICE:
                pieces = [piece for piece in (event.old, event.new) if piece is not None]
                names = {piece.metadata.labels.get(SERVICE_NAME_LABEL, "") for piece in pieces}
                return any(Key(event.key.namespace, name) in self.services for name in names)
        return False


def _only_status(event: Event) -> bool:
    """Whether all that changed of an Ingress is its status."""
    old, new = event.old, event.new
    return (
        old is not None and new is not None and old.spec == new.spec
        and (old.metadata.uid, old.metadata.annotations) == (new.metadata.uid, new.metadata.annotations)
    )  # fmt: skip


def references(ingresses: Iterable[Any], extra_secret: str = "") -> References:
    """What these Ingresses name; `extra_secret` is NAMESPACE/NAME of a further Secret."""
    services: set[Key] = set()
    secrets: set[Key] = set()
    config_maps: set[Key] = set()
    if extra_secret:
        secrets.add(_key(extra_secret, ""))
    for ingress in ingresses:
        meta, spec = ingress.metadata, ingress.spec
        here = meta.namespace
        for each in spec.tls:
            if each.secret_name:
                secrets.add(Key(here, each.secret_name))
        for backend in _backends(spec):
            if backend is not None and backend.service is not None:
                services.add(Key(here, backend.service.name))
        for names, found in ((_SECRETS, secrets), (_CONFIG_MAPS, config_maps), (_SERVICES, services)):
            found |= {_key(meta.annotations[name], here) for name in names if name in meta.annotations}
    return References(frozenset(services), frozenset(secrets), frozenset(config_maps))


def _backends(spec: Any) -> Iterable[Any]:
    yield spec.default_backend
    for rule in spec.rules:
        for path in rule.http.paths if rule.http is not None else ():
            yield path.backend


def _key(text: str, namespace: str) -> Key:
    where, slash, name = text.partition("/")
    return Key(where, name) if slash else Key(namespace, text)
