"""A connection to a peer that we opened: bounded reading, bounded writing, deadlines, STARTTLS."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, cast

READ_LIMIT: Final = 1 << 16
"""Octets that may wait to be read; then the peer waits."""
CLOSE_S: Final = 30.0


class LineLost(Exception):
    """The connection ended, or a deadline passed; the text is for reports."""


class PeerLine(asyncio.Protocol):
    """One task at a time uses it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._is_full = False
        self._is_paused = False
        self.is_lost = False

    # --- called by the loop ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of this class

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._wake()

    def eof_received(self) -> None:
        self.is_lost = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > READ_LIMIT and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._wake()

    # --- what the client does -------------------------------------------------------------------------------------

    @property
    def has_octets(self) -> bool:
        """True if something arrived that was not taken."""
        return bool(self._received)

    def take(self) -> bytes:
        """What arrived."""
        octets = bytes(self._received)
        self._received.clear()
        if self._is_paused and self._transport is not None and not self.is_lost:
            self._is_paused = False
            self._transport.resume_reading()
        return octets

    async def read(self, timeout_s: float) -> bytes:
        """Wait for octets. Raises LineLost when the connection ends, or nothing comes in time."""
        until_s = asyncio.get_running_loop().time() + timeout_s
        while not self._received:
            if self.is_lost:
                raise LineLost("connection lost")
            await self._wait(until_s, "timeout waiting for an answer")
        return self.take()

    def write(self, octets: bytes) -> None:
        """Send, if there is still someone to send to."""
        if octets and not self.is_lost and self._transport is not None:
            self._transport.write(octets)

    async def drain(self, timeout_s: float) -> None:
        """Wait until the peer has taken most of it, or says something. Raises LineLost."""
        until_s = asyncio.get_running_loop().time() + timeout_s
        while self._is_full and not self._received:
            if self.is_lost:
                raise LineLost("connection lost")
            await self._wait(until_s, "timeout sending the message")

    async def start_tls(self, context: ssl.SSLContext, host: str, timeout_s: float) -> None:
        """Handshake. Raises OSError (ssl.SSLError is one) or TimeoutError; the connection is of no use then."""
        assert self._transport is not None
        if self.is_lost:
            raise ConnectionResetError("connection lost")
        secured = await asyncio.get_running_loop().start_tls(
            self._transport, self, context, server_hostname=host, ssl_handshake_timeout=timeout_s
        )
        if secured is None:
            raise ConnectionResetError("connection lost")
        self._transport = secured

    def close(self) -> None:
        """End it when all is sent, or soon if the peer does not take it."""
        transport = self._transport
        if transport is not None:
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(CLOSE_S, transport.abort)

    def abort(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, until_s: float, late: str) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_at(until_s, self._wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        if loop.time() >= until_s and not self._received and not self.is_lost:
            raise LineLost(late)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
