"""One attempt at one pod, and which failures mean what.

Failed attempts come out as `AttemptFailed`: a word for the metrics, whether another pod may be tried, and the
refusal for the client if none is.
"""

from __future__ import annotations

import aiohttp

from slipway_gateway.errors import GatewayError, bad_gateway, gateway_timeout
from slipway_gateway.limits import Timeouts
from slipway_gateway.objects import Endpoint, Key

# Engines close connections that were idle for 5 s (uvicorn's default); we let go first, so that none is
# picked up in the moment it is being closed.
KEEPALIVE_SECONDS = 3.0
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
        return await session.post(endpoint.origin + path, data=body, headers=headers, allow_redirects=False)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
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
