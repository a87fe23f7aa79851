"""The writing half of a POP3 connection: one write for what was said in a turn, and back-pressure.

For a client that does not read nothing is written, at most 256 KiB wait for it; if it stalls it is cut off (case 191).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from pillarbox.model.clock import Clock

FLUSH_OCTETS: Final = 64 * 1024


class Outlet(asyncio.Protocol):
    """What a session says, on its way."""

    __slots__ = (
        "_backlog",
        "_clock",
        "_closing_s",
        "_lost",
        "_out",
        "_out_octets",
        "_stalled_s",
        "_transport",
        "_writable",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._writable: asyncio.Future[None] | None = None
        """Waited for while the client does not read."""
        self._stalled_s = -1.0
        self._closing_s = -1.0
        self._backlog = 0
        self._out: list[bytes] = []
        self._out_octets = 0
        self._lost = False

    # --- what the loop tells us

    def pause_writing(self) -> None:
        if self._writable is None and not self._lost:
            self._writable = asyncio.get_running_loop().create_future()
            self._stalled_s = self._clock.monotonic()

    def resume_writing(self) -> None:
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
        self._stalled_s = -1.0

    # --- what the session says

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=2 * FLUSH_OCTETS, low=FLUSH_OCTETS // 2)

    def _write(self, octets: bytes) -> None:
        """Say this, with what else is said in this turn."""
        self._out.append(octets)
        self._out_octets += len(octets)

    def _flush(self) -> None:
        if self._out and self._transport and not self._lost:
            octets = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._transport.write(octets)
        self._out.clear()
        self._out_octets = 0

    async def _drain(self) -> None:
        """Send if it is much, and wait until the client has read most of what was sent. Raises ConnectionError."""
        if self._out_octets < FLUSH_OCTETS and not self._writable:
            return
        self._flush()
        if self._writable:
            await self._writable
        if self._lost:
            raise ConnectionResetError

    def _close(self) -> None:
        """Send what was said, and end the connection."""
        if self._closing_s < 0 and not self._lost:
            self._flush()
            self._closing_s = self._clock.monotonic()
            if self._transport:
                with contextlib.suppress(OSError):
                    self._transport.close()

    def abort(self) -> None:
        """End now."""
        if self._transport:
            self._transport.abort()

    def _is_stuck(self, now_s: float, stall_s: float) -> bool:
        """Has the client read nothing of what waits for it for so long? Or not gone, after we ended?"""
        if self._closing_s >= 0 and now_s - self._closing_s > stall_s:
            return True
        if self._stalled_s < 0:
            return False
        left = self._transport.get_write_buffer_size() if self._transport else 0
        if left != self._backlog:  # it reads, if slowly
            self._backlog, self._stalled_s = left, now_s
        return now_s - self._stalled_s > stall_s
