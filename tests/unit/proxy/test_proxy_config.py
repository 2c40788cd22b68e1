"""KubeProxyConfiguration and kube-proxy's flags: defaults, what is refused and where, and what files in the wild have."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from glassnet.net.errors import ParseError, UsageError
from glassnet.proxy import config_flags
from glassnet.proxy.config import ProxyConfig, check, configz, host_port, parse, seconds, to_dict

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
KUBEADM = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"""


def read(text: str) -> ProxyConfig:
    return parse(HEAD + text, "f.yaml")[0]


def refusal(text: str) -> str:
    with pytest.raises(ParseError) as caught:
        parse(HEAD + text, "f.yaml")
    return str(caught.value)


def test_an_empty_file_has_the_defaults() -> None:
    config = read("")
    assert config == ProxyConfig()
    assert (config.healthz_bind_address, config.metrics_bind_address) == ("0.0.0.0:10256", "127.0.0.1:10249")
    assert (config.backend.sync_period, config.backend.masquerade_bit, config.oom_score_adj) == ("30s", 14, -999)
    assert (config.conntrack.max_per_core, config.conntrack.min) == (32768, 131072)
    assert seconds(config.conntrack.tcp_established_timeout) == 86400
    assert seconds(config.conntrack.tcp_close_wait_timeout) == 3600
    assert seconds(config.config_sync_period) == 900


def test_the_file_kubeadm_writes_means_the_defaults() -> None:
    """It has a zero, an empty text or null for whatever the user left alone."""
    config, warnings = parse(KUBEADM, "config.conf")
    assert not warnings
    assert config.cluster_cidrs == ("10.244.0.0/16",)
    assert config.client_connection.kubeconfig == "/var/lib/kube-proxy/kubeconfig.conf"
    expected = to_dict(ProxyConfig())
    expected["clusterCIDR"] = "10.244.0.0/16"
    expected["clientConnection"]["kubeconfig"] = "/var/lib/kube-proxy/kubeconfig.conf"
    expected["logging"]["options"] = {"json": {"infoBufferSize": "0"}, "text": {"infoBufferSize": "0"}}
    assert to_dict(config) == expected


