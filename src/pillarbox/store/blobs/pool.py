"""The pool of large contents, and the writer that messages arrive through. docs/store.md, "Contents"."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from pillarbox.model.errors import DamagedMessage, PillarboxError, StoreFull, Trouble
from pillarbox.model.mailbox import Content
from pillarbox.store.api import INLINE_OCTETS
from pillarbox.store.blobs import frames

PENDING_OCTETS: Final = 4 * frames.FRAME_OCTETS
"""`drain` waits while more than this is in memory."""
AGE_S: Final = 3600.0
T = TypeVar("T")


def system_trouble(error: OSError, what: str) -> Trouble:
    """StoreFull where the disk or its inodes are full, else Trouble."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return (StoreFull if full else Trouble)(f"{what}: {type(error).__name__}: {error}")


class Pool:
    """`blobs/ab/<sha256>` of a home. Files are made in `tmp/`."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "blobs"
        self.tmp = home / "tmp"
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="blobs")

    def close(self) -> None:
        """Wait for what is being written."""
        self._threads.shutdown(wait=True)

    def path(self, sha256: bytes) -> Path:
        """Where the content is or would be."""
        name = sha256.hex()
        return self.folder / name[:2] / name

    def writer(self) -> Writer:
        """A new content."""
        return Writer(self)

    async def read(self, content: Content, offset: int = 0, length: int | None = None) -> bytes:
        """Octets of a content. Raises DamagedMessage."""
        whole = offset == 0 and (length is None or length >= content.size)
        if content.data is not None:
            if whole and hashlib.sha256(content.data).digest() != content.sha256:
                raise DamagedMessage(f"content {content.sha256.hex()}: the hash of its octets is another")
            return content.data[offset:] if length is None else content.data[offset : offset + length]
        path = self.path(content.sha256)
        if whole:
            return await self.run(lambda: frames.read_whole(path.parent, content))
        return await self.run(lambda: frames.read_range(path, offset, content.size if length is None else length))

    async def chunks(self, content: Content, size: int = 1 << 18) -> AsyncIterator[bytes]:
        """All of it in order; the hash is checked along, and a wrong one raises before the last piece is given."""
        digest = hashlib.sha256()
        for at in range(0, content.size, size):
            piece = await self.read(content, at, size)
            digest.update(piece)
            if at + size >= content.size and digest.digest() != content.sha256:
                raise DamagedMessage(f"content {content.sha256.hex()}: the hash of its octets is another")
            yield piece

    async def run(self, work: Callable[[], T]) -> T:
        """Do it in a thread; errors of the system become Trouble."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except PillarboxError:
            raise
        except OSError as error:
            raise system_trouble(error, "content") from error

    def collect(self, is_needed: Callable[[bytes], bool], limit: int = 2000) -> int:
        """Remove files of the pool that no account links, an hour old, and not needed by the spool; old leavings of
        `tmp/` as well. In a thread, within the spool's turn (`is_needed` asks the spool). Returns how many."""
        removed, before = 0, time.time() - AGE_S
        for entry in os.scandir(self.tmp):
            if entry.stat(follow_symlinks=False).st_mtime >= before:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
        for shelf in os.scandir(self.folder):
            for entry in os.scandir(shelf.path):
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink == 1 and status.st_mtime < before and not is_needed(bytes.fromhex(entry.name)):
                    os.unlink(entry.path)
                    removed += 1
                    if removed >= limit:
                        return removed
        return removed


_QUIET: Final = 2047
"""Up to so many octets a hash is updated without giving up Python's lock, which is dear to win back under load."""


def _hash(data: bytes) -> bytes:
    if len(data) > 8 * _QUIET:
        return hashlib.sha256(data).digest()
    digest = hashlib.sha256()
    for at in range(0, len(data), _QUIET):
        digest.update(data[at : at + _QUIET])
    return digest.digest()


