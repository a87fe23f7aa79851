"""Mail to other hosts over SMTP or LMTP: connections, TLS, deadlines, reuse. What is said is `protocol/smtp/client`.

Opportunistic TLS takes any certificate, and goes on in the clear where a handshake fails (RFC 7435); routes may demand
a verified one. Content is read and written piece by piece. Every recipient gets an outcome, whatever the peer does.
Source: RFC 5321 §4.5.3.2 (timeouts), §5.1; RFC 3207; RFC 8314 §3.3 (implicit TLS). Cases 18, 19, 116–119.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pillarbox.mail.desk import Hop, Parcel
from pillarbox.mail.metrics import Log, Metrics, count
from pillarbox.model.errors import Trouble
from pillarbox.model.outcome import Deferred, Failed, Outcome
from pillarbox.model.settings import Settings
from pillarbox.model.status import Status
from pillarbox.net.peer_line import LineLost, PeerLine
from pillarbox.net.smtp_connection import make_nonce
from pillarbox.net.tls import client_context
from pillarbox.protocol.sasl import LoginClient, PlainClient, SaslClient, ScramClient
from pillarbox.protocol.smtp.client import (
    NO_LOGIN,
    NO_SECURITY,
    Broken,
    ClientEvent,
    ContentDue,
    Finished,
    HandshakeDue,
    Ready,
    SmtpClient,
    TlsUse,
)

NO_ANSWER: Final = Status(4, 4, 1)
"""Another host may be tried."""
OUR_TROUBLE: Final = Status(4, 3, 0)
TLS_FAILED: Final = Status(4, 7, 5)
NOT_CONVERTIBLE: Final = Status(5, 6, 3)
IDLE_S: Final = 30.0
MESSAGES_PER_CONNECTION: Final = 100
MAX_IDLE: Final = 100
BLOCK_S: Final = 180.0
"""RFC 5321 §4.5.3.2.5: for a piece of content to be taken."""
HANDSHAKE_S: Final = 30.0
NO_TLS_S: Final = 3600.0
"""How long a host whose handshake failed is spoken to in the clear."""
MAX_REMEMBERED: Final = 4096


@dataclass(slots=True)
class _Connection:
    line: PeerLine
    client: SmtpClient
    pending: list[ClientEvent] = field(default_factory=list)
    expiry: asyncio.TimerHandle | None = None


class _HandshakeFailed(Exception):
    """STARTTLS was agreed upon, and then the handshake failed."""


class OutboundWire:
    """Implements `mail.desk.Wire`."""

    def __init__(
        self, settings: Settings, log: Log, metrics: Metrics | None = None, ca_file: Path | None = None
    ) -> None:
        self._hostname = settings.hostname or "localhost"
        self._settings = settings.outbound
        self._log = log
        self._metrics = metrics
        self._ca_file = ca_file
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._idle: dict[Hop, list[_Connection]] = {}  # by all that makes a connection good for the same use
        self._without_tls: OrderedDict[tuple[str, int], float] = OrderedDict()

    # --- the wire -------------------------------------------------------------------------------------------------

    async def send(self, hop: Hop, parcel: Parcel) -> list[Outcome]:
        """One outcome per recipient, in order; see `Wire.send`."""
        remote = _name(hop)
        try:
            outcomes = await self._send(hop, parcel)
        except Trouble as trouble:
            self._log.warning("trouble", hop=remote, error=str(trouble))
            outcomes = _for_all(parcel, Deferred(OUR_TROUBLE, "trouble on our side"))
        except Exception:
            self._log.error("unforeseen", hop=remote, exc_info=True)
            outcomes = _for_all(parcel, Deferred(OUR_TROUBLE, "trouble on our side"))
        if any(isinstance(outcome, Deferred) and outcome.unknown for outcome in outcomes):
            self._log.warning("unknown outcome", hop=remote)
        return outcomes

    async def close(self) -> None:
        """Say QUIT to idle connections and close them."""
        for connections in self._idle.values():
            for connection in connections:
                self._leave(connection)
        self._idle.clear()

    async def _send(self, hop: Hop, parcel: Parcel) -> list[Outcome]:
        while (connection := self._take_idle(hop)) is not None:
            answers = connection.client.answers
            outcomes = await self._transact(connection, hop, parcel)
            if not (connection.client.is_over and connection.client.answers == answers):
                return outcomes  # else it was closed while it lay idle
        try:
            opened = await self._open(hop)
        except _HandshakeFailed:
            if hop.tls != "opportunistic" or hop.username:
                return _for_all(parcel, Deferred(TLS_FAILED, f"{_name(hop)}: TLS handshake failed"))
            self._remember_without_tls(hop)
            opened = await self._open(hop)
        if not isinstance(opened, _Connection):
            return _for_all(parcel, opened)
        return await self._transact(opened, hop, parcel)

    # --- opening --------------------------------------------------------------------------------------------------

    async def _open(self, hop: Hop) -> _Connection | Outcome:
        """A session that is ready for a transaction, or what happened. Raises _HandshakeFailed."""
        line = await self._connect(hop)
        if not isinstance(line, PeerLine):
            return line
        client = SmtpClient(
            self._hostname,
            _name(hop),
            self._tls_use(hop),
            _logins(hop),
            is_lmtp=hop.protocol == "lmtp",
            is_secure=hop.tls == "implicit",
        )
        connection = _Connection(line, client)
        try:
            while True:
                match await self._next_event(connection):
                    case Ready():
                        return connection
                    case HandshakeDue():
                        await self._secure(connection, hop)
                    case Broken(outcome):
                        line.close()
                        return _before_mail(outcome)
        except BaseException:
            line.abort()
            raise

    async def _connect(self, hop: Hop) -> PeerLine | Outcome:
        loop = asyncio.get_running_loop()
        context = self._context(True) if hop.tls == "implicit" else None
        source = self._settings.source_address
        local = (source, 0) if source and (":" in source) == (":" in hop.address) else None
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                _, line = await loop.create_connection(
                    PeerLine,
                    hop.address,
                    hop.port,
                    ssl=context,
                    server_hostname=hop.host if context else None,
                    local_addr=local,
                )
        except ssl.SSLError as error:
            return Deferred(TLS_FAILED, f"{_name(hop)}: TLS handshake failed ({error.reason})")
        except (OSError, TimeoutError) as error:
            said = (error.strerror if isinstance(error, OSError) else None) or "connection timed out"
            return Deferred(NO_ANSWER, f"{_name(hop)}: {said.lower()}")
        return line

    async def _secure(self, connection: _Connection, hop: Hop) -> None:
        """STARTTLS. Raises _HandshakeFailed."""
        try:
            host = hop.address if hop.host.startswith("[") else hop.host
            await connection.line.start_tls(self._context(hop.tls == "verify"), host, HANDSHAKE_S)
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: no such host name can be sent
            self._log.info("tls failed", hop=_name(hop), error=str(error)[:200])
            if self._metrics is not None:
                count(self._metrics, "outbound_tls_failed")
            raise _HandshakeFailed from error
        connection.client.secured()

    def _context(self, verify: bool) -> ssl.SSLContext:
        if verify not in self._contexts:
            self._contexts[verify] = client_context(verify, self._ca_file)
        return self._contexts[verify]

    def _tls_use(self, hop: Hop) -> TlsUse:
        if hop.tls == "verify" or (hop.username and not _is_loopback(hop.address)):
            return TlsUse.MUST
        if hop.tls != "opportunistic":
            return TlsUse.NEVER
        until_s = self._without_tls.get((hop.address, hop.port), 0.0)
        return TlsUse.NEVER if asyncio.get_running_loop().time() < until_s else TlsUse.MAY

    def _remember_without_tls(self, hop: Hop) -> None:
        if len(self._without_tls) >= MAX_REMEMBERED:
            self._without_tls.popitem(last=False)
        self._without_tls[hop.address, hop.port] = asyncio.get_running_loop().time() + NO_TLS_S

    # --- a transaction --------------------------------------------------------------------------------------------

    async def _transact(self, connection: _Connection, hop: Hop, parcel: Parcel) -> list[Outcome]:
        client = connection.client
        encoded: bytes | None = None
        if parcel.has_eight_bit and "8BITMIME" not in client.extensions:
            encoded = await parcel.seven_bit()
            if encoded is None:
                self._keep(connection, hop)
                return _for_all(parcel, Failed(NOT_CONVERTIBLE, f"{_name(hop)} takes 7-bit mail only"))
        size = parcel.size_octets if encoded is None else len(encoded)
        client.begin(parcel.envelope, size, parcel.has_eight_bit and encoded is None, parcel.needs_smtputf8)
        try:
            while True:
                match await self._next_event(connection):
                    case ContentDue():
                        await self._send_content(connection, parcel, encoded)
                    case Finished(outcomes):
                        self._keep(connection, hop)
                        return list(outcomes)
                    case Broken(outcome):
                        connection.line.close()
                        return _for_all(parcel, outcome)
        except BaseException:
            connection.line.abort()
            raise

    async def _next_event(self, connection: _Connection) -> ClientEvent:
        """What the session says next. A slow answer has a deadline of its own, however it trickles in."""
        line, client = connection.line, connection.client
        loop = asyncio.get_running_loop()
        answers, until_s = client.answers, loop.time() + client.patience_s
        while True:
            if connection.pending:
                event: ClientEvent | None = connection.pending.pop(0)
            elif client.is_authenticating:
                event = await asyncio.to_thread(client.next_event)
            else:
                event = client.next_event()
            if octets := client.take_output():
                line.write(octets)
            if event is not None:
                return event
            if client.answers != answers:
                answers, until_s = client.answers, loop.time() + client.patience_s
            try:
                client.receive(await line.read(until_s - loop.time()))
            except LineLost as lost:
                client.lost(str(lost))

    async def _send_content(self, connection: _Connection, parcel: Parcel, encoded: bytes | None) -> None:
        """Write the message while the peer takes it; stop when it has refused."""
        line, client = connection.line, connection.client
        chunks = parcel.chunks() if encoded is None else _one(encoded)
        async for piece in chunks:
            client.content(piece)
            line.write(client.take_output())
            try:
                await line.drain(BLOCK_S)
            except LineLost as lost:
                client.lost(str(lost))
            if line.has_octets:
                client.receive(line.take())
                while (event := client.next_event()) is not None:
                    connection.pending.append(event)
            if not client.wants_content:
                return
        client.end_content()

    # --- connections that wait ------------------------------------------------------------------------------------

    def _keep(self, connection: _Connection, hop: Hop) -> None:
        """Use it again soon, unless it is worn out."""
        client, line = connection.client, connection.line
        is_worn = client.messages >= min(MESSAGES_PER_CONNECTION, client.limit("MAILMAX", MESSAGES_PER_CONNECTION))
        if not client.is_ready or line.is_lost or is_worn or sum(map(len, self._idle.values())) >= MAX_IDLE:
            self._leave(connection)
            return
        connection.expiry = asyncio.get_running_loop().call_later(IDLE_S, self._expire, connection, hop)
        self._idle.setdefault(hop, []).append(connection)

    def _take_idle(self, hop: Hop) -> _Connection | None:
        """The one that was used last; those that said something since, or were closed, are given up."""
        while waiting := self._idle.get(hop):
            connection = waiting.pop()
            if not waiting:
                del self._idle[hop]
            if connection.expiry is not None:
                connection.expiry.cancel()
            if not connection.line.is_lost and not connection.line.has_octets:
                return connection
            connection.line.close()
        return None

    def _expire(self, connection: _Connection, hop: Hop) -> None:
        waiting = self._idle.get(hop, [])
        if connection in waiting:
            waiting.remove(connection)
            if not waiting:
                self._idle.pop(hop, None)
            self._leave(connection)

    def _leave(self, connection: _Connection) -> None:
        """QUIT, without waiting for the answer."""
        if connection.expiry is not None:
            connection.expiry.cancel()
        connection.client.quit()
        connection.line.write(connection.client.take_output())
        connection.line.close()


def _name(hop: Hop) -> str:
    return f"{hop.host} [{hop.address}]" if hop.host != hop.address else hop.host


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _logins(hop: Hop) -> list[SaslClient]:
    if not hop.username:
        return []
    return [
        ScramClient(hop.username, hop.password, make_nonce()),
        PlainClient(hop.username, hop.password),
        LoginClient(hop.username, hop.password),
    ]


def _for_all(parcel: Parcel, outcome: Outcome) -> list[Outcome]:
    return [outcome] * len(parcel.envelope.recipients)


def _before_mail(outcome: Outcome) -> Outcome:
    """A host that says "not now" before any mail is one that does not answer: another one may. Where it is security
    or a login that is wanting, it is the same with all. Source: RFC 5321 §5.1."""
    if isinstance(outcome, Deferred) and outcome.status not in (NO_SECURITY, NO_LOGIN):
        return Deferred(NO_ANSWER, outcome.text, outcome.remote)
    return outcome


async def _one(octets: bytes) -> AsyncIterator[bytes]:
    yield octets
