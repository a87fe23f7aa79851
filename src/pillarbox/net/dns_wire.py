"""One DNS question over the wire: UDP from a fresh socket, then TCP. Packets are dnspython's business.

Every query has a random id, a random port (a new socket, connected to its server) and random letter case; whatever
does not repeat all of it is not the answer, and we go on waiting for the real one (case 106). A TCP answer may have
another case: nobody can slip one in there, and some servers do not keep it.
Source: RFC 1035 §4.2, RFC 5452 §9 (forgery), RFC 7766 (TCP), RFC 6891 (EDNS), draft-vixie-dnsext-dns0x20.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from pillarbox.mail.desk import DnsTrouble

QUERY_CAP_S: Final = 5.0
"""All tries for one question together (case 108)."""
UDP_TRY_S: Final = 1.5
UDP_PAYLOAD: Final = 1232
_HEADER_OCTETS: Final = 12
_TRUNCATED: Final = 0x02
"""TC, in the third octet. What such an answer holds is not looked at."""
_random: Final = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class NameServer:
    """Where to ask. `is_local`: on this machine, so that its word on DNSSEC (AD) can be believed (case 108)."""

    address: str
    port: int = 53

    @property
    def is_local(self) -> bool:
        return ipaddress.ip_address(self.address.partition("%")[0]).is_loopback


def parse_name_server(text: str) -> NameServer:
    """ "192.0.2.1", "192.0.2.1:5353", "2001:db8::1" or "[2001:db8::1]:5353". Raises ValueError."""
    address, port = text.strip(), "53"
    if address.startswith("["):
        address, _, rest = address[1:].partition("]")
        port = rest.removeprefix(":") or "53"
    elif address.count(":") == 1:
        address, _, port = address.partition(":")
    ipaddress.ip_address(address.partition("%")[0])
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not a name server's address and port")
    return NameServer(address, int(port))


def read_system_servers(path: Path = Path("/etc/resolv.conf")) -> list[NameServer]:
    """The machine's name servers; one on this machine if none is named. Source: resolv.conf(5)."""
    servers: list[NameServer] = []
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                servers.append(parse_name_server(words[1] if ":" not in words[1] else f"[{words[1]}]"))
            except ValueError:
                continue
    return servers[:3] or [NameServer("127.0.0.1")]


async def ask(
    servers: list[NameServer], name: dns.name.Name, kind: dns.rdatatype.RdataType
) -> tuple[dns.message.Message, NameServer]:
    """The first server's usable answer (NOERROR or NXDOMAIN), and who gave it. Raises DnsTrouble.

    Servers are asked in order over UDP, once more, and at last over TCP, within QUERY_CAP_S.
    """
    failure = "no answer"
    rounds: list[tuple[NameServer, bool]] = [(server, False) for server in servers]
    if len(servers) == 1:
        rounds.append((servers[0], False))
    rounds += [(server, True) for server in servers]
    deadline_s = asyncio.get_running_loop().time() + QUERY_CAP_S
    failed: dict[NameServer, int] = {}
    for server, over_tcp in rounds:
        left_s = deadline_s - asyncio.get_running_loop().time()
        if left_s <= 0:
            break
        if failed.get(server, 0) > 0 and len(failed) < len(servers):
            continue  # it said that it cannot: another one's turn
        try:
            message = await _ask_once(server, name, kind, over_tcp, left_s)
        except (TimeoutError, OSError, dns.exception.DNSException) as error:
            failure = f"{server.address}: {type(error).__name__}"
            continue
        if message.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return message, server
        failure = f"{server.address}: {dns.rcode.to_text(message.rcode())}"
        failed[server] = failed.get(server, 0) + 1
        if len(failed) == len(servers):
            break
    raise DnsTrouble(f"{name} {dns.rdatatype.to_text(kind)}: {failure}")


async def _ask_once(
    server: NameServer, name: dns.name.Name, kind: dns.rdatatype.RdataType, over_tcp: bool, left_s: float
) -> dns.message.Message:
    query = dns.message.make_query(
        _with_random_case(name),
        kind,
        id=secrets.randbelow(65536),
        use_edns=0,
        payload=UDP_PAYLOAD,
        flags=dns.flags.RD | dns.flags.AD,
    )
    wire = query.to_wire()
    async with asyncio.timeout(left_s):
        if not over_tcp:
            async with asyncio.timeout(UDP_TRY_S):
                answer = await _exchange_udp(server, wire)
            if not answer[2] & _TRUNCATED:
                return dns.message.from_wire(answer, ignore_trailing=True)
        return dns.message.from_wire(await _exchange_tcp(server, wire), ignore_trailing=True)


def is_answer_to(query: bytes, answer: bytes, exact_case: bool = True) -> bool:
    """Does the packet answer our question: same id, QR set, one question, the same octets of it?"""
    if len(answer) < _HEADER_OCTETS or answer[:2] != query[:2] or not answer[2] & 0x80:
        return False
    if answer[4:6] != b"\0\1":
        return False
    end = query.index(b"\0", _HEADER_OCTETS) + 5  # the root label, type and class
    asked, repeated = query[_HEADER_OCTETS:end], answer[_HEADER_OCTETS:end]
    return asked == repeated if exact_case else asked.lower() == repeated.lower()


def _with_random_case(name: dns.name.Name) -> dns.name.Name:
    labels = []
    for label in name.labels:
        bits = _random.getrandbits(len(label) or 1)
        labels.append(
            bytes(octet ^ 0x20 if bits >> i & 1 and chr(octet).isalpha() else octet for i, octet in enumerate(label))
            if label.isascii()
            else label
        )
    return dns.name.Name(labels)


class _UdpQuestion(asyncio.DatagramProtocol):
    """Waits for the packet that answers `query`, and drops all others."""

    def __init__(self, query: bytes, answer: asyncio.Future[bytes]) -> None:
        self._query = query
        self._answer = answer

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if not self._answer.done() and is_answer_to(self._query, data):
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there (ICMP): no use in waiting."""
        if not self._answer.done():
            self._answer.set_exception(exc)


async def _exchange_udp(server: NameServer, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _UdpQuestion(query, answer), remote_addr=(server.address, server.port)
    )
    try:
        transport.sendto(query)
        return await answer
    finally:
        transport.close()


async def _exchange_tcp(server: NameServer, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server.address, server.port)
    try:
        writer.write(struct.pack("!H", len(query)) + query)
        for _ in range(4):
            (length,) = struct.unpack("!H", await _exactly(reader, 2))
            answer = await _exactly(reader, length)
            if is_answer_to(query, answer, exact_case=False):
                return answer
        raise ConnectionError("answers to other questions")
    finally:
        writer.close()


async def _exactly(reader: asyncio.StreamReader, count: int) -> bytes:
    try:
        return await reader.readexactly(count)
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("the name server closed the connection") from error
