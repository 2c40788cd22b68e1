"""The agent's configuration: what counts when several say something, what is wrong and where, and the whole printed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glassnet.agent.node import configuration as agent_config
from glassnet.agent.node.configuration import OPTIONS, Configured
from glassnet.net.errors import UsageError

FILE = """\
nodeName: worker-1
clusterCIDRs: [10.200.0.0/16, fd00:200::/48]
cni:
  install: true
  conf: kubenet
proxy:
  config:
    mode: nftables
    nodePortAddresses: [primary]
routes:
  mode: vxlan
  mtu: 1400
"""


def load(text: str | None = FILE, environment: dict[str, str] | None = None, **flags: Any) -> Configured:
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    return agent_config.load(text, "agent.yaml", environment or {}, given, "Host-A\n")


def told(text: str | None, environment: dict[str, str] | None = None, **flags: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load(text, environment, **flags)
    return str(caught.value)


def test_nothing_given_is_a_whole_configuration() -> None:
    config, origins, warnings = load(None)
    assert (config.node_name, origins, warnings) == ("host-a", {"nodeName": "host name"}, ())
    assert config.cni.enabled and config.proxy.enabled and config.routes.enabled
    assert load("").config == config
    assert load("# nothing\n---\n").config == config


def test_a_flag_overrules_a_variable_and_that_the_file() -> None:
    environment = {"GLASSNET_ROUTES_MTU": "1300", "GLASSNET_ROUTES_MODE": "direct", "NODE_NAME": "worker-2"}
    config, origins, _ = load(FILE, environment, routes_mtu="1350", proxy="false")
    assert (config.routes.mtu, config.routes.mode, config.node_name) == (1350, "direct", "worker-2")
    assert not config.proxy.enabled
    assert config.cni.conf == "kubenet"
    assert {path: origins.get(path, "default") for path in ("routes.mtu", "routes.mode", "nodeName", "cni.conf", "routes.vxlanID")} == {
        "routes.mtu": "--routes-mtu",
        "routes.mode": "GLASSNET_ROUTES_MODE",
        "nodeName": "NODE_NAME",
        "cni.conf": "agent.yaml:5",
        "routes.vxlanID": "default",
    }  # fmt: skip
    assert load(FILE, {"NODE_NAME": "a", "GLASSNET_NODE_NAME": "b"}).config.node_name == "b"


GOLDEN = """\
nodeName: worker-1  # agent.yaml:1
kubeconfig: ''  # default
servers: []  # default
clusterCIDRs: [10.200.0.0/16, 'fd00:200::/48']  # agent.yaml:2
healthBindAddress: 0.0.0.0:10256  # default
metricsBindAddress: 127.0.0.1:10249  # default
cni:
  enabled: true  # default
  socket: /run/glassnet/cni.sock  # default
  install: true  # agent.yaml:4
  binDir: /opt/cni/bin  # default
  confDir: /etc/cni/net.d  # default
  conf: kubenet  # agent.yaml:5
proxy:
  enabled: true  # default
  config:
    featureGates: {}  # default
    bindAddress: 0.0.0.0  # default
    bindAddressHardFail: false  # default
    enableProfiling: false  # default
    showHiddenMetricsForVersion: ''  # default
    mode: nftables  # agent.yaml:8
    iptables:
      masqueradeBit: 14  # default
      masqueradeAll: false  # default
      localhostNodePorts: true  # default
      syncPeriod: 30s  # default
      minSyncPeriod: 0s  # default
    nftables:
      masqueradeBit: 14  # default
      masqueradeAll: false  # default
      syncPeriod: 30s  # default
      minSyncPeriod: 0s  # default
    detectLocalMode: ''  # default
    detectLocal:
      bridgeInterface: ''  # default
      interfaceNamePrefix: ''  # default
    clusterCIDR: ''  # default
    nodePortAddresses: [primary]  # agent.yaml:9
    oomScoreAdj: -999  # default
    conntrack:
      maxPerCore: 32768  # default
      min: 131072  # default
      tcpEstablishedTimeout: 24h0m0s  # default
      tcpCloseWaitTimeout: 1h0m0s  # default
      tcpBeLiberal: false  # default
      udpTimeout: 0s  # default
      udpStreamTimeout: 0s  # default
    portRange: ''  # default
