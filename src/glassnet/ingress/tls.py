"""Which certificate a host has."""

from __future__ import annotations

from glassnet.ingress import certificates, paths
from glassnet.ingress.hosts import Hosts
from glassnet.ingress.model import Certificate, Problem, Settings
from glassnet.ingress.taken import Taken
from glassnet.kube import kinds
from glassnet.kube.ingress import IngressTLS
from glassnet.kube.view import Key, View


class Certificates:
    """Certificates by host. Ingresses are added oldest first. `by_host` has names of certificates, "" for the default one; `owners` whose."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._default = ""
        self.owners: dict[str, Key] = {}
        self.by_host: dict[str, str] = {}
        self.used: dict[str, Certificate] = {}

    def default(self, settings: Settings) -> tuple[str, list[Problem]]:
        """The name of the default certificate, "" for the one made at the start; what is wrong with the Secret that was asked for."""
        if not settings.default_certificate:
            return "", []
        self._default = settings.default_certificate
        namespace, _, name = self._default.partition("/")
        key = Key(namespace, name)
        try:
            found = certificates.of(self._view.get(kinds.SECRET, key), key)
        except certificates.BadCertificate as error:
            return "", [Problem("Secret", key, "BadCertificate", f"default certificate: {error}; a self-signed one is used")]  # fmt: skip
        self.used[found.name] = found
        return found.name, []

    def add(self, taken: Taken, hosts: Hosts) -> None:
        """What spec.tls of an Ingress says."""
        for number, entry in enumerate(taken.ingress.spec.tls):
            name = self._certificate(taken, number, entry)
            listed = []
            for text in entry.hosts:
                try:
                    listed.append(paths.host(text))
                except paths.BadHost as error:
                    taken.wrong("BadHost", f"spec.tls[{number}].hosts: {error}; it is left out")
            if not entry.hosts:  # the hosts of its own rules, as far as the certificate is for them
                listed = [host for host in taken.hosts or [""] if not host or not name or self._is_for(name, host)]
            for host in listed:
                self._claim(taken, number, host, name)
            for host in taken.hosts:
                if host in listed or paths.parent(host) in listed:
                    hosts.by_name[host].tls = True

    def of(self, host: str) -> str:
        """The certificate of a host: its own, else that of the wildcard that covers it, else the default one."""
        if host in self.by_host:
            return self.by_host[host]
        return self.by_host.get(paths.parent(host) or host, "")

    def _certificate(self, taken: Taken, number: int, entry: IngressTLS) -> str:
        if not entry.secret_name:
            return ""
        key = Key(taken.key.namespace, entry.secret_name)
        try:
            found = certificates.of(self._view.get(kinds.SECRET, key), key)
        except certificates.BadCertificate as error:
            taken.wrong("BadCertificate", f"spec.tls[{number}]: {error}; the default certificate is used")
            return ""
        self.used[found.name] = found
        return found.name

    def _is_for(self, name: str, host: str) -> bool:
        names = certificates.names(self.used[name].chain)
        return host in names or paths.parent(host) in names

    def _claim(self, taken: Taken, number: int, host: str, name: str) -> None:
        if not host and name and self._default:
            taken.wrong(
                "Conflict",
                f"spec.tls[{number}]: the controller has a default certificate of its own, Secret {self._default}",
            )
        elif host not in self.by_host:
            self.by_host[host], self.owners[host] = name, taken.key
        elif name and name != self.by_host[host] and self.owners[host] != taken.key:
            if not self.by_host[
                host
            ]:  # the older Ingress asks for no certificate of its own, or has none that can be used
                self.by_host[host], self.owners[host] = name, taken.key
                return
            taken.wrong("Conflict", f"spec.tls[{number}]: the certificate of host {host or '*'} is that of the older Ingress {self.owners[host]}, which keeps it")  # fmt: skip
