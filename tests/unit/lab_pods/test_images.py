"""The table from image names to programs."""

from __future__ import annotations

from typing import Any

import pytest

from glassnet.kube import kinds
from glassnet.kube.types import Container, decode
from glassnet.lab.pods import images
from glassnet.lab.pods.images import (
    AksHelloworld,
    EchoServer,
    FixedText,
    Httpd,
    Netexec,
    Nginx,
    Pause,
    Refuse,
    Run,
    ServeHostname,
    StandIn,
    Whoami,
    base_name,
    is_stand_in,
    program_of,
    stand_in_text,
)


def container(image: str, *args: str, command: tuple[str, ...] = ()) -> Container:
    return Container(name="c", image=image, args=args, command=command)


def from_json(text: str) -> Container:
    pod = decode(kinds.POD, '{"metadata": {"name": "p"}, "spec": {"containers": [' + text + "]}}")
    found: Container = pod.spec.containers[0]
    return found


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("nginx", "nginx"),
        ("nginx:1.27", "nginx"),
        ("docker.io/library/nginx:1.27-alpine", "nginx"),
        ("localhost:5000/nginx", "nginx"),
        ("registry.example:5000/a/b/nginx:x@sha256:0123", "nginx"),
        ("registry.k8s.io/e2e-test-images/agnhost:2.47", "agnhost"),
        ("mcr.microsoft.com/azuredocs/aks-helloworld:v1", "aks-helloworld"),
        ("traefik/whoami", "whoami"),
        ("", ""),
    ],
)
def test_the_repositorys_last_component_names_an_image(image: str, name: str) -> None:
    assert base_name(image) == name


@pytest.mark.parametrize(
    ("image", "args", "program"),
    [
        ("nginx:1.27", (), Nginx()),
        ("nginx", ("nginx", "-g", "daemon off;"), Nginx()),
        ("nginx", ("-g", "daemon off;"), Nginx()),
        ("nginxinc/nginx-unprivileged", (), Nginx(port=8080)),
        ("nginx", ("sleep", "3600"), Run(("sleep", "3600"))),
        ("httpd:2.4", (), Httpd()),
        ("agnhost", (), Pause()),
        ("agnhost", ("pause",), Pause()),
        ("agnhost", ("netexec",), Netexec()),
        ("agnhost", ("netexec", "--http-port=9090", "--udp-port", "-1"), Netexec(9090, -1)),
        ("agnhost", ("netexec", "--sctp-port=38412", "--delay-shutdown=60"), Netexec(8080, 8081, 38412, 60)),
        ("agnhost", ("serve-hostname",), ServeHostname()),
        ("agnhost", ("serve-hostname", "--port=80", "--udp"), ServeHostname(80, udp=True, http=False)),
        ("agnhost", ("serve-hostname", "--tcp", "--http=false"), ServeHostname(9376, tcp=True, http=False)),
        ("registry.k8s.io/pause:3.9", (), Pause()),
        ("traefik/whoami", ("--port=2001", "--name=iamfoo"), Whoami(2001, "iamfoo")),
        ("registry.k8s.io/echoserver:1.10", (), EchoServer(8080)),
        ("hashicorp/http-echo", ("-text=hi", "-listen=:80"), FixedText("hi\n", 80)),
        ("busybox", (), Run(("sh",))),
        ("busybox:1.36", ("sleep", "1"), Run(("sleep", "1"))),
        ("debian", (), Run(("bash",))),
        ("curlimages/curl", ("-s", "http://web"), Run(("curl", "-s", "http://web"))),
    ],
)
def test_known_images(image: str, args: tuple[str, ...], program: images.Program) -> None:
    assert program_of(container(image, *args), {}) == program