routes:
  enabled: true  # default
  mode: vxlan  # GLASSNET_ROUTES_MODE
  mtu: 1400  # agent.yaml:12
  vxlanID: 7  # --routes-vxlan-id
  vxlanPort: 8472  # default
loadBalancer:
  enabled: false  # default
  namespace: glassnet-system  # default
  poolsFile: ''  # default
  links: []  # default
  heartbeatPort: 10270  # default
  heartbeatKeyFile: ''  # default
  bird: /usr/sbin/bird  # default
logging:
  format: text  # default
  level: info  # default
"""


def test_the_whole_is_printed_with_where_each_value_came_from() -> None:
    configured = load(FILE, {"GLASSNET_ROUTES_MODE": "vxlan"}, routes_vxlan_id="7")
    printed = agent_config.render(configured)
    assert printed == GOLDEN
    assert load(printed).config == configured.config


def test_every_option_sets_its_field_and_every_field_prints() -> None:
    values = {"text": "10.0.0.9:77", "number": "1400", "bool": "false", "list": "http://a,http://b"}
    special = {
        "routes-mode": "direct", "log-format": "json", "log-level": "debug", "proxy-mode": "nftables", "cni-conf": "ptp", "cni": "true",
        "cni-socket": "/run/a", "cni-bin-dir": "/b", "cni-conf-dir": "/c", "cluster-cidrs": "10.0.0.0/8", "node-name": "n", "kubeconfig": "/k",
        "load-balancer-pools-file": "/p", "load-balancer-heartbeat-key-file": "/k",
    }  # fmt: skip
    for option in OPTIONS:
        value = special.get(option.flag, values[option.kind])
        by_flag = agent_config.load(None, "", {}, {option.flag: value}, "h")
        by_variable = agent_config.load(None, "", {option.variable: value}, {}, "h")
        assert by_flag.config == by_variable.config
        assert by_flag.origins[option.path] == f"--{option.flag}"
        assert f"# {option.variable}\n" in agent_config.render(by_variable)


def test_all_faults_are_told_with_their_places() -> None:
    text = """\
clusterCIDRs: [10.200.0.0/16, 10.0.0.1/8]
routes:
  vxlanId: 3
  mtu: many
proxy:
  config:
    mode: ipvs
    conntrack: {min: -1}
cni:
  confDir: etc/cni
