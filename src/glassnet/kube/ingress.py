"""Ingress and IngressClass (networking.k8s.io/v1)."""

from __future__ import annotations

from typing import Any

from msgspec import field

from glassnet.kube.meta import Meta, Obj


class ServiceBackendPort(Obj, frozen=True, rename="camel", gc=False):
    """One of both: the port's name, or its number."""

    name: str = ""
    number: int = 0

    def __str__(self) -> str:
        return self.name or str(self.number or "")


class IngressServiceBackend(Obj, frozen=True, rename="camel", gc=False):
    """A Service of the Ingress's namespace."""

    name: str = ""
    port: ServiceBackendPort = ServiceBackendPort()


class IngressBackend(Obj, frozen=True, rename="camel", gc=False):
    """One of both: a Service, or any other object (`resource`)."""

    service: IngressServiceBackend | None = None
    resource: dict[str, Any] | None = None


class HTTPIngressPath(Obj, frozen=True, rename="camel", gc=False):
    """A path and what it leads to."""

    path: str = ""
    path_type: str = "ImplementationSpecific"
    backend: IngressBackend = IngressBackend()


class HTTPIngressRuleValue(Obj, frozen=True, rename="camel", gc=False):
    """The paths of a rule."""

    paths: tuple[HTTPIngressPath, ...] = ()


class IngressRule(Obj, frozen=True, rename="camel", gc=False):
    """A host ("" for all) and its paths; without `http` all of the host is for the default backend."""

    host: str = ""
    http: HTTPIngressRuleValue | None = None


class IngressTLS(Obj, frozen=True, rename="camel", gc=False):
    """A Secret with the certificate of these hosts."""

    hosts: tuple[str, ...] = ()
    secret_name: str = ""


class IngressSpec(Obj, frozen=True, rename="camel", gc=False):
    """What an Ingress asks for."""

    ingress_class_name: str | None = None
    default_backend: IngressBackend | None = None
    tls: tuple[IngressTLS, ...] = ()
    rules: tuple[IngressRule, ...] = ()


class IngressLoadBalancerIngress(Obj, frozen=True, rename="camel", gc=False):
    """One place where the Ingress is served."""

    ip: str = ""
    hostname: str = ""
    ports: tuple[dict[str, Any], ...] = ()


class IngressLoadBalancerStatus(Obj, frozen=True, rename="camel", gc=False):
    """All places."""

    ingress: tuple[IngressLoadBalancerIngress, ...] = ()


class IngressStatus(Obj, frozen=True, rename="camel", gc=False):
    """Where the Ingress is served."""

    load_balancer: IngressLoadBalancerStatus = field(default=IngressLoadBalancerStatus())


class Ingress(Obj, frozen=True, rename="camel", gc=False):
    """Hosts and paths, and the Services behind them."""

    metadata: Meta
    spec: IngressSpec = IngressSpec()
    status: IngressStatus = IngressStatus()


class IngressClassSpec(Obj, frozen=True, rename="camel", gc=False):
    """Who serves the Ingresses of a class."""

    controller: str = ""
    parameters: dict[str, Any] | None = None


class IngressClass(Obj, frozen=True, rename="camel", gc=False):
    """A class of Ingresses."""

    metadata: Meta
    spec: IngressClassSpec = IngressClassSpec()
