"""`systemctl` for a machine without systemd, as far as units of ours need one: what a unit file says is done, by the program below.

It reads /etc/systemd/system/NAME.service (ExecStartPre, ExecStart, EnvironmentFile, Type=notify, CapabilityBoundingSet, LoadCredential,
RuntimeDirectory) and knows daemon-reload, enable and disable (with --now), start, stop, restart, reload-or-restart, is-active, status. Restart=,
sandboxing and dependencies are not there. `journalctl -u NAME` prints what the service said.
"""

from __future__ import annotations

import sys

SYSTEMCTL = (
    f"#!{sys.executable} -I\n"
    + r'''
import os, re, shlex, signal, socket, subprocess, sys, time
RUN = "/run/units"
os.makedirs(RUN, exist_ok=True)


def read(name):
    unit = {}
    for line in open(f"/etc/systemd/system/{name}.service").read().splitlines():
        key, sep, value = line.partition("=")
        if sep and not line.startswith("#"):
            unit.setdefault(key.strip(), []).append(value.strip())
    return unit


def words(line):
    """(may fail, with all rights, argv)"""
    flags = re.match(r"[-+@!:|]*", line)[0]
    return "-" in flags, "+" in flags, shlex.split(line[len(flags):])


def pid(name):
    try:
        number = int(open(f"{RUN}/{name}.pid").read())
        os.kill(number, 0)
        return 0 if open(f"/proc/{number}/stat").read().split(")")[1].split()[0] == "Z" else number
    except (OSError, ValueError):
        return 0


def start(name):
    if pid(name):
        return 0
    unit, env = read(name), {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    for line in unit.get("EnvironmentFile", []):
        if os.path.exists(line.lstrip("-")):
            env |= dict(each.split("=", 1) for each in open(line.lstrip("-")).read().splitlines() if "=" in each and each[0] != "#")
    for line in unit.get("LoadCredential", []):
        key, path = line.split(":", 1)
        env["CREDENTIALS_DIRECTORY"] = place = f"/run/credentials/{name}.service"
        os.makedirs(place, exist_ok=True)
        open(f"{place}/{key}", "w").write(open(path).read())
    for line in unit.get("ExecStartPre", []):
        may, _, argv = words(line)
        lacking = not os.path.exists(argv[0])
        if (lacking or subprocess.run(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode) and not may:
            sys.exit(f"{name}: {line} failed")
    _, _, argv = words(unit["ExecStart"][0])
    bound = unit.get("CapabilityBoundingSet")
    if bound:
        few = "".join(",+" + each.removeprefix("CAP_").lower() for each in bound[0].split())
        argv = ["setpriv", "--bounding-set", "-all" + few, "--inh-caps", "-all", *argv]
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    path = f"{RUN}/{name}.notify"
    if os.path.exists(path):
        os.unlink(path)
    notify.bind(path)
    notify.settimeout(30)
    env["NOTIFY_SOCKET"] = path
    log = open(f"{RUN}/{name}.log", "ab")
    child = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")
    open(f"{RUN}/{name}.pid", "w").write(str(child.pid))
    said = b""
    while unit.get("Type") == ["notify"] and b"READY=1" not in said:
        if child.poll() is not None:
            sys.exit(f"Job for {name}.service failed; see journalctl -u {name}")
        said = notify.recv(4096)
    return 0


def stop(name):
    number = pid(name)
    if number:
        os.kill(number, signal.SIGTERM)
        for _ in range(1500):
            if not pid(name):
                return 0
            time.sleep(0.02)
        os.kill(number, signal.SIGKILL)
    return 0


def main(command, *rest):
    names = [each.removesuffix(".service") for each in rest if not each.startswith("-")]
    for name in names:
        if command in ("start", "restart", "reload-or-restart") or (command == "enable" and "--now" in rest):
            if command not in ("start", "enable"):
                stop(name)
            start(name)
        elif command == "stop" or (command == "disable" and "--now" in rest):
            stop(name)
        elif command == "is-active":
            print("active" if pid(name) else "inactive")
            return 0 if pid(name) else 3
        elif command not in ("enable", "disable", "daemon-reload"):
            sys.exit(f"systemctl {command}: not here")
    return 0


sys.exit(main(*sys.argv[1:]))
'''
)
JOURNALCTL = '#!/bin/sh\n[ "$1" = -u ] && exec cat "/run/units/${2%.service}.log"\n'