@pytest.mark.parametrize(
    ("text", "healthz", "metrics"),
    [
        ("bindAddress: '::'", "[::]:10256", "[::1]:10249"),
        ("bindAddress: 192.0.2.7", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("healthzBindAddress: 192.0.2.7\nmetricsBindAddress: '::'", "192.0.2.7:10256", "[::]:10249"),
        ("bindAddress: '::'\nmetricsBindAddress: 127.0.0.1:1", "[::]:10256", "127.0.0.1:1"),
    ],
)
def test_server_addresses_get_the_family_and_ports_they_lack(text: str, healthz: str, metrics: str) -> None:
    config = read(text)
    assert (config.healthz_bind_address, config.metrics_bind_address) == (healthz, metrics)


def test_addresses_are_taken_apart() -> None:
    assert host_port("127.0.0.1:10249") == ("127.0.0.1", 10249)
    assert host_port("[::1]:10249") == ("::1", 10249)


def test_the_mode_chooses_the_section() -> None:
    text = "iptables: {masqueradeBit: 3}\nnftables: {masqueradeBit: 4, masqueradeAll: true}\n"
    assert read(text).backend.masquerade_bit == 3
    assert read(text + "mode: iptables").backend.masquerade_bit == 3
    config = read(text + "mode: nftables")
    assert (config.backend.masquerade_bit, config.backend.masquerade_all) == (4, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", 30), ("1h2m3.5s", 3723.5), ("0", 0), ("250ms", 0.25), (".5s", 0.5), ("1.s", 1), ("-2m", -120), ("+1s", 1), ("5us", 5e-6), ("5µs", 5e-6), ("5\u03bcs", 5e-6), ("7ns", 7e-9)],
)  # fmt: skip
def test_durations_are_read_as_go_writes_them(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "30", "s", "1 s", "1d", "-+1s", "1s2", "1e3s", "٣s", "."])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("syncPeriod: 1s", "f.yaml:3: unknown field 'syncPeriod'; did you mean 'configSyncPeriod'?"),
        ("iptables:\n  masqAll: true", "f.yaml:4: unknown field 'iptables.masqAll'; did you mean 'masqueradeAll'?"),
        ("iptable:\n  masqueradeAll: true", "f.yaml:3: unknown field 'iptable'; did you mean 'iptables'?"),
        ("zebra: 1", "f.yaml:3: unknown field 'zebra'"),
        ("mode: nft", "f.yaml:3: mode: 'nft' is not among iptables, nftables"),
        ("mode: ipvs", "ipvs and kernelspace are not offered"),
        ("mode: kernelspace", "f.yaml:3: mode: 'kernelspace' is not among iptables, nftables"),
        ("iptables: {masqueradeBit: 32}", "f.yaml:3: iptables.masqueradeBit: must be between 0 and 31"),
        ("nftables:\n  masqueradeBit: -1", "f.yaml:4: nftables.masqueradeBit: must be between 0 and 31"),
        ("iptables: {masqueradeBit: a}", "f.yaml:3: iptables.masqueradeBit: expected `int`, got `str`"),
        ("iptables: 5", "f.yaml:3: iptables: expected `object`, got `int`"),
        ("featureGates: {A: maybe}", "f.yaml:3: featureGates: expected `bool`, got `str`"),
        ("iptables: {syncPeriod: 5}", "f.yaml:3: iptables.syncPeriod: expected `str`, got `int`"),
        ("iptables: {syncPeriod: 5 s}", "iptables.syncPeriod: '5 s' is no duration such as 30s or 1h30m"),
        ("iptables: {syncPeriod: -5s}", "iptables.syncPeriod: '-5s' must be greater than 0"),
        ("nftables: {minSyncPeriod: -1s}", "nftables.minSyncPeriod: '-1s' must be 0 or more"),
        ("iptables: {minSyncPeriod: 31s}", "iptables.minSyncPeriod: must not be longer than iptables.syncPeriod"),
        ("configSyncPeriod: -1s", "configSyncPeriod: '-1s' must be greater than 0"),
        ("conntrack: {udpTimeout: -1s}", "conntrack.udpTimeout: '-1s' must be 0 or more"),
        ("conntrack: {maxPerCore: -1}", "conntrack.maxPerCore: must not be negative"),
        ("clientConnection: {burst: -1}", "clientConnection.burst: must not be negative"),
        ("oomScoreAdj: 1001", "oomScoreAdj: must be between -1000 and 1000"),
        ("bindAddress: node-1", "bindAddress: 'node-1' is no IP address"),
        ("healthzBindAddress: localhost:1", "healthzBindAddress: 'localhost:1' is not of the form IP:PORT"),
        ("metricsBindAddress: 127.0.0.1:65536", "metricsBindAddress: '127.0.0.1:65536' is not of the form IP:PORT"),
        ("metricsBindAddress: 127.0.0.1:0", "metricsBindAddress: '127.0.0.1:0' is not of the form IP:PORT"),
        ("metricsBindAddress: 127.0.0.1:²", "is not of the form IP:PORT"),
        ("metricsBindAddress: fe80::1::2:3", "is not of the form IP:PORT"),
        ("clusterCIDR: 10.0.0.0", "clusterCIDR: '10.0.0.0' is no CIDR such as 10.200.0.0/16"),
        ("clusterCIDR: 10.0.0.0/255.0.0.0", "clusterCIDR: '10.0.0.0/255.0.0.0' is no CIDR"),
        ("clusterCIDR: '10.0.0.0/8,11.0.0.0/8'", "has two ranges of one family"),
        ("nodePortAddresses: [10.0.0.1]", "f.yaml:3: nodePortAddresses[0]: '10.0.0.1' is neither a CIDR nor 'primary'"),
        ("nodePortAddresses:\n- 10.0.0.0/8\n- primary", "f.yaml:5: nodePortAddresses[1]: 'primary' stands alone"),
        ("nodePortAddresses: [3]", "nodePortAddresses[0]: expected `str`, got `int`"),
        ("detectLocalMode: clusterCIDR", "detectLocalMode: 'clusterCIDR' is not among ClusterCIDR, NodeCIDR"),
        ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface: is needed with"),
        ("detectLocalMode: InterfaceNamePrefix", "detectLocal.interfaceNamePrefix: is needed with"),
        ("detectLocal: {bridgeInterface: sixteen-letters-}", "longer than the 15 bytes"),
        ("portRange: 2000-300", "portRange: '2000-300' is no range of ports"),
    ],
)  # fmt: skip
def test_faults_are_named_with_field_and_line(text: str, message: str) -> None:
    assert message in refusal(text)