@pytest.mark.parametrize(
    ("image", "command", "args", "program"),
    [
        ("nginx", ("sleep", "3600"), (), Run(("sleep", "3600"))),
        ("nginx", ("nginx", "-g", "daemon off;"), (), Nginx()),
        ("nginx", ("/usr/sbin/nginx",), ("-g", "daemon off;"), Nginx()),
        ("agnhost", ("/agnhost", "netexec"), ("--http-port=80",), Netexec(80)),
        ("agnhost", ("/agnhost",), ("netexec",), Netexec()),
        ("agnhost", ("sh", "-c"), ("echo hi",), Run(("sh", "-c", "echo hi"))),
        ("curlimages/curl", ("sleep",), ("5",), Run(("sleep", "5"))),
        ("nobody/knows", ("sh",), ("-c", "true"), Run(("sh", "-c", "true"))),
    ],
)
def test_a_command_is_a_process_unless_it_is_the_images_own_program(
    image: str, command: tuple[str, ...], args: tuple[str, ...], program: images.Program
) -> None:
    assert program_of(container(image, *args, command=command), {}) == program


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("netexec", "--htp-port=1"), "unknown flag: --htp-port"),
        (("netexec", "--http-port=abc"), '"abc"'),
        (("netexec", "--http-port"), "needs an argument"),
        (("netexec", "--http-port=70000"), "70000"),
        (("netexec", "--http-port=-1"), "invalid port"),
        (("netexec", "--tls-cert-file=/x"), "--tls-cert-file"),
        (("serve-hostname", "--tcp", "--http"), "cannot share"),
        (("serve-hostname", "--http=perhaps"), "perhaps"),
        (("dance",), 'unknown command "dance"'),
    ],
)
def test_arguments_a_program_refuses(args: tuple[str, ...], words: str) -> None:
    program = program_of(container("agnhost", *args), {})
    assert isinstance(program, Refuse)
    assert words in program.message
    assert program.code == 1


def test_environment_reaches_the_programs_that_read_it() -> None:
    assert program_of(container("aks-helloworld"), {"TITLE": "Hi"}) == AksHelloworld("Hi")
    assert program_of(container("whoami"), {"WHOAMI_PORT_NUMBER": "81"}) == Whoami(81)
    assert isinstance(program_of(container("whoami"), {"WHOAMI_PORT_NUMBER": "x"}), Refuse)
    hello = program_of(container("gcr.io/google-samples/hello-app:1.0"), {"PORT": "9000"})
    assert isinstance(hello, FixedText)
    assert hello.port == 9000


def test_a_stand_in_has_declared_and_probed_ports() -> None:
    unknown = from_json(
        """{"name": "dns", "image": "coredns", "args": ["-conf", "x"],
            "ports": [{"containerPort": 53, "protocol": "UDP", "name": "dns"}, {"containerPort": 53, "name": "dns-tcp"},
                      {"containerPort": 9153, "name": "metrics"}, {"containerPort": 10250, "name": "https"}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}},
            "livenessProbe": {"httpGet": {"port": "https", "scheme": "HTTPS"}},
            "startupProbe": {"tcpSocket": {"port": "metrics"}}}"""
    )
    assert program_of(unknown, {}) == StandIn(tcp=(53, 8181, 9153), tls=(10250,), udp=(53,))
    assert is_stand_in(unknown)
    said = stand_in_text(unknown)
    for word in ("coredns", "stand-in", "8181/TCP", "53/UDP", "10250/TCP (TLS)"):
        assert word in said


def test_a_stand_in_without_ports_says_so() -> None:
    assert program_of(container("nobody/knows"), {}) == StandIn()
    assert "listens nowhere" in stand_in_text(container("nobody/knows"))


@pytest.mark.parametrize(
    "known", [container("nginx"), container("nobody/knows", command=("sh",)), container("busybox")]
)
def test_known_images_and_commands_are_no_stand_ins(known: Container) -> None:
    assert stand_in_text(known) == ""


def test_probes_of_other_hosts_open_no_port() -> None:
    values: dict[str, Any] = {"host": "other.example", "port": 99}
    unknown = from_json(
        f'{{"name": "x", "image": "x", "readinessProbe": {{"tcpSocket": {{"host": "{values["host"]}", "port": 99}}}}}}'
    )
    assert program_of(unknown, {}) == StandIn()
