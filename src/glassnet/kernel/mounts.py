"""The files a lab's machine sees: a copy-on-write view of the host's, with its own /run, /tmp, /dev, /sys, /etc/hosts and the like.

Nothing written there reaches the host, and none of the host's devices is there. Functions run in the spawner's thread, inside the new
mount namespace. Sources: mount_namespaces(7), Documentation/filesystems/overlayfs.rst, pivot_root(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from glassnet.kernel import libc
from glassnet.kernel.libc import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, MS_REMOUNT
from glassnet.net.errors import KernelError, PreflightError

_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
SKIPPED = ("boot", "lost+found")
OWN = ("proc", "sys", "dev", "run", "tmp")  # never the host's
AGAIN = "/usr/local/lib/glassnet-lab"  # where our own places are shown once more if they are below such a one: a pod has another /tmp again
# Nor these, further down: a runtime on the host has networks and leases of its own there, and a machine's kubelet would take them for its.
HIDDEN = ("etc/cni/net.d", "var/lib/cni")
# Directories a rootless lab must be able to write in: those of the host have owners it cannot take on.
WRITABLE = (
    "etc/cni/net.d", "opt/cni/bin", "var/lib/cni/networks", "var/lib/cni/results", "var/lib/kubelet/pods", "var/log/pods", "var/tmp",
    "root", "home", "mnt", "srv", "usr/local/bin",
)  # fmt: skip


def host_mounts() -> list[str]:
    """Mount points of the host that hold files of their own, outermost only, besides / and what a machine has its own of."""
    found: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        first = point.split("/")[1]
        if (
            point != "/"
            and first not in OWN
            and os.path.isdir(point)
            and not any(point == f or point.startswith(f + "/") for f in found)
        ):
            found.append(point)
    return found


def own_places() -> list[str]:
    """Where this Python and this package lie: programs of ours on a machine (CNI plugins) run them. Outermost directories only."""
    places = sorted({sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[2])})
    return [place for place in places if not any(place.startswith(other + "/") for other in places)]


def place_in_pods(path: str) -> str:
    """Where a path of ours is on a machine and in all its pods, whatever they have mounted at /tmp."""
    return AGAIN + path if path.split("/")[1] in OWN else path


def make_tree(upper: Path, files: Mapping[str, str]) -> None:
    """Fill a machine's writable layer before it is mounted: directories, and `files` (absolute path -> text); scripts can be run."""
    for directory in WRITABLE:
        (upper / directory).mkdir(parents=True, exist_ok=True)
    for place in own_places():
        if place_in_pods(place) != place:
            (upper / place_in_pods(place)[1:]).mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        target = upper / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        if text.startswith("#!"):
            target.chmod(0o755)


