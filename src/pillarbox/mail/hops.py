"""Which hosts to try for a next hop: static routes, MX records, and what guards us from ourselves and our networks.

Source: RFC 5321 §5.1 (MX, implicit MX, preferences), RFC 7505 (null MX), RFC 3974 §3; cases 102 to 105.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from pillarbox.mail.desk import DnsTrouble, Hop, MxHost, Resolver
from pillarbox.mail.networks import Networks, is_public, parse_ip
from pillarbox.mail.route import find_route
from pillarbox.model.outcome import Deferred, Failed
from pillarbox.model.settings import Route, Settings
from pillarbox.model.status import Status

MAX_MX: Final = 10
"""Hosts of a domain that are tried at most (case 104)."""
MAX_HOPS: Final = 20
"""Addresses that are tried at most."""
_DNS_FAILED: Final = Deferred(Status(4, 4, 3), "DNS does not answer")


class HopFinder:
    """Finds hops. `own_addresses` are IP addresses this machine has, as far as anyone told."""

    def __init__(
        self,
        resolver: Resolver,
        settings: Settings,
        random: Callable[[int], bytes],
        own_addresses: Iterable[str] = (),
    ) -> None:
        self._resolver = resolver
        self._settings = settings
        self._random = random
        self._allowed = Networks(settings.outbound.allow_networks)
        self._own = frozenset(own_addresses) | {entry.address for entry in settings.listeners}
        self._listening = {(entry.address, entry.port) for entry in settings.listeners}
        self._hostname = settings.hostname.lower().rstrip(".")

    async def hops_for(self, name: str) -> list[Hop] | Failed | Deferred:
        """Hosts in the order to try them; `name` is a domain, an address literal, or the pattern of a static route."""
        try:
            route = find_route(self._settings.outbound.routes, name)
            if route is not None:
                return await self._by_route(route)
            if name.startswith("["):
                return self._literal(name)
            return await self._by_mx(name)
        except DnsTrouble:
            return _DNS_FAILED

    async def _by_route(self, route: Route) -> list[Hop] | Failed | Deferred:
        """The host of a route, by name or address. Someone wrote it down, so private networks are fine."""
        hop = Hop(route.host, "", route.port, route.protocol, route.tls, route.username, route.password)
        if parse_ip(route.host) is not None:
            return [replace(hop, address=route.host)]
        addresses = await self._resolver.addresses(route.host)
        if not addresses:
            # A host that the configuration names is our business, not the sender's fault.
            return Deferred(Status(4, 4, 4), f"the route's host {route.host} has no address")
        return [replace(hop, address=address) for address in addresses[:MAX_HOPS]]

    def _literal(self, name: str) -> list[Hop] | Failed:
        text = name[1:-1].removeprefix("IPv6:").removeprefix("ipv6:")
        if parse_ip(text) is None:
            return Failed(Status(5, 1, 2), "not an address literal")
        return self._guard([(name, text)])

    async def _by_mx(self, domain: str) -> list[Hop] | Failed | Deferred:
        exists, records = await self._resolver.mx(domain)
        if not records:
            if not exists:
                return Failed(Status(5, 1, 2), "the domain does not exist")
            records = [MxHost(0, domain)]
        elif is_null_mx(records):
            return Failed(Status(5, 1, 10), "the domain accepts no mail")
        ordered = self._order(records)
        ours = [record.preference for record in ordered if self._is_our_name(record.host)]
        if ours:
            # We are one of its hosts: only better ones may be tried, else mail goes round (RFC 5321 §5.1).
            ordered = [record for record in ordered if record.preference < min(ours)]
            if not ordered:
                return Failed(Status(5, 4, 6), "the domain's mail comes to this host, which does not know it")
        found: list[tuple[str, str]] = []
        trouble = False
        for record in ordered[:MAX_MX]:
            try:
                found += [(record.host, address) for address in await self._resolver.addresses(record.host)]
            except DnsTrouble:
                trouble = True
        if not found:
            return _DNS_FAILED if trouble else Failed(Status(5, 4, 4), "the domain's hosts have no address")
        hops = self._guard(found)
        return _DNS_FAILED if trouble and isinstance(hops, Failed) else hops

    def _order(self, records: Sequence[MxHost]) -> list[MxHost]:
        """By preference, equal ones by chance (RFC 5321 §5.1)."""
        return [record for _, _, record in sorted((record.preference, self._random(4), record) for record in records)]

    def _is_our_name(self, host: str) -> bool:
        return bool(self._hostname) and host.lower().rstrip(".") == self._hostname

    def _guard(self, found: list[tuple[str, str]]) -> list[Hop] | Failed:
        """Hops to addresses that may be connected to: never ourselves, no private network that is not allowed."""
        port = self._settings.outbound.port
        tls = "opportunistic" if self._settings.outbound.starttls else "none"
        hops: list[Hop] = []
        own = False
        for host, address in found:
            if (address, port) in self._listening or (address in self._own and address not in self._allowed):
                own = True
                if hops:
                    break  # hosts after ourselves are no better than we are
                continue
            if not is_public(address) and address not in self._allowed:
                continue
            if len(hops) < MAX_HOPS and all(hop.address != address for hop in hops):
                hops.append(Hop(host, address, port, "smtp", tls))
        if hops:
            return hops
        if own:
            return Failed(Status(5, 4, 6), "the domain's mail comes to this host, which does not know it")
        return Failed(Status(5, 4, 4), "the domain's hosts have no address on the Internet")


def is_null_mx(records: Sequence[MxHost]) -> bool:
    """True if the domain says that it takes no mail: one MX record whose host is the root. Source: RFC 7505 §3."""
    return len(records) == 1 and records[0].host in ("", ".")
