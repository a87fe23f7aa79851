"""Lists of IP networks that are asked often: trusted, relaying, allowed. Source: RFC 4632 (CIDR), RFC 4291 §2.3."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

_MAPPED: Final = "::ffff:"


class Networks:
    """Compiled networks; `"127.0.0.1" in networks` costs one look-up for each length of prefix in the list."""

    __slots__ = ("_v4", "_v6")

    def __init__(self, networks: Iterable[str]) -> None:
        """Each is "10.0.0.0/8", "fd00::/8" or one address. Raises ValueError."""
        v4: dict[int, set[int]] = {}
        v6: dict[int, set[int]] = {}
        for text in networks:
            network = ipaddress.ip_network(text, strict=False)
            shift = network.max_prefixlen - network.prefixlen
            by_shift = v4 if network.version == 4 else v6
            by_shift.setdefault(shift, set()).add(int(network.network_address) >> shift)
        self._v4 = tuple(sorted(v4.items()))
        self._v6 = tuple(sorted(v6.items()))

    def __bool__(self) -> bool:
        return bool(self._v4 or self._v6)

    def __contains__(self, address: str) -> bool:
        """Is the address in one of the networks? False for what is no IP address; ::ffff:1.2.3.4 is 1.2.3.4."""
        if address.startswith(_MAPPED) and "." in address:
            address = address[len(_MAPPED) :]
        try:
            if ":" in address:
                number = int.from_bytes(socket.inet_pton(socket.AF_INET6, address.partition("%")[0]), "big")
                return any(number >> shift in members for shift, members in self._v6)
            number = int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big")
        except (OSError, ValueError):
            return False
        return any(number >> shift in members for shift, members in self._v4)
