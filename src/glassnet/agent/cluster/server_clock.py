"""How far an API server's clock is from ours."""

from __future__ import annotations

import ssl
import time
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from glassnet.client.kubeconfig import Access
from glassnet.net.errors import GlassnetError

_TIMEOUT = 10.0


async def clock_difference(access: Access) -> float:
    """Seconds that the server is ahead (RFC 9110, section 6.6.1: the Date of its answer), the way there taken out by half.

    Whoever we are does not matter: a refusal has a Date, too. Raises GlassnetError when no server answers or one says no time.
    """
    failure, tls = "", _context(access.tls)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT), trust_env=True) as session:
        for server in access.servers:
            begun = time.time()
            try:
                async with session.get(
                    f"{server}/version", ssl=tls, proxy=access.proxy or None,
                    server_hostname=access.server_name or None,
                ) as answer:  # fmt: skip
                    moment = parsedate_to_datetime(answer.headers.get("Date", ""))
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                failure = f"{server}: {error or type(error).__name__}"
                continue
            return moment.timestamp() + 0.5 - (begun + time.time()) / 2
    raise GlassnetError(f"no API server tells its time: {failure}")


def _context(tls: Any) -> ssl.SSLContext | bool:
    """The context of an access, whether it is one or makes one; True: the usual trust."""
    context: ssl.SSLContext | None = tls.context() if hasattr(tls, "context") else tls
    return context or True
