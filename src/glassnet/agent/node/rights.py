"""The capabilities the agent runs with, and no more. Why each: docs/design/node-agent.md."""

from __future__ import annotations

import logging

from glassnet.agent.node.configuration import AgentConfig, proxy_config
from glassnet.agent.proxy.settings import own_settings
from glassnet.kernel import capabilities
from glassnet.kernel.host import HostMachine
from glassnet.net.errors import PreflightError

log = logging.getLogger(__name__)
# NET_ADMIN: links, routes, rules, sysctls of the network; NET_RAW: the raw socket of legacy iptables; SYS_ADMIN: setns(2) into pods
NEEDED = ("NET_ADMIN", "NET_RAW", "SYS_ADMIN")
# DAC_OVERRIDE: the runtime's directories may belong to somebody else
USEFUL = ("DAC_OVERRIDE",)


def confine(config: AgentConfig) -> None:
    """Make the settings that take more rights, then give these up. Call it before any thread or process is started.

    Raises PreflightError that names the capabilities that are missing.
    """
    have = capabilities.effective()
    if missing := [name for name in NEEDED if name not in have]:
        words = ", ".join(f"CAP_{name}" for name in missing)
        raise PreflightError(
            f"the agent lacks {words}: add it to securityContext.capabilities.add of the container, "
            "or to CapabilityBoundingSet= of the systemd unit"
        )
    if config.proxy.enabled:
        machine = HostMachine()
        own_settings(proxy_config(config), machine)  # a lower oom_score_adj takes CAP_SYS_RESOURCE
        machine.close()
    gone = capabilities.keep((*NEEDED, *USEFUL))
    if gone:
        log.info("capabilities kept: %s; %d others given up", ", ".join((*NEEDED, *USEFUL)), len(gone))
