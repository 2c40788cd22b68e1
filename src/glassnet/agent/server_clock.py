"""How far an API server's clock is from ours."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

import aiohttp

from glassnet.client.kubeconfig import Access
from glassnet.net.errors import GlassnetError

_TIMEOUT = 10.0


async def clock_difference(access: Access) -> float:
    """Seconds that the server is ahead (RFC 9110, section 6.6.1: the Date of its answer), the way there taken out by half.

    Whoever we are does not matter: a refusal has a Date, too. Raises GlassnetError when no server answers or one says no time.
    """
    failure = ""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT), trust_env=True) as session:
        for server in access.servers:
            begun = time.time()
            try:
                async with session.get(
                    f"{server}/version", ssl=access.tls if access.tls else True, proxy=access.proxy or None,
                    server_hostname=access.server_name or None,
                ) as answer:  # fmt: skip
                    moment = parsedate_to_datetime(answer.headers.get("Date", ""))
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                failure = f"{server}: {error or type(error).__name__}"
                continue
            return moment.timestamp() + 0.5 - (begun + time.time()) / 2
    raise GlassnetError(f"no API server tells its time: {failure}")
