"""The octets of a message on their way through DATA or BDAT: transparency removed or added, and what is wrong told.

Only CRLF.CRLF ends DATA, whatever else the text holds, so that no second reading of it exists through which mail
could be smuggled. Everything is searched for by C-level methods; there is no loop over lines.
Source: RFC 5321 §4.1.1.4, §4.5.2 (transparency), §2.3.8 (bare CR and LF), RFC 3030 §2 (BDAT). Cases 41–50, 64, 65, 67.
"""

from __future__ import annotations

import re
from enum import Flag, auto
from typing import Final

END: Final = b"\r\n.\r\n"
_ANY_BREAK: Final = re.compile(rb"\r\n|\r|\n")
_HELD: Final = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")


class Defect(Flag):
    """What is wrong with the octets of a message."""

    NONE = 0
    BARE_LF = auto()
    BARE_CR = auto()
    NUL = auto()
    LONG_LINE = auto()
    TOO_BIG = auto()


class ContentReader:
    """Takes content apart from what surrounds it. `size` counts octets after removal of transparency."""

    __slots__ = (
        "_after_cr",
        "_is_binary",
        "_is_first",
        "_line_limit",
        "_line_octets",
        "_size_limit",
        "defects",
        "size",
    )

    def __init__(self, size_limit: int, line_limit: int, is_binary: bool = False) -> None:
        self._size_limit = size_limit
        self._line_limit = line_limit
        self._is_binary = is_binary
        self._is_first = True
        self._after_cr = False  # a CR at the end of a BDAT piece waits for what follows
        self._line_octets = 0  # of the line that the last piece ended in
        self.size = 0
        self.defects = Defect.NONE

    def take_data(self, buffer: bytearray) -> tuple[bytes, bool]:
        """Take what can be taken from the front of `buffer`: (content, is this the end?).

        What might be the start of the end marker stays in the buffer (4 octets at most, 5 at the very beginning).
        """
        if self._is_first:
            if buffer.startswith(b"."):  # the line break before it is that of the command
                if buffer.startswith(b".\r\n"):
                    del buffer[:3]
                    return b"", True
                if len(buffer) < 3 and b".\r\n".startswith(buffer):
                    return b"", False
                del buffer[:1]
            elif not buffer:
                return b"", False
            self._is_first = False
        at = buffer.find(END)
        if at >= 0:
            piece = bytes(buffer[: at + 2])
            del buffer[: at + 5]
        else:
            held = next((len(tail) for tail in _HELD if buffer.endswith(tail)), 0)
            if held:
                piece = bytes(buffer[:-held])
                del buffer[:-held]
            else:
                piece = bytes(buffer)
                buffer.clear()
            if not piece:
                return b"", False
        if b"\r\n." in piece:
            piece = piece.replace(b"\r\n.", b"\r\n")
        return self._examine(piece), at >= 0

    def take_chunk(self, buffer: bytearray, octets: int, is_end: bool) -> bytes:
        """Take `octets` from the front of `buffer` as part of a BDAT chunk; `is_end` if the message ends with them.

        A CR at the end of a piece is kept for the next one, so that it is not mistaken for a bare one.
        """
        piece = bytes(buffer[:octets])
        del buffer[:octets]
        if self._is_binary:
            return self._count(piece)
        if self._after_cr:
            piece = b"\r" + piece
            self._after_cr = False
        if not is_end and piece.endswith(b"\r"):
            piece = piece[:-1]
            self._after_cr = True
        return self._examine(piece)

    def _examine(self, piece: bytes) -> bytes:
        """Note what is wrong with a piece that does not cut a CRLF in two."""
        rest = b"".join(piece.split(b"\r\n"))  # a quarter faster than to count three times
        if b"\n" in rest:
            self.defects |= Defect.BARE_LF
        if b"\r" in rest:
            self.defects |= Defect.BARE_CR
        if b"\0" in rest:
            self.defects |= Defect.NUL
        if self._line_octets + len(piece) <= self._line_limit:
            last = piece.rfind(b"\n")
            self._line_octets = len(piece) - 1 - last if last >= 0 else self._line_octets + len(piece)
        else:
            self._measure_lines(piece)
        return self._count(piece)

    def _measure_lines(self, piece: bytes) -> None:
        """Look for a line of more octets than the limit (CRLF not counted), in leaps of up to the limit."""
        reach = self._line_limit + 2
        start = -min(self._line_octets, reach - 1)
        while len(piece) - start >= reach:
            lf = piece.rfind(b"\n", max(start, 0), start + reach)
            if lf < 0:
                self.defects |= Defect.LONG_LINE
                lf = piece.find(b"\n", start + reach)
                if lf < 0:
                    break
            start = lf + 1
        last = piece.rfind(b"\n")
        self._line_octets = len(piece) - 1 - last if last >= 0 else self._line_octets + len(piece)

    def _count(self, piece: bytes) -> bytes:
        """Add to the size; beyond the limit nothing more is handed on."""
        self.size += len(piece)
        if self.size > self._size_limit:
            self.defects |= Defect.TOO_BIG
            return b""
        return piece


class ContentWriter:
    """Makes octets fit for the wire: CRLF only, and a dot doubled at the start of a line (not for BDAT)."""

    __slots__ = ("_after_cr", "_at_line_start", "_is_data")

    def __init__(self, is_data: bool) -> None:
        self._is_data = is_data
        self._at_line_start = True
        self._after_cr = False

    def write(self, octets: bytes) -> bytes:
        """Encode a piece; a CR at its end is kept until it is known what follows. Case 49."""
        if self._after_cr:
            octets = b"\r" + octets
            self._after_cr = False
        if octets.endswith(b"\r"):
            octets = octets[:-1]
            self._after_cr = True
        if not octets:
            return b""
        lf = octets.count(b"\n")
        if lf != octets.count(b"\r") or lf != octets.count(b"\r\n"):
            octets = _ANY_BREAK.sub(b"\r\n", octets)
        starts = self._at_line_start
        self._at_line_start = octets.endswith(b"\n")
        if not self._is_data:
            return octets
        octets = octets.replace(b"\r\n.", b"\r\n..")
        return b"." + octets if starts and octets.startswith(b".") else octets

    def finish(self) -> bytes:
        """What remains, a last line break if it is missing, and for DATA the end marker. RFC 5321 §4.1.1.4."""
        rest = b"" if self._at_line_start and not self._after_cr else b"\r\n"
        return rest + b".\r\n" if self._is_data else rest


class ChunkWriter:
    """The same in chunks of BDAT. A chunk is held back until the next one is known, as the last has to say so."""

    __slots__ = ("_chunk", "_writer")

    def __init__(self) -> None:
        self._writer = ContentWriter(is_data=False)
        self._chunk = b""

    def write(self, octets: bytes) -> bytes:
        """Encode a piece; returns the chunk before it, with its command, or nothing. Source: RFC 3030 §2."""
        chunk, self._chunk = self._chunk, self._writer.write(octets)
        return b"BDAT %d\r\n" % len(chunk) + chunk if chunk else b""

    def finish(self) -> bytes:
        """The last chunk."""
        rest, self._chunk = self._chunk + self._writer.finish(), b""
        return b"BDAT %d LAST\r\n" % len(rest) + rest
