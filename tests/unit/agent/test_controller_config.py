"""The controller's configuration: file, environment and flags; every fault with its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from glassnet.agent.cluster import configuration as configs
from glassnet.net.errors import UsageError

GLASSNET = str(Path(sys.executable).with_name("glassnet"))


def load(text: str | None = None, environment: dict[str, str] | None = None, **flags: Any) -> configs.ControllerConfig:
    return configs.load(text, "c.yaml", environment or {}, {name.replace("_", "-"): v for name, v in flags.items()})


def test_flags_overrule_the_environment_and_that_the_file() -> None:
    text = "logging: {format: json, level: debug}\nleaderElection:\n  leaseDuration: 30s\n  resourceName: mine\n"
    config = load(text, {"GLASSNET_LOG_LEVEL": "error", "GLASSNET_LEADER_ELECT": "false"}, log_level="warning")
    assert (config.logging.format, config.logging.level) == ("json", "warning")
    assert (config.leader_election.leader_elect, config.leader_election.lease_duration) == (False, "30s")
    assert config.leader_election.resource_name == "mine"
    ranges = load(environment={"GLASSNET_CLUSTER_CIDR": "10.4.0.0/16, fd00::/48"}, allocate_pod_cidrs="true")
    assert [space.text for space in configs.spaces(ranges)] == ["10.4.0.0/16", "fd00::/48"]
    assert configs.spaces(load(cluster_cidr="10.4.0.0/16")) == []


def test_what_is_printed_reads_back() -> None:
    config = load("bindAddress: '[::1]:1'\npodCIDRs: {allocate: true, clusterCIDRs: [10.4.0.0/16]}\n")
    assert load(yaml.safe_dump(configs.to_dict(config))) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("logging:\n  fromat: json\n", "c.yaml:2: unknown field 'logging.fromat'; did you mean 'format'?"),
        ("a: 1\nlogging: {level: loud}\n", "unknown field 'a'"),
        ("logging: {level: loud}\n", "c.yaml:1: logging.level: 'loud' is not among debug, info"),
        ("leaderElection:\n  leaseDuration: 15\n", "c.yaml:2: leaderElection.leaseDuration: expected `str`, got `int`"),
        ("leaderElection:\n  renewDeadline: soon\n", "c.yaml:2: leaderElection.renewDeadline: 'soon' is no duration"),
        ("leaderElection:\n\n  leaseDuration: 5s\n", "c.yaml:3: leaderElection: leaseDuration must be"),
        ("leaderElection: {resourceName: ''}\n", "a Lease needs a name"),
        ("bindAddress: nowhere\n", "c.yaml:1: bindAddress: 'nowhere' is no IP:PORT such as 127.0.0.1:10268"),
        ("bindAddress: 127.0.0.1:99999\n", "is no IP:PORT"),
        ("podCIDRs: {allocate: true}\n", "podCIDRs.clusterCIDRs must name the ranges"),
        ("podCIDRs: {clusterCIDRs: [10.0.0.0/33]}\n", "podCIDRs.clusterCIDRs"),
        ("podCIDRs: {clusterCIDRs: [10.0.0.0]}\n", "'10.0.0.0' is no range such as 10.244.0.0/16"),
        ("podCIDRs: {clusterCIDRs: [10.0.0.0/16, 10.1.0.0/16]}\n", "one range of each family"),
        ("podCIDRs: {clusterCIDRs: [10.0.0.0/25]}\n", "10.0.0.0/25 has no pieces of /24"),
        ("servers: ['https://a:6443', 'b:6443']\n", "c.yaml:1: servers: 'b:6443' is no http or https URL"),
        ("- a\n", "want one mapping"),
        ("a: [\n", "c.yaml:"),
        ("logging: {level: info}\nlogging: {level: info}\n", "is there twice"),
    ],
)
def test_bad_files(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "flags", "said"),
    [
        ({"GLASSNET_LOG_FORMAT": "xml"}, {}, "GLASSNET_LOG_FORMAT: logging.format: 'xml'"),
        ({"GLASSNET_LOG_FORMAT": "xml"}, {"log_format": "yaml"}, "--log-format: logging.format: 'yaml'"),
        ({"GLASSNET_LEADER_ELECT": "perhaps"}, {}, "GLASSNET_LEADER_ELECT: 'perhaps' is neither true nor false"),
        ({}, {"node_cidr_mask_size_ipv4": "-1"}, "--node-cidr-mask-size-ipv4: '-1' is no number"),
        ({}, {"leader_elect_retry_period": "20s"}, "leaseDuration must be"),
        ({}, {"cluster_cidr": "10.0.0.0/8,x"}, "--cluster-cidr: podCIDRs.clusterCIDRs"),
    ],
)
def test_bad_words(environment: dict[str, str], flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(None, environment, **flags)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "/nowhere.yaml"], "--config /nowhere.yaml"),
        (["--kubeconfig", "/nowhere"], "/nowhere"),
        ([], "--kubeconfig FILE"),
    ],
)
def test_the_command_says_it_in_a_line(words: list[str], said: str) -> None:
    done = subprocess.run([GLASSNET, "controller", *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_prints_its_configuration_whole() -> None:
    done = subprocess.run([GLASSNET, "controller", "--leader-elect=false", "--print-config"], capture_output=True, text=True, timeout=30, check=True)  # fmt: skip
    assert load(done.stdout) == load(leader_elect="false")