def test_all_faults_come_at_once_in_order() -> None:
    """Unknown fields, wrong types and wrong values alike; a value of a wrong type is told of once."""
    text = "oomScoreAdj: 5000\nbogus: 1\niptables:\n  masqueradeBit: x\n  syncPeriod: 3\nmode: ipvs\nconntrack: {min: -1}\n"
    lines = refusal(text).splitlines()
    assert lines[0] == "f.yaml: 6 faults"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [f"line {n}" for n in (3, 4, 6, 7, 8, 9)]


def test_unknown_fields_may_be_warnings_but_wrong_values_never() -> None:
    config, warnings = parse(HEAD + "mode: nftables\nbogus: 1\niptables: {nope: 2}", "f.yaml", lenient=True)
    assert config.mode == "nftables"
    assert warnings == ["f.yaml:4: unknown field 'bogus'", "f.yaml:5: unknown field 'iptables.nope'"]
    with pytest.raises(ParseError, match=r"^f\.yaml:4: oomScoreAdj: must be between"):
        parse(HEAD + "bogus: 1\noomScoreAdj: 5000", "f.yaml", lenient=True)


@pytest.mark.parametrize(
    "text",
    [
        "portRange: 30000-32767\nclusterCIDR: '10.0.0.0/8, fd00::/48'\nnodePortAddresses: [10.1.2.3/8, '::1/128']",
        "portRange: '30000'\nnodePortAddresses: [primary]\ndetectLocalMode: NodeCIDR",
        "portRange: 100+50\ndetectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cbr0}",
        "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}\nlogging: {flushFrequency: 5000000000}",
        "ipvs: {excludeCIDRs: [10.0.0.0/8], strictARP: true, scheduler: rr}\nwinkernel: {enableDSR: true, sourceVip: 10.0.0.1}",
        "conntrack: {tcpEstablishedTimeout: 0s, maxPerCore: 0, tcpBeLiberal: true}\nclientConnection: {qps: 2.5}",
    ],
)
def test_what_is_right_is_read_and_survives_being_written(text: str) -> None:
    config = read(text)
    check(config)
    assert parse(yaml.safe_dump(to_dict(config)), "again")[0] == config
    assert parse(json.dumps(to_dict(config)), "again.json")[0] == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 objects are here"),
        (HEAD + "---\n" + HEAD, "2 objects are here"),
        ("apiVersion: v1\nkind: ConfigMap\n", "f.yaml:2: ConfigMap: apiVersion kubeproxy.config.k8s.io/v1alpha1"),
        (HEAD.replace("v1alpha1", "v1beta9"), "kubeproxy.config.k8s.io/v1alpha1 and kind"),
        (HEAD + "mode: iptables\nmode: nftables\n", "key 'mode' is there twice"),
        (HEAD + "mode: [", "f.yaml"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, "f.yaml")
    assert message in str(caught.value)


def test_configz_wraps_every_field() -> None:
    body = configz(ProxyConfig(mode="nftables"))
    assert list(body) == ["kubeproxy.config.k8s.io"]
    inner = body["kubeproxy.config.k8s.io"]
    assert (inner["mode"], inner["iptables"]["localhostNodePorts"], inner["winkernel"]["forwardHealthCheckVip"]) == ("nftables", True, False)  # fmt: skip
    assert {"clusterCIDR", "nodePortAddresses", "conntrack", "detectLocal", "featureGates", "oomScoreAdj"} <= set(inner)


# -- flags


def flagged(given: dict[str, Any], base: ProxyConfig | None = None) -> ProxyConfig:
    config, warnings = config_flags.apply(base or ProxyConfig(), given)
    assert not warnings
    return config


def test_every_flag_sets_the_field_it_names() -> None:
    words = {"text": "10s", "number": "7", "bool": "true", "list": "10.0.0.0/8,::/0", "gates": "A=true,B=false"}
    special = {
        "bind-address": "192.0.2.1", "healthz-bind-address": "192.0.2.1:1", "metrics-bind-address": "192.0.2.1:2", "proxy-mode": "nftables",
        "cluster-cidr": "10.0.0.0/8", "detect-local-mode": "NodeCIDR",
    }  # fmt: skip
    default = to_dict(ProxyConfig())
    for flag in config_flags.FLAGS:
        value = special.get(flag.name, words[flag.kind])
        if flag.kind == "bool" and flag.name == "iptables-localhost-nodeports":
            value = "false"
        now, before = to_dict(flagged({flag.name: value})), default
        for step in flag.path.format(mode="iptables").split("."):
            now, before = now[step], before[step]
        assert now != before, flag.name


