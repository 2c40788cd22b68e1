"""The table from image names to what runs for them: a built-in server, nothing at all, or the host's programs. Pure.

An image is known by the last component of its repository: `docker.io/library/nginx:1.27`, `nginx` and `mirror.example/nginx@sha256:…`
are one. Defaults of ports, flags and environment are those of the images' own documentation and Dockerfiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from glassnet.kube.types import Container, Probe
from glassnet.lab.pods.flags import FlagError, Value, parse_flags

AKS_TITLE = "Welcome to Azure Container Service (AKS)"


@dataclass(frozen=True, slots=True)
class Run:
    """Real processes: the host's programs in the pod's namespaces."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Runs, listens nowhere, ends when told to."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """A program that ends at once because of its arguments."""

    message: str
    code: int = 1


@dataclass(frozen=True, slots=True)
class Nginx:
    """nginx as its image configures it: files under `root`, in the pod, once something is mounted there."""

    port: int = 80
    root: str = "/usr/share/nginx/html"


@dataclass(frozen=True, slots=True)
class Httpd:
    """The Apache server's image."""

    port: int = 80
    root: str = "/usr/local/apache2/htdocs"


@dataclass(frozen=True, slots=True)
class Netexec:
    """agnhost netexec: HTTP, UDP and SCTP answers about the pod and the client; -1 turns a server off."""

    http_port: int = 8080
    udp_port: int = 8081
    sctp_port: int = -1
    delay_shutdown: int = 0
    http_override: str = ""


@dataclass(frozen=True, slots=True)
class ServeHostname:
    """agnhost serve-hostname: the host name over HTTP, or over TCP and UDP."""

    port: int = 9376
    tcp: bool = False
    udp: bool = False
    http: bool = True


@dataclass(frozen=True, slots=True)
class AksHelloworld:
    """The page of Azure's AKS tutorials."""

    title: str = AKS_TITLE
    port: int = 80


@dataclass(frozen=True, slots=True)
class FixedText:
    """One text for every request; with `host_line` the host name is appended."""

    text: str
    port: int
    host_line: bool = False


@dataclass(frozen=True, slots=True)
class Whoami:
    """traefik/whoami: says who answered, and gives the request back."""

    port: int = 80
    name: str = ""


@dataclass(frozen=True, slots=True)
class EchoServer:
    """Says who answered and what was asked, with the request's body."""

    port: int = 8080


@dataclass(frozen=True, slots=True)
class StandIn:
    """Answers for an image nobody knows, on the ports its author declared or probes."""

    tcp: tuple[int, ...] = ()
    tls: tuple[int, ...] = ()
    udp: tuple[int, ...] = ()
    sctp: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Own:
    """A part of glassnet, by the words of its command, that works in the lab's own process."""

    command: tuple[str, ...]
    args: tuple[str, ...]


Program = (
    Run
    | Own
    | Pause
    | Refuse
    | Nginx
    | Httpd
    | Netexec
    | ServeHostname
    | AksHelloworld
    | FixedText
    | Whoami
    | EchoServer
    | StandIn
)

Env = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Image:
    """One row: the file names of the program the image starts, and what its arguments and environment make of it.

    `programs` are the names that stand for the built-in when a container's `command` begins with one of them.
    `bare` images take a program's name as first argument (their entry point executes its arguments).
    """

    programs: tuple[str, ...]
    make: Callable[[Sequence[str], Env], Program]
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Tools:
    """An image of programs: `entrypoint` comes before the arguments, `default` replaces absent ones."""

    default: tuple[str, ...] = ("sh",)
    entrypoint: tuple[str, ...] = ()


