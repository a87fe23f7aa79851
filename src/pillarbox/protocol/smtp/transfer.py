"""How the content of a message arrives: after DATA up to the dot, or in the chunks of BDAT.

A transfer takes octets from the front of the session's buffer and says what they come to. Transparency and what is
wrong with the octets is `content.py`; when content may come at all is `commands.py` and `progress.py`.
Source: RFC 5321 §4.1.1.4 (DATA), RFC 3030 §2 (BDAT), RFC 1870 §6.3 (size); cases 65, 66.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from pillarbox.model.settings import Limits
from pillarbox.model.status import Status
from pillarbox.protocol.smtp.content import ContentReader, Defect
from pillarbox.protocol.smtp.events import Answered, Content, ContentEnd
from pillarbox.protocol.smtp.replies import Reply
from pillarbox.protocol.smtp.rules import BARE, MALFORMED, NOT_WAITED, TOO_BIG

_CHUNK_SIZE: Final = re.compile(rb"([0-9]{1,19})(?: +(LAST))?", re.IGNORECASE)
_MAX_CHUNK: Final = (1 << 63) - 1
_NO_DEFECT: Final = Defect.NONE


class DataTransfer:
    """Content after DATA. Source: RFC 5321 §4.1.1.4."""

    __slots__ = ("_has_ended", "_limit", "_reader", "is_last", "is_single")

    def __init__(self, limits: Limits, is_binary: bool) -> None:
        self._reader = ContentReader(limits.message_octets, limits.content_line_octets, is_binary)
        self._limit = limits.message_octets
        self._has_ended = False  # the end was seen, ContentEnd is due
        self.is_last = False
        """The end of this content, if it is refused, is the end of the session."""
        self.is_single = False
        """With LMTP: the end gets one reply only."""

    def next_event(self, buffer: bytearray) -> Content | ContentEnd | None:
        """Take what can be taken; None when more octets are needed."""
        reader = self._reader
        if not self._has_ended:
            if not buffer:
                return None
            octets, self._has_ended = reader.take_data(buffer)
            if octets:
                return Content(octets)
            if reader.size > 2 * self._limit:  # case 65
                self.is_last = self._has_ended = True
            if not self._has_ended:
                return None
        return _content_end(reader)


class ChunkTransfer:
    """Content in the chunks of BDAT, one after the other; a chunk comes, whatever we think of it. RFC 3030 §2."""

    __slots__ = ("_is_end", "_left", "_limit", "_reader", "_refusal", "_size", "is_last", "is_single")

    def __init__(self, limits: Limits, is_binary: bool) -> None:
        self._reader = ContentReader(limits.message_octets, limits.content_line_octets, is_binary)
        self._limit = limits.message_octets
        self._size = self._left = 0
        self._is_end = False
        self._refusal: Reply | None = None
        self.is_last = self.is_single = False  # as with DATA

    def expect(self, size_octets: int, is_end: bool, refusal: Reply | None) -> Reply | None:
        """The next chunk is of this size, and to be refused or not. Returns why it will be refused, if it will."""
        self._size = self._left = size_octets
        self._is_end = is_end
        if refusal is None and self._reader.size + size_octets > self._limit:
            refusal = TOO_BIG
        self._refusal = refusal
        return refusal

    def refuse(self, reply: Reply) -> None:
        """The desk takes no content: the chunk comes all the same, and is answered after it."""
        self._refusal = reply

    def next_event(self, buffer: bytearray) -> Content | ContentEnd | Answered | None:
        """Take what can be taken; None when more octets are needed. Answered ends a chunk that is not the last."""
        left = self._left
        if left and not buffer:
            return None
        octets = min(left, len(buffer))
        self._left = left = left - octets
        if self._refusal is not None:
            del buffer[:octets]
            return self._refused(self._refusal) if not left else None
        is_whole = self._is_end and not left
        if (octets or is_whole) and (piece := self._reader.take_chunk(buffer, octets, is_whole)):
            return Content(piece)
        if left:
            return None
        if self._is_end:
            return _content_end(self._reader)
        return Answered(Reply(250, Status(2, 0, 0), f"{self._size} octets received"))

    def _refused(self, reply: Reply) -> ContentEnd | Answered:
        """The chunk was discarded, and with it goes the transaction."""
        if reply is NOT_WAITED:
            return Answered(reply)
        self.is_single = not self._is_end
        return ContentEnd(Defect.TOO_BIG if reply is TOO_BIG else Defect.NONE, self._size, reply)


Transfer: TypeAlias = DataTransfer | ChunkTransfer


def parse_chunk(argument: bytes) -> tuple[int, bool] | None:
    """`size [LAST]` after BDAT: (octets, is this the last?); None if it is not that."""
    said = _CHUNK_SIZE.fullmatch(argument)
    if said is None or (size := int(said[1])) > _MAX_CHUNK:
        return None
    return size, bool(said[2])


def _content_end(reader: ContentReader) -> ContentEnd:
    """The end of content, with the verdict on its octets."""
    defects = reader.defects
    refusal = None
    if defects is not _NO_DEFECT:
        if Defect.TOO_BIG in defects:
            refusal = TOO_BIG
        elif Defect.NUL in defects or Defect.LONG_LINE in defects:
            refusal = MALFORMED
        else:
            refusal = BARE
    return ContentEnd(defects, reader.size, refusal)
