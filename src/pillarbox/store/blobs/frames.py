"""A large content on disk: zstd frames of 1 MiB in the seekable format, each with its checksum.

`zstd -d` reads such a file. The last frame is a skippable one with the table of sizes. A partial read decompresses the
frames it needs, and their checksums are checked; a full read checks the SHA-256 as well.
Source: zstd's contrib/seekable_format; RFC 8878 §3.1.2 (skippable frames).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import zstandard

from pillarbox.model.errors import DamagedMessage, Trouble
from pillarbox.model.mailbox import Content

FRAME_OCTETS: Final = 1 << 20
_LEVEL: Final = 1
_SKIPPABLE: Final = 0x184D2A5E
_SEEKABLE: Final = 0x8F92EAB1
_HEAD: Final = struct.Struct("<II")
_ENTRY: Final = struct.Struct("<II")
_FOOT: Final = struct.Struct("<IBI")


class FrameWriter:
    """Compresses into an open file. `write` takes pieces of FRAME_OCTETS, the last may be shorter. Used in a thread."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True)
        self._sizes: list[tuple[int, int]] = []

    def write(self, piece: bytes) -> None:
        """Append one frame."""
        frame = self._compressor.compress(piece)
        self._file.write(frame)
        self._sizes.append((len(frame), len(piece)))

    def finish(self) -> None:
        """Append the table, and bring all to disk."""
        entries = b"".join(_ENTRY.pack(packed, plain) for packed, plain in self._sizes)
        table = entries + _FOOT.pack(len(self._sizes), 0, _SEEKABLE)
        self._file.write(_HEAD.pack(_SKIPPABLE, len(table)) + table)
        self._file.flush()
        os.fsync(self._file.fileno())


def read_range(path: Path, offset: int, length: int) -> bytes:
    """Octets [offset, offset + length) of the content, clipped to its size. Raises DamagedMessage."""
    with _opened(path) as file:
        return b"".join(_pieces(file, path, offset, length))


def read_whole(folder: Path, content: Content) -> bytes:
    """All of a content, its hash checked. Raises DamagedMessage."""
    path = folder / content.sha256.hex()
    octets = read_range(path, 0, 1 << 62)
    if hashlib.sha256(octets).digest() != content.sha256:
        raise DamagedMessage(f"{path}: the hash of its octets is another")
    return octets


def check(path: Path, sha256: bytes) -> None:
    """Read all of it, frame by frame, and compare the hash. Raises DamagedMessage."""
    digest = hashlib.sha256()
    with _opened(path) as file:
        for piece in _pieces(file, path, 0, 1 << 62):
            digest.update(piece)
    if digest.digest() != sha256:
        raise DamagedMessage(f"{path}: the hash of its octets is another")


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise DamagedMessage(f"{path}: missing") from error
    except OSError as error:
        raise Trouble(f"{path}: {error}") from error


def _pieces(file: BinaryIO, path: Path, offset: int, length: int) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor()
    end, at, start = offset + length, 0, 0
    try:
        for packed, plain in _table(file):
            if at + plain > offset and at < end:
                file.seek(start)
                frame = file.read(packed)
                # So much memory is taken for it, whatever the table says: a flipped bit may make it exabytes.
                if (claimed := zstandard.frame_content_size(frame)) != plain:
                    raise DamagedMessage(f"{path}: a frame has {claimed} octets, not {plain}")
                piece = decompressor.decompress(frame)
                low, high = max(0, offset - at), min(plain, end - at)
                yield piece if low == 0 and high == plain else piece[low:high]
            at, start = at + plain, start + packed
            if at >= end:
                return
    except (zstandard.ZstdError, struct.error, ValueError, OSError) as error:
        raise DamagedMessage(f"{path}: {error}") from error


def _table(file: BinaryIO) -> list[tuple[int, int]]:
    """(packed, plain) sizes of the frames. Raises ValueError, struct.error, OSError."""
    size = file.seek(0, os.SEEK_END)
    if size < _HEAD.size + _FOOT.size:
        raise ValueError("too short")
    file.seek(size - _FOOT.size)
    count, _, magic = _FOOT.unpack(file.read(_FOOT.size))
    table_octets = count * _ENTRY.size + _FOOT.size
    start = size - table_octets - _HEAD.size
    if magic != _SEEKABLE or start < 0:
        raise ValueError("no table of frames")
    file.seek(start)
    if _HEAD.unpack(file.read(_HEAD.size)) != (_SKIPPABLE, table_octets):
        raise ValueError("the table of frames is garbled")
    entries = [(packed, plain) for packed, plain in _ENTRY.iter_unpack(file.read(count * _ENTRY.size))]
    if sum(packed for packed, _ in entries) != start or any(plain > FRAME_OCTETS for _, plain in entries):
        raise ValueError("the table of frames is garbled")
    return entries


def link_into(folder: Path, pool: Path, sha256: bytes) -> None:
    """Make an account's own link to a content in the pool. The caller fsyncs the folder before it commits the row.

    Raises Trouble if neither has it; OSError from the system.
    """
    name = sha256.hex()
    target = folder / name
    try:
        os.link(pool / name[:2] / name, target)
    except FileExistsError:
        return
    except FileNotFoundError as error:
        if target.exists():
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            os.link(pool / name[:2] / name, target)
        except FileNotFoundError:
            raise Trouble(f"content {name} is not in the pool") from error