def test_flags_are_kube_proxys() -> None:
    names = {flag.name for flag in config_flags.FLAGS}
    assert len(names) == len(config_flags.FLAGS)
    wanted = "kubeconfig hostname-override bind-address healthz-bind-address metrics-bind-address proxy-mode cluster-cidr detect-local-mode"
    wanted += " pod-bridge-interface pod-interface-name-prefix nodeport-addresses masquerade-all iptables-masquerade-bit iptables-sync-period"
    wanted += (
        " iptables-min-sync-period iptables-localhost-nodeports config-sync-period conntrack-max-per-core conntrack-min"
    )
    wanted += " conntrack-tcp-timeout-established conntrack-tcp-timeout-close-wait conntrack-tcp-be-liberal conntrack-udp-timeout"
    wanted += " conntrack-udp-timeout-stream oom-score-adj show-hidden-metrics-for-version profiling feature-gates v"
    assert set(wanted.split()) <= names


def test_flags_of_no_backend_go_to_the_one_in_use() -> None:
    """kube-proxy has one sync period for all modes, and sets it by flags named after iptables."""
    given = {"proxy-mode": "nftables", "masquerade-all": True, "iptables-sync-period": "9s", "iptables-min-sync-period": "2s"}  # fmt: skip
    config = flagged(given)
    assert (config.backend.masquerade_all, config.backend.sync_period, config.backend.min_sync_period) == (True, "9s", "2s")  # fmt: skip
    assert config.iptables == ProxyConfig().iptables


def test_flags_not_given_change_nothing_and_empty_ones_switch_servers_off() -> None:
    assert flagged(dict.fromkeys((flag.name for flag in config_flags.FLAGS), None)) == ProxyConfig()
    config = flagged({"healthz-bind-address": "", "metrics-bind-address": "192.0.2.1", "nodeport-addresses": ""})
    assert (config.healthz_bind_address, config.metrics_bind_address) == ("", "192.0.2.1:10249")
    assert config.node_port_addresses == ()


def test_a_file_overrules_all_flags_but_the_name_and_the_verbosity() -> None:
    base = read("mode: nftables\nhostnameOverride: old\nclusterCIDR: 10.0.0.0/8")
    given = {"hostname-override": " Node-1 ", "v": "4", "proxy-mode": "iptables", "masquerade-all": "true"}
    config, warnings = config_flags.apply(base, given, from_file=True)
    assert (config.hostname_override, config.logging.verbosity, config.mode) == ("node-1", 4, "nftables")
    assert not config.nftables.masquerade_all
    assert warnings == [
        "--proxy-mode is ignored: --config is given, set mode there",
        "--masquerade-all is ignored: --config is given, set nftables.masqueradeAll there",
    ]


def test_an_empty_name_leaves_the_files_one() -> None:
    base = read("hostnameOverride: node-2")
    assert config_flags.apply(base, {"hostname-override": ""}, from_file=True)[0].hostname_override == "node-2"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hostname-override": "  "}, "--hostname-override"),
        ({"iptables-masquerade-bit": "x"}, "--iptables-masquerade-bit: 'x' is no whole number"),
        ({"iptables-masquerade-bit": "32"}, "iptables.masqueradeBit: must be between 0 and 31"),
        ({"masquerade-all": "maybe"}, "--masquerade-all: 'maybe' is not true or false"),
        ({"feature-gates": "A"}, "--feature-gates: 'A' is not of the form Gate=true,Other=false"),
        ({"proxy-mode": "ipvs", "masquerade-all": "true"}, "mode: 'ipvs' is not among"),
        ({"proxy-mode": "bogus", "iptables-sync-period": "1s"}, "mode: 'bogus' is not among"),
        ({"cluster-cidr": "10.0.0.0"}, "clusterCIDR: '10.0.0.0' is no CIDR"),
    ],
)
def test_wrong_flags_are_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        config_flags.apply(ProxyConfig(), given)
    assert message in str(caught.value)
