"""What a cluster has before glassnet: kube-proxy and flannel as DaemonSets, and traffic that tells whether anything was ever cut off.

kube-proxy's part is played by `glassnet proxy` in mode iptables under kube-proxy's name (the same chains); flanneld's by a script that makes what
flannel's vxlan backend makes (github.com/flannel-io/flannel: backend/vxlan, Documentation/kube-flannel.yml) and then sleeps under its name; the
CNI programs are the reference ones. What these leave behind when their pods go is what the originals leave: everything.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import yaml

import glassnet
from conftest import Lab
from glassnet.kernel.mounts import place_in_pods

REFERENCE = "/usr/lib/cni"
PYTHON = {
    "PYTHONHOME": sys.base_prefix,
    "PYTHONPATH": f"/srv/glassnet:{place_in_pods(sysconfig.get_paths()['purelib'])}",
}
SOURCES = str(Path(glassnet.__file__).resolve().parent.parent)  # below /tmp perhaps, and a pod's /tmp is its own
BASE_PYTHON = str(Path(sys.executable).resolve())
KUBE_PROXY = f"exec -a kube-proxy {BASE_PYTHON} -m glassnet proxy --kubeconfig /etc/kubernetes/kube-proxy.conf --hostname-override $NODE_NAME --proxy-mode iptables --cluster-cidr 10.200.0.0/16"  # fmt: skip
CONFLIST = {
    "name": "cbr0",
    "cniVersion": "0.3.1",
    "plugins": [
        # as the plugin "flannel" hands it on to bridge
        {"type": "bridge", "mtu": 1450, "hairpinMode": True, "isDefaultGateway": True, "ipMasq": False,
         "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.200.NUMBER.0/24"}]], "routes": [{"dst": "10.200.0.0/16"}]}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}  # fmt: skip
FLANNEL = """
set -e
n=${NODE_NAME#worker-}
ip link show flannel.1 > /dev/null 2>&1 || ip link add flannel.1 address 0e:00:00:00:00:0$n type vxlan id 1 local 10.240.0.2$n dev eth0 dstport 8472 nolearning
ip link set flannel.1 mtu 1450 up
ip address replace 10.200.$n.0/32 dev flannel.1
for m in 0 1; do
  [ $m = $n ] && continue
  ip neighbour replace 10.200.$m.0 lladdr 0e:00:00:00:00:0$m dev flannel.1 nud permanent
  bridge fdb replace 0e:00:00:00:00:0$m dev flannel.1 dst 10.240.0.2$m self permanent
  ip route replace 10.200.$m.0/24 via 10.200.$m.0 dev flannel.1 onlink
done
if ! iptables -t nat -S FLANNEL-POSTRTG > /dev/null 2>&1; then
iptables-restore --noflush <<END
*nat
:FLANNEL-POSTRTG - [0:0]
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.200.0.0/16 -d 10.200.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.200.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FLANNEL-FWD -s 10.200.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.200.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
COMMIT
END
fi
cat > /etc/cni/net.d/.10-flannel.new <<END
CONFLIST
END
sed -i "s/NUMBER/$n/" /etc/cni/net.d/.10-flannel.new
mv /etc/cni/net.d/.10-flannel.new /etc/cni/net.d/10-flannel.conflist
exec -a flanneld sleep infinity
""".replace("CONFLIST", json.dumps(CONFLIST))

SERVER = """
import socket, threading
def echo(conn):
    while data := conn.recv(4096):
        conn.sendall(data)
listening = socket.create_server(("0.0.0.0", 7777))
while True:
    threading.Thread(target=echo, args=(listening.accept()[0],), daemon=True).start()
"""
# Two connections that are kept, and new ones all the time. A line a turn: what did not work, by name.
CLIENT = """
import socket, sys, time
def said(conn):
    conn.sendall(b"x" * 1300)
    got = 0
    while got < 1300:
        data = conn.recv(4096)
        if not data:
            raise OSError("closed")
        got += len(data)
def attempt(work):
    try:
        work()
        return 1
    except OSError:
        return 0
def fresh(where):
    with socket.create_connection(where, timeout=0.9) as conn:
        said(conn)
service, pod = (sys.argv[1], 7777), (sys.argv[2], 7777)
kept = [socket.create_connection(each, timeout=10) for each in (service, pod)]
turn = 0
while True:
    turn += 1
    found = [attempt(lambda: said(kept[0])), attempt(lambda: said(kept[1])), attempt(lambda: fresh(service)), attempt(lambda: fresh(pod))]
    print(turn, *found, flush=True)
    time.sleep(0.1)
"""


def _daemon(namespace: str, name: str, label: str, script: str, ready: str) -> list[dict[str, Any]]:
    """A DaemonSet of a bash script; `ready` says when it has begun its work."""
    probe = {"exec": {"command": ["bash", "-c", ready]}, "periodSeconds": 1}
    labels = {"k8s-app": label}
    env = [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
    env += [{"name": key, "value": value} for key, value in PYTHON.items()]
    pod = {
        "hostNetwork": True,
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 5,
        "containers": [{"name": label, "image": f"registry.example/{label}:1", "command": ["/bin/bash", "-c", script], "env": env, "readinessProbe": probe}],
    }  # fmt: skip
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": namespace}, "spec": spec},
    ]  # fmt: skip


def _pod(name: str, node: str, script: str, *words: str) -> dict[str, Any]:
    command = [BASE_PYTHON, "-c", script, *words]
    spec = {"nodeSelector": {"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": "registry.example/main:1", "command": command}]}  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def apply(lab: Lab, *objects: dict[str, Any]) -> None:
    lab.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))


def bring_up(lab: Lab, nodes: list[str], admin: str) -> None:
    """kube-proxy, flannel, and traffic from a pod on the first node to one on the second, directly and by a Service. `admin` is a kubeconfig."""
    for node in nodes:
        lab.glassnet("node", node, "--", "sh", "-c", f"cp {REFERENCE}/bridge {REFERENCE}/host-local {REFERENCE}/portmap {REFERENCE}/loopback /opt/cni/bin/; cp -r {SOURCES} /srv/glassnet; mkdir -p /etc/kubernetes; cat > /etc/kubernetes/kube-proxy.conf", stdin=admin)  # fmt: skip
    apply(lab, *_daemon("kube-flannel", "kube-flannel-ds", "flannel", FLANNEL, "test -e /etc/cni/net.d/10-flannel.conflist"), *_daemon("kube-system", "kube-proxy", "kube-proxy", KUBE_PROXY, "curl -s localhost:10256/healthz"))  # fmt: skip
    lab.kubectl("wait", "--for=condition=Ready", "--timeout=30s", *(f"node/{node}" for node in nodes))
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo"}, "spec": {"selector": {"app": "echo"}, "ports": [{"port": 7777}]}}  # fmt: skip
    apply(lab, _pod("echo", nodes[1], SERVER), service)
    lab.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "pod/echo")
    virtual = lab.kubectl("get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}")
    direct = lab.kubectl("get", "pod", "echo", "-o", "jsonpath={.status.podIP}")
    for _ in range(100):
        if all(
            virtual in lab.node(node, "iptables", "-t", "nat", "-S", "KUBE-SERVICES", check=False) for node in nodes
        ):
            break
        time.sleep(0.1)
    apply(lab, _pod("talker", nodes[0], CLIENT, virtual, direct))
    lab.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "pod/talker")


def turns(lab: Lab) -> list[tuple[int, ...]]:
    """(turn, kept by Service, kept to the pod, new by Service, new to the pod): 1 for what worked."""
    return [tuple(map(int, line.split())) for line in lab.kubectl("logs", "talker").splitlines()]