"""
    said = told(text, {"GLASSNET_ROUTES_VXLAN_PORT": "0"}, servers="api.example.com").splitlines()
    assert said[0] == "8 faults in the configuration:"
    assert [line.strip() for line in said[1:]] == [
        "--servers: servers[0]: 'api.example.com' is no http or https URL",
        "GLASSNET_ROUTES_VXLAN_PORT: routes.vxlanPort: 0 is no port",
        "agent.yaml:1: clusterCIDRs[1]: 10.0.0.1/8 has host bits set; want a network such as 10.200.0.0/16",
        "agent.yaml:3: unknown field 'routes.vxlanId'; did you mean 'vxlanID'?",
        "agent.yaml:4: routes.mtu: expected `int`, got `str`",
        "agent.yaml:7: proxy.config.mode: 'ipvs' is not among iptables, nftables (ipvs and kernelspace are not offered: nftables is faster than ipvs)",
        "agent.yaml:8: proxy.config.conntrack.min: must not be negative",
        "agent.yaml:10: cni.confDir: 'etc/cni' is no absolute path",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("routes: [1]", "agent.yaml:1: routes: expected `object`, got `array`"),
        ("- a", "agent.yaml:1: want one mapping of fields to values"),
        ("a: b: c", "agent.yaml:1:5: mapping values are not allowed in this context"),
        ("routes: {}\nroutes: {}", "agent.yaml:2: key 'routes' is there twice (first in line 1)"),
        ("apiVersion: v1\nkind: Node", "unknown field 'apiVersion'"),
        ("cni: {conf: {name: a}}", "agent.yaml:1: cni.conf: "),
        ("cni: {conf: {name: 'a b', plugins: [{type: bridge}]}}", "want letters, digits and _.-"),
        ("cni: {conf: 7}", "agent.yaml:1: cni.conf: expected `str | object`, got `int`"),
        ("cni: {conf: hardway}", "cni.conf: 'hardway' is neither among glassnet, kubenet"),
        ("cni: {enabled: false}\nproxy: {enabled: false}\nroutes: {enabled: false}", "all switched off"),
        ("cni: {enabled: maybe}", "cni.enabled: expected `bool`, got `str`"),
        ("routes: {mtu: 500}", "routes.mtu: 500 is neither 0 nor between 1280"),
        ("routes: {vxlanID: 16777216}", "routes.vxlanID: 16777216 is not between 1 and 16777215"),
        ("healthBindAddress: here", "healthBindAddress: 'here' is not of the form IP:PORT"),
        ("logging: {level: loud}", "logging.level: 'loud' is not among debug, info"),
        ("servers: ['https://me:secret@api']", "credentials belong into the kubeconfig"),
        ("1: 2", "unknown field '1'"),
        ("nodeName: 7", "nodeName: expected `str`, got `int`"),
        ("\0", "agent.yaml"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(text: str, said: str) -> None:
    assert said in told(text)


@pytest.mark.parametrize(
    ("environment", "flags", "said"),
    [
        ({"GLASSNET_CNI": "perhaps"}, {}, "GLASSNET_CNI: 'perhaps' is not true or false"),
        ({}, {"routes_mtu": "-1"}, "--routes-mtu: '-1' is no whole number"),
        ({"GLASSNET_CLUSTER_CIDRS": "10.0.0.0/33"}, {}, "GLASSNET_CLUSTER_CIDRS: clusterCIDRs[0]: "),
        ({"GLASSNET_NODE_NAME": " "}, {}, ""),
    ],
)
def test_variables_and_flags_are_named(environment: dict[str, str], flags: dict[str, str], said: str) -> None:
    if said:
        assert said in told(None, environment, **flags)
    else:
        assert load(None, environment).config.node_name == "host-a"


def test_a_pasted_configuration_of_kube_proxy_counts_but_for_what_the_agent_has_itself() -> None:
    text = """\
nodeName: n
healthBindAddress: ""
proxy:
  config:
    apiVersion: kubeproxy.config.k8s.io/v1alpha1
    kind: KubeProxyConfiguration
    hostnameOverride: other
    healthzBindAddress: 127.0.0.1:1
    clusterCIDR: 10.7.0.0/16
    iptables: {syncPeriod: 0s}
"""
    config, _, warnings = load(text)
    assert [warning.split(" is ignored")[0] for warning in warnings] == ["agent.yaml:7: proxy.config.hostnameOverride", "agent.yaml:8: proxy.config.healthzBindAddress"]  # fmt: skip
    proxy = agent_config.proxy_config(config)
    assert (proxy.hostname_override, proxy.healthz_bind_address, proxy.cluster_cidr) == ("n", "", "10.7.0.0/16")
    assert proxy.iptables.sync_period == "30s"


def test_the_proxy_takes_the_first_cluster_range_of_each_family() -> None:
    config = load(None, cluster_cidrs="10.1.0.0/16,10.2.0.0/16,fd00::/48").config
    assert agent_config.proxy_config(config).cluster_cidr == "10.1.0.0/16,fd00::/48"


def test_the_network_carries_our_mark() -> None:
    for kind in agent_config.CONF_KINDS:
        text = agent_config.network_file(load(None, cni_conf=kind).config.cni, ("10.244.1.0/24",))
        assert agent_config.is_our_network(text)
        assert json.loads(text)["plugins"]
    for text in ("", "[]", "{", '{"name": "x"}', '{"glassnet.owner": 7}'):
        assert not agent_config.is_our_network(text)