class Writer:
    """Takes the octets of one message. Small ones stay in memory; the rest goes to a file as it comes, by a thread.

    Used from the loop only. After `finish` or `abort` it is of no more use.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._pieces: list[bytes] = []
        self._held = 0
        self.size = 0
        self._large: _LargeFile | None = None
        self._last: asyncio.Future[None] | None = None
        self._waiting = 0

    def write(self, octets: bytes) -> None:
        """Take more."""
        self._pieces.append(bytes(octets))
        self._held += len(octets)
        self.size += len(octets)
        if self._large is None and self.size > INLINE_OCTETS:
            self._large = _LargeFile(self._pool.tmp)
        if self._large is not None and self._held >= frames.FRAME_OCTETS:
            self._hand_over()

    def _hand_over(self, everything: bool = False) -> None:
        octets = b"".join(self._pieces)
        whole = len(octets) if everything else len(octets) // frames.FRAME_OCTETS * frames.FRAME_OCTETS
        for at in range(0, whole, frames.FRAME_OCTETS):
            self._queue(octets[at : min(at + frames.FRAME_OCTETS, whole)])
        self._pieces = [octets[whole:]] if whole < len(octets) else []
        self._held = len(octets) - whole

    def _queue(self, piece: bytes) -> None:
        large, before = self._large, self._last
        assert large is not None
        self._waiting += len(piece)

        async def add() -> None:
            if before is not None:
                await before
            await self._pool.run(lambda: large.write(piece))
            self._waiting -= len(piece)

        self._last = asyncio.ensure_future(add())

    async def drain(self) -> None:
        """Wait while too much is in memory. Raises Trouble, StoreFull when writing failed."""
        if self._waiting > PENDING_OCTETS and self._last is not None:
            await self._last

    async def finish(self) -> Content:
        """The content, on disk if it is large."""
        if self._large is None:
            data = b"".join(self._pieces)
            self._pieces = []
            return Content(_hash(data), len(data), data)
        large = self._large
        try:
            self._hand_over(everything=True)
            if self._last is not None:
                await self._last
            sha256 = await self._pool.run(lambda: large.publish(self._pool))
        except BaseException:
            self.abort()
            raise
        self._large = None
        return Content(sha256, self.size)

    def abort(self) -> None:
        """Forget it all."""
        self._pieces = []
        large, self._large = self._large, None
        if large is None:
            return
        if self._last is None or self._last.done():
            if self._last is not None and not self._last.cancelled():
                self._last.exception()  # told to whoever waited; here it is only marked as seen
            large.remove()
        else:
            self._last.add_done_callback(lambda done: _end(done, large))


def _end(done: asyncio.Future[None], large: _LargeFile) -> None:
    if not done.cancelled():
        done.exception()
    large.remove()


class _LargeFile:
    """A file in `tmp/` that is being written. Its verbs block; `write`s come one after the other."""

    def __init__(self, tmp: Path) -> None:
        self._path = tmp / f"content-{os.urandom(12).hex()}"
        self._file: BinaryIO | None = None
        self._frames: frames.FrameWriter | None = None
        self._digest = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        if self._frames is None:
            self._file = self._path.open("xb")
            self._frames = frames.FrameWriter(self._file)
        self._digest.update(piece)
        self._frames.write(piece)

    def publish(self, pool: Pool) -> bytes:
        """fsync, link into the pool, fsync the pool's directory. Returns the hash."""
        assert self._frames is not None and self._file is not None
        self._frames.finish()
        self._file.close()
        sha256 = self._digest.digest()
        target = pool.path(sha256)
        for _ in range(3):
            try:
                os.link(self._path, target)
                break
            except FileNotFoundError:
                make_directory(target.parent)
            except FileExistsError:
                if self._is_there(target, sha256):
                    break
        else:
            raise Trouble(f"{target} cannot be made")
        sync_directory(target.parent)
        os.unlink(self._path)
        return sha256

    def _is_there(self, target: Path, sha256: bytes) -> bool:
        try:
            os.utime(target)  # it is young again: the collector leaves it alone
            frames.check(target, sha256)
        except FileNotFoundError:
            return False
        except DamagedMessage:
            spare = self._path.with_suffix(".spare")
            os.link(self._path, spare)
            os.rename(spare, target)  # in place of a damaged one
        return True

    def remove(self) -> None:
        if self._file is not None:
            try:
                with contextlib.suppress(OSError):  # on a full disk closing writes once more, and fails once more
                    self._file.close()
            finally:
                self._path.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """With its parent brought to disk; nothing happens if it is there."""
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """fsync of a directory."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