def base_name(image: str) -> str:
    """The last component of an image's repository, without registry, tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0].lower()


def program_of(container: Container, env: Env) -> Program:
    """What runs for a container."""
    row = _IMAGES.get(base_name(container.image))
    command, args = container.command, container.args
    if isinstance(row, Tools):
        return Run(command + args if command else row.entrypoint + (args or row.default))
    if row is None:
        return Run(command + args) if command else stand_in_of(container)
    if command:
        if base_name(command[0]) not in row.programs:
            return Run(command + args)
        args = command[1:] + args
    elif row.bare and args and not args[0].startswith("-"):
        if args[0] not in row.programs:
            return Run(args)
        args = args[1:]
    return row.make(args, env)


def is_stand_in(container: Container) -> bool:
    """True when nobody knows the image and nothing else says what to run."""
    return base_name(container.image) not in _IMAGES and not container.command


def stand_in_text(container: Container) -> str:
    """What an Event says of a stand-in; "" when the image is known or the container says what to run."""
    if not is_stand_in(container):
        return ""
    stand_in = stand_in_of(container)
    ports = [f"{port}/TCP" for port in stand_in.tcp]
    ports += [f"{port}/TCP (TLS)" for port in stand_in.tls]
    ports += [f"{port}/UDP" for port in stand_in.udp]
    ports += [f"{port}/SCTP" for port in stand_in.sctp]
    does = f"answers on {', '.join(ports)}" if ports else "listens nowhere, as the container declares no port"
    return f'No image is pulled in this lab and "{container.image}" is not built in: a stand-in for it {does}'


def stand_in_of(container: Container) -> StandIn:
    """The ports a stand-in answers on: those declared, and those its own probes ask for."""
    tcp = {port.container_port for port in container.ports if port.protocol == "TCP"}
    tls: set[int] = set()
    names = {port.name: port.container_port for port in container.ports if port.name}
    for probe in (container.readiness_probe, container.liveness_probe, container.startup_probe):
        port, secure = _probed(probe, names)
        if port:
            (tls if secure else tcp).add(port)
    return StandIn(
        tcp=tuple(sorted(tcp - tls)),
        tls=tuple(sorted(tls)),
        udp=tuple(sorted({port.container_port for port in container.ports if port.protocol == "UDP"})),
        sctp=tuple(sorted({port.container_port for port in container.ports if port.protocol == "SCTP"})),
    )


def _probed(probe: Probe | None, names: Mapping[str, int]) -> tuple[int, bool]:
    """The port of this container a probe asks for (0: none), and whether it does so over TLS."""
    if probe is None:
        return 0, False
    if probe.grpc is not None:
        return probe.grpc.port, False
    action = probe.http_get or probe.tcp_socket
    if action is None or action.host:
        return 0, False
    number = names.get(action.port, 0) if isinstance(action.port, str) else action.port
    return number, probe.http_get is not None and probe.http_get.scheme.upper() == "HTTPS"


# ---- what arguments and environment make of each image


def _nginx(args: Sequence[str], env: Env) -> Program:
    return Nginx()


def _nginx_unprivileged(args: Sequence[str], env: Env) -> Program:
    return Nginx(port=8080)


def _httpd(args: Sequence[str], env: Env) -> Program:
    return Httpd()


def _pause(args: Sequence[str], env: Env) -> Program:
    return Pause()


def _netexec(args: Sequence[str]) -> Program:
    flags = parse_flags(
        args,
        {
            "http-port": 8080,
            "udp-port": 8081,
            "sctp-port": -1,
            "delay-shutdown": 0,
            "http-override": "",
            "udp-listen-addresses": "",
            "tls-cert-file": "",
            "tls-private-key-file": "",
        },
    )
    for name in ("udp-listen-addresses", "tls-cert-file"):
        if flags.word(name):
            return Refuse(f"glassnet's built-in netexec has no --{name}: it listens on every address, without TLS")
    ports = {name: flags.number(name) for name in ("http-port", "udp-port", "sctp-port")}
    for name, port in ports.items():
        if not (0 < port < 65536 or (port == -1 and name != "http-port")):
            return Refuse(f"listen: address {port}: invalid port (--{name})")
    http, udp, sctp = ports.values()
    return Netexec(http, udp, sctp, flags.number("delay-shutdown"), flags.word("http-override"))


def _serve_hostname(args: Sequence[str]) -> Program:
    flags = parse_flags(args, {"port": 9376, "tcp": False, "udp": False, "http": True, "close": False})
    tcp, udp = flags.on("tcp"), flags.on("udp")
    http = flags.on("http") if "--http" in {arg.partition("=")[0] for arg in args} else not (tcp or udp)
    if http and tcp:
        return Refuse("serve-hostname: --tcp and --http cannot share one port: give one of them")
    if not (http or tcp or udp):
        return Refuse("serve-hostname: one of --http, --tcp and --udp is needed")
    if not 0 < flags.number("port") < 65536:
        return Refuse(f"listen: address {flags.number('port')}: invalid port (--port)")
    return ServeHostname(flags.number("port"), tcp=tcp, udp=udp, http=http)


_AGNHOST: Mapping[str, Callable[[Sequence[str]], Program]] = {
    "netexec": _netexec,
    "serve-hostname": _serve_hostname,
    "pause": lambda args: Pause(),
}


def _agnhost(args: Sequence[str], env: Env) -> Program:
    subcommand, *rest = args or ("pause",)  # the image's default command
    make = _AGNHOST.get(subcommand)
    if make is None:
        known = ", ".join(_AGNHOST)
        return Refuse(f'Error: unknown command "{subcommand}" for "agnhost": glassnet has {known}')
    try:
        return make(rest)
    except FlagError as error:
        return Refuse(f"Error: {error}")


def _aks(args: Sequence[str], env: Env) -> Program:
    return AksHelloworld(title=env.get("TITLE", AKS_TITLE))


def _whoami(args: Sequence[str], env: Env) -> Program:
    defaults: dict[str, Value] = {"port": "", "name": env.get("WHOAMI_NAME", ""), "verbose": False}
    try:
        flags = parse_flags(args, defaults)
        port = int(flags.word("port") or env.get("WHOAMI_PORT_NUMBER") or 80)
    except ValueError as error:
        return Refuse(str(error), 2)
    return Whoami(port, flags.word("name"))


def _http_echo(args: Sequence[str], env: Env) -> Program:
    try:
        flags = parse_flags(args, {"listen": ":5678", "text": env.get("ECHO_TEXT", ""), "status-code": 200})
        port = int(flags.word("listen").rpartition(":")[2])
    except ValueError as error:
        return Refuse(str(error), 127)
    if not flags.word("text"):
        return Refuse("Missing -text option!", 127)
    return FixedText(flags.word("text") + "\n", port)


def _hello_app(version: str) -> Callable[[Sequence[str], Env], Program]:
    def make(args: Sequence[str], env: Env) -> Program:
        port = env.get("PORT") or "8080"
        if not port.isdigit():
            return Refuse(f"listen tcp: lookup tcp/{port}: unknown port")
        return FixedText(f"Hello, world!\nVersion: {version}\nHostname: ", int(port), host_line=True)

    return make


def _echo_server(port: int) -> Callable[[Sequence[str], Env], Program]:
    def make(args: Sequence[str], env: Env) -> Program:
        own = env.get("PORT", "")
        return EchoServer(int(own) if own.isdigit() else port)

    return make


def _hpa_example(args: Sequence[str], env: Env) -> Program:
    return FixedText("OK!", 80)


IN_PROCESS = (("dns", "serve"),)
"""Commands of glassnet that work in the lab's own process when they are a container's `args`."""


def _glassnet(args: Sequence[str], env: Env) -> Program:
    for words in IN_PROCESS:
        if tuple(args[: len(words)]) == words:
            return Own(words, tuple(args[len(words) :]))
    return Run(("glassnet", *args))


_SHELL = Tools()
_IMAGES: Mapping[str, Image | Tools] = {
    "nginx": Image(("nginx",), _nginx, bare=True),
    "nginx-slim": Image(("nginx",), _nginx, bare=True),
    "nginx-unprivileged": Image(("nginx",), _nginx_unprivileged, bare=True),
    "httpd": Image(("httpd", "httpd-foreground"), _httpd, bare=True),
    "agnhost": Image(("agnhost",), _agnhost),
    "aks-helloworld": Image(("start.sh",), _aks),
    "pause": Image(("pause",), _pause),
    "pause-amd64": Image(("pause",), _pause),
    "whoami": Image(("whoami",), _whoami),
    "http-echo": Image(("http-echo",), _http_echo),
    "hello-app": Image(("hello-app",), _hello_app("1.0.0")),
    "hpa-example": Image((), _hpa_example),
    "echoserver": Image((), _echo_server(8080)),
    "echo-server": Image((), _echo_server(8080)),
    "serve_hostname": Image(("serve_hostname",), lambda args, env: _agnhost(["serve-hostname", *args], env)),
    "glassnet": Image((), _glassnet),
    "busybox": _SHELL,
    "alpine": _SHELL,
    "bash": Tools(("bash",)),
    "buildpack-deps": Tools(("bash",)),
    "centos": Tools(("bash",)),
    "debian": Tools(("bash",)),
    "fedora": Tools(("bash",)),
    "rockylinux": Tools(("bash",)),
    "ubuntu": Tools(("bash",)),
    "python": Tools(("python3",)),
    "netshoot": Tools(("bash",)),
    "network-multitool": Tools(("sleep", "infinity")),
    "dnsutils": Tools(("sleep", "infinity")),
    "jessie-dnsutils": Tools(("sleep", "infinity")),
    "toolbox": Tools(("bash",)),
    "curl": Tools(("--help",), ("curl",)),
}
KNOWN: tuple[str, ...] = tuple(_IMAGES)
"""The names in the table, for documents and messages."""
