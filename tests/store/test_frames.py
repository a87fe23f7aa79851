"""Large contents in frames: any range of any content, and any damage is seen. Cases 9, 27."""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.model.errors import DamagedMessage
from pillarbox.store.blobs.frames import FrameWriter, check, read_range

PIECES = st.lists(st.binary(max_size=300) | st.integers(1, 3000).map(lambda n: b"line\r\n" * n), max_size=6)


def written(path: Path, pieces: list[bytes]) -> bytes:
    with path.open("wb") as file:
        writer = FrameWriter(file)
        for piece in pieces:
            writer.write(piece)
        writer.finish()
    return b"".join(pieces)


@settings(max_examples=60, deadline=None)
@given(pieces=PIECES, offset=st.integers(0, 20_000), length=st.integers(0, 20_000))
def test_a_range_is_a_piece_of_the_whole(pieces: list[bytes], offset: int, length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content"
        octets = written(path, pieces)
        check(path, hashlib.sha256(octets).digest())
        assert read_range(path, 0, 1 << 62) == octets
        assert read_range(path, offset, length) == octets[offset : offset + length]
        with pytest.raises(DamagedMessage):  # whole, but another one
            check(path, hashlib.sha256(octets + b"x").digest())


@settings(max_examples=150, deadline=None)
@given(pieces=PIECES.filter(any), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_octet_is_damage_and_nothing_worse(pieces: list[bytes], place: float, flip: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content"
        octets = written(path, pieces)
        stored = bytearray(path.read_bytes())
        stored[int(place * len(stored))] ^= flip
        path.write_bytes(stored)
        try:
            check(path, hashlib.sha256(octets).digest())  # a bit of the table that nothing depends on may change
        except DamagedMessage:
            return
        assert read_range(path, 0, 1 << 62) == octets


def test_a_frame_that_claims_to_be_huge_takes_no_memory(tmp_path: Path) -> None:
    """RFC 8878 §3.1.1.1: with two bits flipped the frame's one octet of size becomes eight."""
    path = tmp_path / "content"
    written(path, [b"x" * 200])
    octets = bytearray(path.read_bytes())
    octets[4] |= 0xC0
    path.write_bytes(octets)
    with pytest.raises(DamagedMessage):
        read_range(path, 0, 10)


@settings(max_examples=150, deadline=None)
@given(octets=st.binary(max_size=200), cut=st.integers(1, 60))
def test_any_file_is_a_content_or_damaged(octets: bytes, cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "content"
        path.write_bytes(octets)
        with pytest.raises(DamagedMessage):
            check(path, bytes(32))
        written(path, [b"x" * 500])
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(DamagedMessage):
            read_range(path, 0, 500)


def test_no_content_is_a_table_only() -> None:
    file = io.BytesIO()
    file.fileno = lambda: 0  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        FrameWriter(file).finish()
    assert len(file.getvalue()) == 8 + 9
