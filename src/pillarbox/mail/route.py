"""Where mail for an address goes: accounts, aliases and catch-alls of local domains, the next hop of all others.

The same question serves RCPT (is there such a user?), delivery, and "may this account send as that address?", so an
answer is kept while the directory's version stays. Expansion is a loop over a list of work, never a recursion: aliases
may form cycles (each address is visited once), at most 10 deep and 10,000 wide (cases 100, 101).
Source: RFC 5321 §3.4, §3.9, §4.5.1 (postmaster); RFC 2142 (abuse); RFC 5233 (detail).
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final

from pillarbox.model.address import Address, parse_address
from pillarbox.model.clock import Clock
from pillarbox.model.errors import Refused
from pillarbox.model.mailbox import Account
from pillarbox.model.settings import Route, Settings
from pillarbox.model.status import Status
from pillarbox.store.api import Directory, Target

MAX_DEPTH: Final = 10
MAX_PLACES: Final = 10_000
ROLES: Final = frozenset(("postmaster", "abuse"))
"""Local parts that reach someone in every local domain, and bare."""
_KNOWN: Final = 50_000
_BREATH: Final = 200
_FRESH_S: Final = 0.2
_UNKNOWN: Final = Status(5, 1, 1)

_RELAY_FORM: Final = re.compile(r"[^%@!]+[%@][A-Za-z0-9.\[\]:%@-]+|[A-Za-z0-9.-]+!.+")
"""Local parts that once asked a host to relay: user%host, "user@host", host!user (case 71)."""


@dataclass(frozen=True, slots=True)
class Place:
    """One end of an expansion: the address to deliver to, and where that is. `account` is None for remote ones."""

    target: Target
    address: Address
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """What an address comes to. Without places it is refused with `status`."""

    address: Address
    is_local: bool
    """The domain is ours (or the address is the bare postmaster)."""
    places: tuple[Place, ...] = ()
    status: Status = _UNKNOWN
    rule: str = ""

    @property
    def has_quota(self) -> bool:
        """True if some account it reaches has a quota."""
        return any(place.account is not None and place.account.quota_octets for place in self.places)


class Router:
    """Resolves addresses. One per process."""

    def __init__(self, directory: Directory, settings: Settings, clock: Clock | None = None) -> None:
        """With a clock the directory's version is asked for five times a second, without one for each address."""
        self._directory = directory
        self._clock = clock
        self._asked_s = float("-inf")
        self._separator = settings.detail_separator
        self._postmaster = parse_address(settings.postmaster) if settings.postmaster else None
        self._routes = settings.outbound.routes
        self._known: dict[Address, Resolution] = {}
        self._version = -1

    async def resolve(self, address: Address) -> Resolution:
        """Where mail for the address goes. Raises Trouble (the directory cannot be asked)."""
        await self._refresh()
        known = self._known.get(address)
        if known is None:
            version = self._version
            known = await self._expand(address)
            if len(self._known) >= _KNOWN:
                self._known.clear()
            if version == await self._directory.version():
                self._known[address] = known
        return known

    async def _refresh(self) -> None:
        """Forget what is known when the directory has changed."""
        if self._clock is not None:
            now_s = self._clock.monotonic()
            if now_s - self._asked_s < _FRESH_S:
                return
            self._asked_s = now_s
        version = await self._directory.version()
        if version != self._version:
            self._known.clear()
            self._version = version

    async def is_local_domain(self, domain: str) -> bool:
        """True for a domain of ours; the empty one (bare postmaster) is."""
        return not domain or await self._directory.is_local_domain(domain)

    def next_hop(self, domain: str) -> str:
        """The name of the next hop for a remote domain: the pattern of the static route that matches, else itself."""
        route = find_route(self._routes, domain)
        return route.domain if route is not None else domain

    async def reaches(self, address: Address, account: Account) -> bool:
        """True if mail for the address comes to the account, alone or among others: then it may send as that address.

        So its own address with any detail, aliases that contain it, and what catch-alls and roles give it.
        """
        if address.domain and not await self._directory.is_local_domain(address.domain):
            return False
        found = await self.resolve(address)
        return any(place.account is not None and place.account.id == account.id for place in found.places)

    async def _expand(self, address: Address) -> Resolution:
        if not await self.is_local_domain(address.domain):
            return Resolution(address, False, (self._remote(address),))
        places: dict[tuple[str, str], Place] = {}
        seen: set[str] = set()
        work = [(address, 0)]
        looped = False
        while work:
            current, depth = work.pop()
            if current.key in seen:
                looped = True
                continue
            seen.add(current.key)
            if len(seen) % _BREATH == 0:
                await asyncio.sleep(0)  # a wide alias takes a while; others go on
            if depth > MAX_DEPTH or len(places) + len(work) >= MAX_PLACES:
                return Resolution(address, True, status=Status(5, 4, 6), rule="alias-too-wide")
            if depth and not await self.is_local_domain(current.domain):
                place: Place | None = self._remote(current)
            else:
                place, targets = await self._look_up(current)
                work += [(target, depth + 1) for target in reversed(targets)]
            if place is not None:
                places.setdefault((place.target.name, place.address.key), place)
        if places:
            return Resolution(address, True, tuple(places.values()))
        if looped:
            return Resolution(address, True, status=Status(5, 4, 6), rule="alias-loop")
        if _RELAY_FORM.fullmatch(address.local):
            return Resolution(address, True, status=Status(5, 7, 1), rule="relay-denied")
        return Resolution(address, True, rule="unknown-user")

    async def _look_up(self, address: Address) -> tuple[Place | None, tuple[Address, ...]]:
        """One step in a local domain: the account, or what an alias stands for, or neither.

        Order: the address as it is, without its detail, the roles, the domain's catch-all.
        """
        base = address.without_detail(self._separator) if self._separator else address
        for candidate in (address,) if base == address else (address, base):
            if candidate.domain:
                account = await self._directory.account(candidate)
                if account is not None:
                    return Place(Target("local", account.id), address, account), ()
            alias = await self._directory.alias(candidate)
            if alias is not None:
                return None, alias.targets
        if base.local.casefold() in ROLES:
            return await self._role(address)
        if address.domain:
            alias = await self._directory.alias(Address("", address.domain))
            if alias is not None:
                return None, alias.targets
        return None, ()

    async def _role(self, address: Address) -> tuple[Place | None, tuple[Address, ...]]:
        """Whoever reads mail for postmaster: who the settings name, else the oldest active account."""
        found = self._postmaster
        if found is not None and found.key != address.key and await self.knows_postmaster():
            return None, (found,)
        accounts = await self._directory.accounts(state="active")
        if not accounts:
            return None, ()
        oldest = min(accounts, key=lambda account: (account.created_s, account.id))
        return Place(Target("local", oldest.id), address, oldest), ()

    async def knows_postmaster(self) -> bool:
        """Is whom the settings name a user, an alias, or elsewhere? Else the oldest active account stands in."""
        found = self._postmaster
        return found is not None and (
            not await self._directory.is_local_domain(found.domain)
            or await self._directory.account(found.without_detail(self._separator or "+")) is not None
            or await self._directory.alias(found) is not None
        )

    def _remote(self, address: Address) -> Place:
        return Place(Target("remote", self.next_hop(address.domain)), address)


def find_route(routes: tuple[Route, ...], domain: str) -> Route | None:
    """The first static route for the domain: its name, "*.parent" for what is below parent, "*" for everything."""
    for route in routes:
        pattern = route.domain.lower()
        if pattern in (domain, "*") or (pattern.startswith("*.") and domain.endswith(pattern[1:])):
            return route
    return None


async def resolve_or_refuse(router: Router, address: Address) -> Resolution:
    """The resolution of an address that leads somewhere. Raises Refused if it leads nowhere."""
    found = await router.resolve(address)
    if not found.places:
        raise Refused(found.status, found.rule)
    return found
