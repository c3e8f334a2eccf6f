"""One attempt at one pod, and which failures mean what.

Failed attempts come out as `AttemptFailed`: a word for the metrics, whether another pod may be tried, and the
refusal for the client if none is.
"""

from __future__ import annotations

import logging
import time

import aiohttp

from slipway_gateway.errors import GatewayError, bad_gateway, gateway_timeout
from slipway_gateway.limits import Timeouts
from slipway_gateway.objects import Endpoint, Key

log = logging.getLogger(__name__)

# Engines close connections that were idle for 5 s (uvicorn's default); we let go first, so that none is
# picked up in the moment it is being closed.
KEEPALIVE_SECONDS = 3.0
LATE = 1.25
READ_BUFFER = 64 * 1024


class AttemptFailed(Exception):
    """The pod did not answer."""

    def __init__(self, how: str, retry: bool, refusal: GatewayError) -> None:
        super().__init__(how)
        self.how = how
        self.retry = retry
        self.refusal = refusal


def open_session(timeouts: Timeouts) -> aiohttp.ClientSession:
    """Return the client for the pods: no cookies, no proxies, no redirects, no limit of its own."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=timeouts.connect, sock_read=timeouts.first_byte
        ),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=READ_BUFFER,
    )


async def send(
    session: aiohttp.ClientSession,
    key: Key,
    endpoint: Endpoint,
    path: str,
    body: bytes,
    headers: dict[str, str],
) -> aiohttp.ClientResponse:
    """Send a request to one pod and return its response once that begins."""
    try:
        response = await _post(session, endpoint.origin + path, body, headers)
        _stop_timing(response)
        return response
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        log.debug("pod %s of %s: %s", endpoint.pod, key, error)
        refusal = bad_gateway(f"Pod {endpoint.pod} of {key} does not take connections; try again.")
        raise AttemptFailed("connect", True, refusal) from None
    except aiohttp.ServerTimeoutError:
        refusal = gateway_timeout(
            f"Pod {endpoint.pod} of {key} stayed silent for longer than this gateway's --first-byte-timeout; "
            "ask for fewer tokens, or stream."
        )
        raise AttemptFailed("timeout", False, refusal) from None
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError):
        refusal = bad_gateway(
            f"Pod {endpoint.pod} of {key} closed the connection before it answered; try again."
        )
        raise AttemptFailed("reset", True, refusal) from None
    except aiohttp.ClientError as error:
        refusal = bad_gateway(
            f"Pod {endpoint.pod} of {key} sent what is not HTTP ({type(error).__name__}); look at its log."
        )
        raise AttemptFailed("protocol", False, refusal) from None


def _stop_timing(response: aiohttp.ClientResponse) -> None:
    """Leave the rest of a response to whoever passes it on, who times it too.

    The client would set a timer anew with each piece that arrives, a tenth of what passing it on costs.
    """
    connection = response.connection
    if connection is not None and connection.protocol is not None:
        connection.protocol.read_timeout = None


async def _post(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]
) -> aiohttp.ClientResponse:
    began = time.monotonic()
    try:
        return await session.post(url, data=body, headers=headers, allow_redirects=False)
    except aiohttp.ConnectionTimeoutError:
        allowed = session.timeout.sock_connect or 0.0
        if time.monotonic() - began < LATE * allowed:
            raise
    # The timer itself was late: this process had no CPU, and the pod is not to blame. Nothing was sent yet.
    return await session.post(url, data=body, headers=headers, allow_redirects=False)
