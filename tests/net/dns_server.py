"""A name server for tests: UDP and TCP on one port of 127.0.0.1, answers made by a function."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import cast

import dns.flags
import dns.message
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Answerer = Callable[[dns.message.Message], list[bytes]]
"""The packets to send for a query, in order."""


class DnsServer:
    """`asked` is every question, as (name in lower case, type, "udp" or "tcp")."""

    def __init__(self, answer: Answerer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, str]] = []
        self.port = 0
        self.silent_udp = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def respond(self, wire: bytes, transport: str) -> list[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.asked.append((question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype), transport))
        return self.answer(query)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                for packet in self.respond(await reader.readexactly(length), "tcp"):
                    writer.write(struct.pack("!H", len(packet)) + packet)
        writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        packets = self.server.respond(data, "udp")
        if not self.server.silent_udp:
            for packet in packets:
                self.transport.sendto(packet, addr)


@contextlib.asynccontextmanager
async def serving(answer: Answerer) -> AsyncIterator[DnsServer]:
    """Run a name server while the block lasts."""
    server = DnsServer(answer)
    tcp_socket, udp_socket = _pair()
    server.port = tcp_socket.getsockname()[1]
    loop = asyncio.get_running_loop()
    tcp = await asyncio.start_server(server.converse, sock=tcp_socket)
    udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(server), sock=udp_socket)
    try:
        yield server
    finally:
        udp.close()
        tcp.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    for _ in range(50):
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp.bind(("127.0.0.1", 0))
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
            continue
        udp.setblocking(False)
        return tcp, udp
    raise RuntimeError("no port is free for both")


class Zone:
    """Records as text: `zone["name."] = ["MX 10 mx.name.", …]`; missing names are NXDOMAIN. CNAMEs are not followed."""

    def __init__(self, records: dict[str, list[str]], ttl: int = 300) -> None:
        self.records = records
        self.ttl = ttl

    def __call__(self, query: dns.message.Message) -> list[bytes]:
        response = self.response(query)
        return [response.to_wire(max_size=65535)]

    def response(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        question = query.question[0]
        name = question.name.to_text().lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        if name not in self.records:
            response.set_rcode(dns.rcode.NXDOMAIN)
        for text in self.records.get(name, []):
            record_kind, _, value = text.partition(" ")
            if record_kind in (kind, "CNAME"):
                response.answer.append(dns.rrset.from_text(question.name, self.ttl, "IN", record_kind, value))
        if not response.answer:
            soa = dns.rrset.from_text(".", 900, "IN", "SOA", "a. b. 1 2 3 4 600")
            response.authority.append(soa)
        return response
