"""DNS with a cache, for routing now and for policies later. Implements `mail.desk.Resolver`.

"No such name" and "no such record" are answers and are cached like others; servers that fail are DnsTrouble and are
not (case 105). Only what was asked for is believed and kept: the chain of CNAMEs from the question and the records at
its end, never what else came along (case 107).
Source: RFC 1034 §3.6.2 (CNAME), RFC 2308 (negative answers), RFC 5321 §5.1 (MX), RFC 7505 (null MX).
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.SOA import SOA

from pillarbox.mail.desk import DnsTrouble, MxHost
from pillarbox.model.clock import Clock
from pillarbox.net.dns_wire import NameServer, ask, parse_name_server, read_system_servers

MAX_CNAMES: Final = 8
MAX_MX: Final = 10
MAX_ADDRESSES: Final = 20
"""Of each family, of one host."""
MIN_TTL_S: Final = 30.0
MAX_TTL_S: Final = 86400.0
MAX_NEGATIVE_TTL_S: Final = 10800.0
"""RFC 2308 §5: one to three hours at most."""
MAX_CACHED: Final = 20_000
MAX_ASKING: Final = 256
"""Questions on the wire at once."""
_LOCALHOST: Final = dns.name.from_text("localhost")


@dataclass(frozen=True, slots=True)
class Answer:
    """Records of one type. `exists`: the name is there, with other records at least."""

    exists: bool
    records: tuple[dns.rdata.Rdata, ...]
    canonical: dns.name.Name
    """The name at the end of the CNAMEs."""
    authentic: bool
    """A validating server on this machine says so (AD)."""
    ttl_s: float


class DnsResolver:
    """Asks name servers directly; holds no sockets between questions. For one event loop."""

    def __init__(self, clock: Clock, name_servers: Sequence[str] = (), max_cached: int = MAX_CACHED) -> None:
        """`name_servers` as in the settings ("address" or "address:port"). Raises ValueError."""
        self._servers: list[NameServer] = [parse_name_server(text) for text in name_servers] or read_system_servers()
        self._clock = clock
        self._max_cached = max_cached
        self._cache: OrderedDict[tuple[dns.name.Name, dns.rdatatype.RdataType], tuple[float, Answer]] = OrderedDict()
        self._asking: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], asyncio.Task[Answer]] = {}
        self._turns = asyncio.Semaphore(MAX_ASKING)

    async def mx(self, domain: str) -> tuple[bool, Sequence[MxHost]]:
        """(the name exists, its MX by preference, equals in random order, at most MAX_MX); null MX has host ""."""
        answer = await self.lookup(domain, "MX")
        hosts = [
            MxHost(record.preference, record.exchange.to_text(omit_final_dot=True).lower().strip("."))
            for record in answer.records
            if isinstance(record, MX)
        ]
        random.shuffle(hosts)
        hosts.sort(key=lambda host: host.preference)
        return answer.exists, hosts[:MAX_MX]

    async def addresses(self, host: str) -> list[str]:
        """IPv6 and IPv4 addresses in turn. One family is enough where the other cannot be found out."""
        found = await asyncio.gather(self.lookup(host, "AAAA"), self.lookup(host, "A"), return_exceptions=True)
        families: list[list[str]] = []
        troubles: list[BaseException] = []
        for answer in found:
            if isinstance(answer, BaseException):
                troubles.append(answer)
            else:
                families.append([record.to_text() for record in answer.records[:MAX_ADDRESSES]])
        interleaved: dict[str, None] = {}
        for i in range(max(map(len, families), default=0)):
            for family in families:
                if i < len(family):
                    interleaved[family[i]] = None
        if troubles and not interleaved:
            raise troubles[0]
        return list(interleaved)

    async def lookup(self, name: str, kind: str) -> Answer:
        """Records of one type ("MX", "TXT", "TLSA" …), CNAMEs followed. Raises DnsTrouble.

        What cannot be a name in DNS does not exist.
        """
        try:
            asked = dns.name.from_text(name)
        except (dns.exception.DNSException, ValueError):
            return Answer(False, (), dns.name.root, False, MIN_TTL_S)
        return await self._lookup(asked, dns.rdatatype.from_text(kind))

    async def _lookup(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Answer:
        if name.is_subdomain(_LOCALHOST):
            return _localhost(name, kind)
        key = (name, kind)
        if cached := self._cached(key):
            return cached
        task = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._resolve(name, kind, MAX_CNAMES))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(task)  # one asker's cancellation is not the others'

    def _cached(self, key: tuple[dns.name.Name, dns.rdatatype.RdataType]) -> Answer | None:
        entry = self._cache.get(key)
        if entry is None:
            return None
        if entry[0] <= self._clock.monotonic():
            del self._cache[key]
            return None
        self._cache.move_to_end(key)
        return entry[1]

    def _keep(self, key: tuple[dns.name.Name, dns.rdatatype.RdataType], task: asyncio.Task[Answer]) -> None:
        self._asking.pop(key, None)
        if task.cancelled() or task.exception():
            return
        answer = task.result()
        self._cache[key] = (self._clock.monotonic() + answer.ttl_s, answer)
        if len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)

    async def _resolve(self, name: dns.name.Name, kind: dns.rdatatype.RdataType, cnames_left: int) -> Answer:
        async with self._turns:
            message, server = await ask(self._servers, name, kind)
        authentic = bool(message.flags & dns.flags.AD) and server.is_local
        end, cname_ttl_s, followed = _follow(message, name) if kind != dns.rdatatype.CNAME else (name, MAX_TTL_S, 0)
        if followed > cnames_left:
            raise DnsTrouble(f"{name}: more than {MAX_CNAMES} CNAMEs")
        records = message.get_rrset(message.answer, end, dns.rdataclass.IN, kind)
        if records is not None:
            ttl_s = _bounded(min(records.ttl, cname_ttl_s), MAX_TTL_S)
            return Answer(True, tuple(records), end, authentic, ttl_s)
        if message.rcode() != dns.rcode.NXDOMAIN and followed and not _has_soa(message):
            # the server did not go to the end of the chain: ask there (on our own: a task that waits for another's
            # could, in a loop of CNAMEs, wait for itself)
            rest = self._cached((end, kind)) or await self._resolve(end, kind, cnames_left - followed)
            ttl_s = _bounded(min(rest.ttl_s, cname_ttl_s), MAX_TTL_S)
            return Answer(rest.exists, rest.records, rest.canonical, authentic and rest.authentic, ttl_s)
        ttl_s = _bounded(min(_negative_ttl_s(message), cname_ttl_s), MAX_NEGATIVE_TTL_S)
        return Answer(message.rcode() != dns.rcode.NXDOMAIN, (), end, authentic, ttl_s)


def _follow(message: dns.message.Message, name: dns.name.Name) -> tuple[dns.name.Name, float, int]:
    """(where the CNAMEs in this answer lead, their least TTL, how many they are). Loops end by their number."""
    ttl_s, followed = MAX_TTL_S, 0
    while followed <= MAX_CNAMES:
        alias = message.get_rrset(message.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if alias is None:
            break
        record = next(iter(alias), None)
        if not isinstance(record, CNAME):
            break
        name, ttl_s, followed = record.target, min(ttl_s, alias.ttl), followed + 1
    return name, ttl_s, followed


def _has_soa(message: dns.message.Message) -> bool:
    return any(rrset.rdtype == dns.rdatatype.SOA for rrset in message.authority)


def _negative_ttl_s(message: dns.message.Message) -> float:
    """Source: RFC 2308 §3: the lesser of the SOA's TTL and its MINIMUM."""
    for rrset in message.authority:
        for record in rrset:
            if isinstance(record, SOA):
                return min(rrset.ttl, record.minimum)
    return MIN_TTL_S


def _bounded(ttl_s: float, most_s: float) -> float:
    return max(MIN_TTL_S, min(ttl_s, most_s))


def _localhost(name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Answer:
    """Source: RFC 6761 §6.3: always loopback, never asked for."""
    text = {dns.rdatatype.A: "127.0.0.1", dns.rdatatype.AAAA: "::1"}.get(kind)
    records = (dns.rdata.from_text(dns.rdataclass.IN, kind, text),) if text else ()
    return Answer(True, records, name, False, MAX_TTL_S)
