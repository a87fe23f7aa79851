"""A small name server for tests, over UDP and TCP on loopback, answering from a table.

Records are written as in a zone file: `world.add("other.test", "MX", "10 mx.other.test.")`. A name without records is
NXDOMAIN, a name with others NODATA; `broken` names answer SERVFAIL. Not recursive: every answer is authoritative.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset


class DnsWorld:
    """The records, and two threads that answer for them."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.broken: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self._records: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], list[str]] = {}
        self._udp, self._tcp = _two_sockets(host)
        self.port: int = self._udp.getsockname()[1]
        self._threads = [
            threading.Thread(target=self._serve_udp, daemon=True),
            threading.Thread(target=self._serve_tcp, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def add(self, name: str, kind: str, *values: str) -> None:
        """Add records of type `kind` (as "MX") at `name`."""
        key = (dns.name.from_text(name), dns.rdatatype.from_text(kind))
        self._records.setdefault(key, []).extend(values)

    def remove(self, name: str, kind: str) -> None:
        """Forget the records of type `kind` at `name`."""
        self._records.pop((dns.name.from_text(name), dns.rdatatype.from_text(kind)), None)

    def close(self) -> None:
        """Stop answering."""
        for sock in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _answer(self, wire: bytes, *, longest: int) -> bytes | None:
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        if len(query.question) != 1:
            return None
        question = query.question[0]
        name, kind = question.name, question.rdtype
        self.asked.append((name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(kind)))
        response = dns.message.make_response(query, our_payload=longest)
        response.flags |= dns.flags.AA | dns.flags.RA
        if name.to_text(omit_final_dot=True).lower() in self.broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        else:
            self._fill(response, name, kind)
        try:
            return response.to_wire(max_size=longest)
        except dns.exception.TooBig:
            short = dns.message.make_response(query)
            short.flags |= dns.flags.TC | dns.flags.AA
            return short.to_wire()

    def _fill(self, response: dns.message.Message, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> None:
        for _ in range(8):
            values = self._records.get((name, kind))
            if values:
                response.answer.append(dns.rrset.from_text(name, 60, dns.rdataclass.IN, kind, *values))
                return
            aliases = self._records.get((name, dns.rdatatype.CNAME))
            if not aliases:
                break
            response.answer.append(dns.rrset.from_text(name, 60, dns.rdataclass.IN, dns.rdatatype.CNAME, aliases[0]))
            name = dns.name.from_text(aliases[0])
        if not any(known == name for known, _ in self._records):
            response.set_rcode(dns.rcode.NXDOMAIN)

    def _serve_udp(self) -> None:
        while True:
            try:
                wire, peer = self._udp.recvfrom(65535)
            except OSError:
                return
            if answer := self._answer(wire, longest=1232):
                with contextlib.suppress(OSError):
                    self._udp.sendto(answer, peer)

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, struct.error):
            connection.settimeout(10)
            while length := _exactly(connection, 2):
                wire = _exactly(connection, struct.unpack("!H", length)[0])
                if answer := self._answer(wire, longest=65535):
                    connection.sendall(struct.pack("!H", len(answer)) + answer)


def _two_sockets(host: str) -> tuple[socket.socket, socket.socket]:
    for _ in range(50):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp.bind((host, 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        return udp, tcp
    raise RuntimeError("no port is free for both UDP and TCP")


def _exactly(connection: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        more = connection.recv(count - len(octets))
        if not more:
            return b""
        octets += more
    return octets
