"""Networks of settings, and the keys under which addresses are counted.

An IPv4 address or an IPv6 /64 is one host: whoever has one address of a /64 has all of them (case 88).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

NET_FACTORS: Final = (1, 3, 9)
"""A limit for a host holds three times over for the network around it, and nine times for the one around that."""
_V4_PREFIXES: Final = (32, 26, 21)
_V6_PREFIXES: Final = (64, 48, 32)
_KNOWN: Final = 10_000


class Networks:
    """A set of networks; `"192.0.2.1" in networks`. What is not an IP address is in none. Raises ValueError if made
    of texts that are no networks."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._networks: list[IpNetwork] = [ipaddress.ip_network(text, strict=False) for text in texts]
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            ip = parse_ip(address)
            known = ip is not None and any(ip.version == net.version and ip in net for net in self._networks)
            self._known[address] = known
        return known


def parse_ip(text: str) -> IpAddress | None:
    """The address, or None. An IPv4-mapped IPv6 address is the IPv4 one (RFC 4291 §2.5.5.2)."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


@lru_cache(maxsize=8192)
def network_keys(address: str) -> tuple[str, str, str]:
    """Keys of the host and the two networks around it: /32, /26, /21 of IPv4, /64, /48, /32 of IPv6.

    What is not an IP address ("local") stands for itself, three times.
    """
    ip = parse_ip(address)
    if ip is None:
        return (address, address + "/", address + "//")
    prefixes = _V4_PREFIXES if ip.version == 4 else _V6_PREFIXES
    bits, number = ip.max_prefixlen, int(ip)
    host, net, wide = (f"{number >> (bits - prefix):x}/{prefix}.{ip.version}" for prefix in prefixes)
    return (host, net, wide)


def is_public(address: str) -> bool:
    """True if the address can be that of a host on the Internet: not loopback, private, link-local, multicast."""
    ip = parse_ip(address)
    return ip is not None and ip.is_global and not ip.is_multicast