def enter_root(place: Path, binds: Iterable[str], rootless: bool, kept: Iterable[str] = ()) -> None:
    """Make `place`/root, on a tmpfs, the root of the calling thread's new mount namespace.

    Each directory of the host's / appears in it as an overlay with its upper layer in `place`/upper. `binds` are host mounts further
    down, shown read-only, `kept` directories to be shown so even where a machine has its own (below /tmp, say). /proc is left to a process of the machine's PID namespace. Raises PreflightError without overlayfs.
    """
    root = str(place / "root")
    libc.mount("", "/", flags=MS_REC | MS_PRIVATE)
    libc.mount(root, root, flags=MS_BIND)
    hidden = set()
    for entry in sorted(os.scandir("/"), key=lambda entry: entry.name):
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), root + entry.path)
        elif entry.is_dir() and entry.name not in OWN and entry.name not in SKIPPED:
            hidden |= {entry.path} if _overlay(place, entry.name, rootless) else set()
    for point in binds:
        if os.path.isdir(root + point) and f"/{point.split('/')[1]}" in hidden:
            libc.mount(point, root + point, flags=MS_BIND | MS_REC)
            libc.make_read_only(root + point)
    for path in HIDDEN:
        if os.path.isdir(f"/{path}"):
            libc.mount(str(place / "upper" / path), f"{root}/{path}", flags=MS_BIND)
    for name in OWN:
        os.mkdir(f"{root}/{name}")
    libc.mount("tmpfs", f"{root}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    libc.mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for directory in ("netns", "lock", "glassnet"):
        os.mkdir(f"{root}/run/{directory}", 0o755)
    for point in kept:
        if point.split("/")[1] in OWN:
            os.makedirs(root + point, exist_ok=True)
            for shown in (point, place_in_pods(point)):
                if os.path.isdir(root + shown):
                    libc.mount(point, root + shown, flags=MS_BIND | MS_REC)
                    libc.make_read_only(root + shown)
    _devices(root)
    mount_sys(f"{root}/sys")
    libc.mount(
        "/proc", f"{root}/proc", flags=MS_BIND | MS_REC
    )  # until the machine's own; a rootless mount of proc needs one in sight
    os.chdir(root)
    libc.pivot_root(".", ".")
    libc.unmount(".")
    os.chdir("/")


def _overlay(place: Path, name: str, rootless: bool) -> bool:
    """Show the host's /`name` copy-on-write; True when it could be done.

    A user namespace may not lay over a directory that has other mounts below it (mount_namespaces(7): they are locked together): such a
    one is shown read-only with them, and /etc, where a machine has files of its own, is copied.
    """
    target, upper, work = place / "root" / name, place / "upper" / name, place / "work" / name
    for directory in (target, upper, work):
        directory.mkdir(exist_ok=True)
    options = f"lowerdir=/{name},upperdir={upper},workdir={work}" + (",userxattr" if rootless else "")
    try:
        libc.mount("overlay", str(target), "overlay", 0, options)
        return True
    except KernelError as error:
        if not rootless or error.number != errno.EINVAL:
            raise PreflightError(
                f"{error}; a lab needs overlayfs (`modprobe overlay`; rootless: Linux 5.11 or newer)"
            ) from None
    if name == "etc":
        _copy_readable(Path("/etc"), upper)
    if name in ("etc", "opt"):
        libc.mount(str(upper), str(target), flags=MS_BIND)
    else:
        libc.mount(f"/{name}", str(target), flags=MS_BIND | MS_REC)
        libc.make_read_only(str(target))
    return False


def _copy_readable(source: Path, target: Path) -> None:
    """Copy what the user may read, without overwriting what is there."""
    for entry in os.scandir(source):
        copy = target / entry.name
        if entry.is_symlink():
            if not copy.is_symlink() and not copy.exists():
                os.symlink(os.readlink(entry.path), copy)
        elif entry.is_dir() and os.access(entry.path, os.R_OK | os.X_OK):
            copy.mkdir(exist_ok=True)
            _copy_readable(Path(entry.path), copy)
        elif entry.is_file() and not copy.exists() and os.access(entry.path, os.R_OK):
            shutil.copy(entry.path, copy)


def _devices(root: str) -> None:
    libc.mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755")
    for name in DEVICES:
        Path(f"{root}/dev/{name}").touch()
        libc.mount(f"/dev/{name}", f"{root}/dev/{name}", flags=MS_BIND)
    for name in ("pts", "shm"):
        os.mkdir(f"{root}/dev/{name}")
    libc.mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    libc.mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for link, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        os.symlink(target, f"{root}/dev/{link}")


def mount_sys(target: str) -> None:
    """A sysfs of the calling thread's network namespace: read-only but for the network devices."""
    libc.mount("sysfs", target, "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    devices = f"{target}/devices/virtual/net"
    libc.mount(devices, devices, flags=MS_BIND)
    libc.mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def guard_proc_sys() -> None:
    """Once /proc is the machine's own: kernel settings read-only, those of its network namespace writable."""
    libc.mount("/proc/sys", "/proc/sys", flags=MS_BIND)
    libc.mount("/proc/sys/net", "/proc/sys/net", flags=MS_BIND)
    libc.mount("", "/proc/sys", flags=MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def bind_namespace(source: str, target: str) -> None:
    """Give a namespace a name: bind its file (`/proc/PID/ns/net`) on `target`, as `ip netns add` does. Raises KernelError (EEXIST)."""
    try:
        Path(target).touch(mode=0o444, exist_ok=False)
    except OSError as error:
        raise KernelError(f"name namespace {target}", error.errno or 0) from None
    try:
        libc.mount(source, target, flags=MS_BIND)
    except KernelError:
        os.unlink(target)
        raise


def unbind_namespace(target: str) -> None:
    """Take the name away again; absent is fine."""
    if os.path.exists(target):
        libc.unmount(target)
        os.unlink(target)


def open_terminal() -> tuple[int, int]:
    """(master, slave) of a new pseudo-terminal that has a name in the calling thread's /dev/pts: pty(7), ioctl_tty(2)."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    master = os.open("/dev/ptmx", flags)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    return master, fcntl.ioctl(master, _TIOCGPTPEER, flags)


def bind_files(binds: Iterable[tuple[str, str, bool]]) -> None:
    """Bind (source, target, read-only) triples in the calling thread's mount namespace; targets are made when absent."""
    for source, target, read_only in binds:
        place = Path(target)
        if os.path.isdir(source):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.touch()
        libc.mount(source, target, flags=MS_BIND | MS_REC)
        if read_only:
            libc.make_read_only(target)
