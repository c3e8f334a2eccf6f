"""Which machines a download may be answered by: never the one that hands out a cloud's credentials.

A name, or a redirect, can lead anywhere; what counts is the address that answered. Link-local addresses
(169.254.0.0/16, fe80::/10: the metadata services of clouds) are never a model's source, nor are multicast and
unspecified ones, nor is this machine unless the source itself names it. Behind a proxy the proxy decides.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from typing import Final

import httpx

from slipway_engine.errors import DownloadFailed

SOURCE_HOST: Final = "slipway_source_host"
"""Extension of a request (redirects inherit it): the host that the source names."""

_METADATA: Final = frozenset(
    {
        "fd00:ec2::254", "fd00:ec2::23",  # Amazon's, and its agent for pods
        "fd20:ce::254",  # Google's
        "100.100.100.200",  # Alibaba's
        "192.0.0.192",  # Oracle's
    }
)  # fmt: skip
"""Metadata services of clouds whose addresses are not link-local."""


def check_peer(response: httpx.Response) -> None:
    """Refuse an answer from where no model comes from, before its body is read. Raises DownloadFailed."""
    url, stream = response.request.url, response.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream is not None else None
    if not isinstance(peer, tuple) or not peer or _proxied(url):
        return
    source = str(response.request.extensions.get(SOURCE_HOST, ""))
    if (why := forbidden(str(peer[0]), local=is_loopback(source))) is not None:
        raise DownloadFailed(
            f"{url.host} answers from {peer[0]}, {why}: models are never fetched from there; "
            "check the source and where it redirects to."
        )


def forbidden(address: str, *, local: bool = False) -> str | None:
    """Return what an address is, where no model may come from it; `local` permits this machine."""
    try:
        ip = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return None
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_link_local or str(ip) in _METADATA:
        return "an address of a cloud's metadata service, or of this link alone"
    if ip.is_multicast or ip.is_unspecified:
        return "which is no address of a server"
    if ip.is_loopback and not local:
        return "which is this machine itself"
    return None


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _proxied(url: httpx.URL) -> bool:
    proxies = urllib.request.getproxies()
    return bool(proxies.get(url.scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(url.host)
