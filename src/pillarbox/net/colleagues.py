"""Links between the front processes of a home: who accepted a message hands its jobs to who delivers for the account.

A unix stream socket for each process, in `HOME/run/`; every process connects to every other. The listener first says
its number as a holder of leases (8 octets); then frames come: 4 octets of length, and a `Handed` in MessagePack. A job
is leased to its receiver in the commit that accepts it, so nothing is lost with a link: a receiver that died loses its
leases, a sender that finds no link frees the jobs, and who has lost a sender looks for jobs it never heard of.
Implements `mail.desk.Colleagues`. docs/decisions/accounts-by-worker.md
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, cast
from zlib import crc32

import msgspec
import structlog

from pillarbox.store.api import Handed

_log = structlog.get_logger("colleagues")

FRAME_OCTETS: Final = 16 << 20
"""The largest frame: ten thousand jobs and a content of 128 KiB are a quarter of it."""
WAITING_OCTETS: Final = 4 << 20
"""A colleague that is so far behind gets nothing more for the moment."""
RETRY_S: Final = 0.5
_MAX_UNIX_PATH: Final = 100

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Handed).decode


class Links:
    """The links of process `number` of `count`. Accounts are shared out by a hash of their ids."""

    def __init__(
        self,
        run: Path,
        number: int,
        count: int,
        take: Callable[[Handed], None],
        is_full: Callable[[], bool],
        room: Callable[[], Awaitable[None]],
        lost: Callable[[], None],
    ) -> None:
        """`take` is given what others hand over, `room` waits until it may have more while `is_full`, `lost` is told of
        the end of a link over which something may have been on its way."""
        self._run = run
        self._number = number
        self._count = count
        self.take = take
        self.is_full = is_full
        self.room = room
        self.lost = lost
        self._out: dict[int, _Sender] = {}
        self.receivers: set[_Receiver] = set()
        self._server: asyncio.AbstractServer | None = None
        self._folder_fd = -1
        self._keeper: asyncio.Task[None] | None = None

    async def start(self, holder: int) -> None:
        """Listen, and keep links to all others, on the running loop. Raises OSError."""
        self._folder_fd = os.open(self._run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        path = self._path(self._number)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Receiver(self, holder), path)
        self._keeper = loop.create_task(self._keep())

    def close(self) -> None:
        """End all links; what was handed to us and not read yet goes to the mover when this process ends."""
        self.lost = lambda: None
        if self._keeper is not None:
            self._keeper.cancel()
        if self._server is not None:
            self._server.close()
        for receiver in list(self.receivers):
            receiver.close()
        for sender in list(self._out.values()):
            sender.close()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def holder_for(self, account: str) -> int:
        """See mail.desk.Colleagues."""
        number = crc32(account.encode()) % self._count
        if number == self._number:
            return 0
        sender = self._out.get(number)
        return sender.holder if sender is not None and sender.has_room else 0

    def hand(self, holder: int, handed: Handed) -> bool:
        """See mail.desk.Colleagues."""
        for sender in self._out.values():
            if sender.holder == holder:
                return sender.send(_encode(handed))
        return False

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for number in range(self._count):
                if number == self._number or (number in self._out and not self._out[number].is_closed):
                    continue
                with contextlib.suppress(OSError):
                    _, sender = await loop.create_unix_connection(_Sender, self._path(number))
                    self._out[number] = sender
            await asyncio.sleep(RETRY_S)

    def _path(self, number: int) -> str:
        """As in `net/signals.py`: a deep home is reached through the descriptor of its folder."""
        short = len(os.fsencode(self._run)) + 20 < _MAX_UNIX_PATH
        folder = str(self._run) if short else f"/proc/self/fd/{self._folder_fd}"
        return f"{folder}/{number}.handover"


class _Sender(asyncio.Protocol):
    """Our end of a link to one colleague; `holder` is 0 until it has said its number."""

    def __init__(self) -> None:
        self.holder = 0
        self.is_closed = False
        self._said = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of this class

    def data_received(self, data: bytes) -> None:
        self._said += data[:8]
        if len(self._said) >= 8:
            self.holder = int.from_bytes(self._said[:8], "big")

    def connection_lost(self, exc: Exception | None) -> None:
        self.holder = 0
        self.is_closed = True
        self._transport = None

    def close(self) -> None:
        self.holder = 0
        self.is_closed = True
        if self._transport is not None:
            self._transport.close()

    @property
    def has_room(self) -> bool:
        return self._transport is not None and self._transport.get_write_buffer_size() < WAITING_OCTETS

    def send(self, frame: bytes) -> bool:
        if self._transport is None or self.is_closed or len(frame) > FRAME_OCTETS:
            return False
        self._transport.write(len(frame).to_bytes(4, "big") + frame)
        return True


class _Receiver(asyncio.Protocol):
    """A colleague's link to us."""

    def __init__(self, links: Links, holder: int) -> None:
        self._links = links
        self._holder = holder
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._links.receivers.add(self)
        self._transport.write(self._holder.to_bytes(8, "big"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._links.receivers.discard(self)
        self._links.lost()

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._waiting is None:
            self._read()

    def _read(self) -> None:
        """Take all whole frames; then read no more until there is room for what the next ones bring."""
        buffer, at = self._buffer, 0
        try:
            while len(buffer) - at >= 4:
                size = int.from_bytes(buffer[at : at + 4], "big")
                if size > FRAME_OCTETS:
                    raise ValueError(f"a frame of {size} octets")
                if len(buffer) - at - 4 < size:
                    break
                frame = bytes(buffer[at + 4 : at + 4 + size])
                at += 4 + size
                self._links.take(_decode(frame))
        except (ValueError, msgspec.MsgspecError) as error:  # it is our own program that speaks: a mistake of ours
            _log.error("broken handover", error=str(error))
            self.close()
            return
        finally:
            del buffer[:at]
        if self._links.is_full() and self._transport is not None:
            self._transport.pause_reading()
            self._waiting = asyncio.get_running_loop().create_task(self._go_on())

    async def _go_on(self) -> None:
        """Read on when there is room."""
        await self._links.room()
        self._waiting = None
        if self._transport is not None:
            self._transport.resume_reading()
            self._read()
