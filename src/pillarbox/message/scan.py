"""One linear pass over a message: its header fields and its MIME tree, all by offsets. Source: RFC 5322, RFC 2046 §5.1.

Nothing is decoded or copied, nothing recurses, nothing raises. How boundaries are read (one reading, everywhere):
a line belongs to the open multipart whose boundary it gives exactly (white space may follow); else to the innermost
open multipart, if it begins with its boundary (RFC 2046 §5.1.1; flagged as ambiguous).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from pillarbox.message import transfer
from pillarbox.message.defects import Defect
from pillarbox.message.headers import ONCE, Header, parse_fields
from pillarbox.message.limits import DEFAULT, Limits
from pillarbox.message.parameters import ParameterField, parse_parameters


class Kind(IntEnum):
    """What a part holds, as far as the tree is concerned."""

    LEAF = 0
    MULTIPART = 1
    MESSAGE = 2
    """message/rfc822: its only child is the enclosed message."""


@dataclass(slots=True)
class Part:
    """One entity: a message or a body part. Offsets count from the start of the message; ends are exclusive."""

    parent: int
    """Index in `Message.parts`, -1 for the message itself."""
    depth: int
    header_start: int
    body_start: int
    """After the empty line."""
    header: Header
    content_type: ParameterField
    """Effective: defaults filled in, mistakes replaced by text/plain."""
    kind: Kind
    body_end: int = 0
    lines: int = 0
    """LFs in the body."""
    children: int = 0

    @property
    def values(self) -> dict[bytes, bytes]:
        """First value of each field name, unfolded."""
        return self.header.values

    @property
    def encoding(self) -> bytes:
        """The transfer encoding in lower case, "7bit" if none is given. Source: RFC 2045 §6.1."""
        value = self.header.values.get(b"content-transfer-encoding")
        if not value:
            return b"7bit"
        value = value.lower()
        if value in transfer.KNOWN:
            return value
        words = parse_parameters(value).value.split()
        return words[0] if words else b"7bit"


@dataclass(slots=True)
class Message:
    """A scanned message. `parts` is in order of appearance; parts[0] is the message itself."""

    octets: bytes
    parts: list[Part]
    defects: set[Defect] = field(default_factory=set)

    @property
    def root(self) -> Part:
        """The message as an entity."""
        return self.parts[0]

    def value(self, name: bytes) -> bytes | None:
        """The first value of a field of the message's own header (lower-case name), unfolded; None if it is missing."""
        return self.parts[0].values.get(name)

    def header_octets(self) -> bytes:
        """The message's own header with its empty line, as received."""
        return self.octets[: self.parts[0].body_start]

    def section_number(self, index: int) -> str:
        """The part's IMAP section ("2.1"); empty for the message itself. Source: RFC 3501 §6.4.5."""
        numbers: list[str] = []
        enclosing = index > 0 and self.parts[0].kind is Kind.MESSAGE
        while index > 0:
            part = self.parts[index]
            parent = self.parts[part.parent]
            if parent.kind is Kind.MESSAGE:
                # An enclosed message has no number of its own; what is not a multipart is its part 1.
                if part.kind is not Kind.MULTIPART:
                    numbers.append("1")
            else:
                position = sum(p.parent == part.parent for p in self.parts[part.parent + 1 : index + 1])
                numbers.append(str(position))
            index = part.parent
        if enclosing:
            numbers.append("1")  # a message that is no multipart is its own part 1
        return ".".join(reversed(numbers))


TEXT_PLAIN: Final = ParameterField(b"text/plain", ((b"charset", b"us-ascii"),))
RFC822: Final = ParameterField(b"message/rfc822", ())
OPAQUE: Final = ParameterField(b"application/octet-stream", ())
_FALSE_LINES: Final = 1000
"""So many false boundary lines in a row are looked at one by one."""
MOST_FALSE_LINES: Final = 1_000_000
"""So many in a message."""
_TYPE: Final = re.compile(rb"[!#$%&'*+.^_`|{}~0-9a-z-]+/[!#$%&'*+.^_`|{}~0-9a-z-]+")


def scan(octets: bytes, limits: Limits = DEFAULT) -> Message:
    """Find the fields and parts of `octets`. Time grows with their length, whatever they hold; never raises."""
    message = Message(octets, [])
    _Scanner(message, limits).run()
    return message


class _Scanner:
    """The state of one pass."""

    __slots__ = (
        "blank",
        "blank_crlf",
        "boundaries",
        "counted_to",
        "false_lines",
        "known",
        "limits",
        "lines",
        "message",
        "octets",
        "open",
        "size",
    )

    def __init__(self, message: Message, limits: Limits) -> None:
        self.message = message
        self.limits = limits
        self.octets = message.octets
        self.size = len(message.octets)
        self.open: list[int] = []  # indexes, from the message down to the part that is being read
        self.boundaries: list[tuple[bytes, int]] = []  # of open multiparts: boundary, position in self.open
        self.known: dict[bytes, int] = {}  # boundary → position in self.boundaries, the innermost one's
        self.blank = -1  # the LF before the first empty line found so far; the size if there is no more
        self.blank_crlf = -1  # the same for empty lines that CRLF ends
        self.counted_to = 0
        self.lines = 0
        self.false_lines = 0  # begin like boundary lines, but are none

    def run(self) -> None:
        position = self.begin(0, 0, TEXT_PLAIN)
        if b"from" not in self.message.parts[0].values:
            self.message.defects.add(Defect.NO_FROM)
        while self.boundaries:
            found = self.next_boundary(position, self.size)
            if found is None:
                self.message.defects.add(Defect.UNCLOSED_MULTIPART)
                break
            dashes, line_end, level, closes = found
            if not closes and len(self.message.parts) >= self.limits.parts:
                self.message.defects.add(Defect.TOO_MANY_PARTS)
                break
            self.close_to(level, dashes, closes)
            if closes:
                position = line_end
            else:
                position = self.begin(line_end + 1, line_end, self.default_type())
        self.finish(0, self.size)

    def default_type(self) -> ParameterField:
        """What a part of the multipart being read is without a Content-Type. Source: RFC 2046 §5.1.5 (digest)."""
        innermost = self.message.parts[self.open[-1]]
        return RFC822 if innermost.content_type.value == b"multipart/digest" else TEXT_PLAIN

    def begin(self, start: int, search_from: int, default: ParameterField) -> int:
        """Read the header of the entity at `start`, and of the message in it; return where to look for boundaries.

        `search_from` is the LF before `start` (0 at the top): it may be part of an empty line or boundary line.
        """
        parts = self.message.parts
        while True:
            part = self.read_header(min(start, self.size), search_from, default)
            if part.parent >= 0:
                parts[part.parent].children += 1
            else:
                self.counted_to = part.body_start
            part.lines = self.lines_before(part.body_start)
            self.open.append(len(parts))
            parts.append(part)
            if part.kind is Kind.MULTIPART:
                self.open_boundary(part)
            search_from = max(part.body_start - 1, search_from)
            if part.kind is not Kind.MESSAGE:
                return search_from
            if len(parts) >= self.limits.parts:
                self.message.defects.add(Defect.TOO_MANY_PARTS)
                part.kind, part.content_type = Kind.LEAF, OPAQUE
                return search_from
            start, default = part.body_start, TEXT_PLAIN

    def read_header(self, start: int, search_from: int, default: ParameterField) -> Part:
        """The entity whose header begins at `start`; a boundary line may end it before its empty line."""
        defects = self.message.defects
        fields_end, body_start = self.header_extent(start, search_from)
        if fields_end == body_start and start < fields_end:
            defects.add(Defect.NO_HEADER_END)
        if self.boundaries:
            cut = self.next_boundary(search_from, fields_end)
            if cut is not None:
                fields_end = body_start = max(self.before_line_break(cut[0]), start)
        header = parse_fields(self.octets, start, fields_end, defects, self.limits)
        values = header.values
        if len(values) != len(header.names):
            note_duplicates(header.names, defects, whole=not self.open)
        given = values.get(b"content-type")
        content_type = default if given is None else self.content_type(given)
        kind = Kind.LEAF
        if content_type.value.startswith(b"multipart/") or content_type.value == b"message/rfc822":
            kind, content_type = self.container(content_type, values)
        parent = self.open[-1] if self.open else -1
        part = Part(parent, len(self.open), start, body_start, header, content_type, kind)
        if b"content-transfer-encoding" in values and part.encoding not in transfer.KNOWN:
            defects.add(Defect.UNKNOWN_ENCODING)
        return part

    def header_extent(self, start: int, search_from: int) -> tuple[int, int]:
        """Where the fields of the header at `start` end, and where the body begins after the empty line."""
        octets, size = self.octets, self.size
        if start == 0:
            if octets[:2] == b"\r\n":
                return 0, 2
            if octets[:1] == b"\n":
                return 0, 1
        if self.blank < search_from:
            # What was found from an earlier start is also the first one from here: all searches together are one pass.
            if self.blank_crlf < search_from:
                found = octets.find(b"\n\r\n", search_from)
                self.blank_crlf = found if found >= 0 else size
            found = octets.find(b"\n\n", search_from, self.blank_crlf + 1)
            self.blank = found if found >= 0 else self.blank_crlf
        if self.blank >= size:
            return size, size
        end = self.blank + 1
        return max(end, start), end + (2 if octets[end] == 13 else 1)

    def next_boundary(self, start: int, end: int) -> tuple[int, int, int, bool] | None:
        """The first boundary line between `start` and `end`: the LF before it, where it ends, which of
        self.boundaries it gives, whether it closes. None if there is none.

        Lines that only begin with dashes are few in mail; where they are many they are searched for by one expression
        (50 MB of "--" took 20 s), and when even that finds too many false ones the rest is opaque.
        """
        octets, strange = self.octets, 0
        while self.false_lines < MOST_FALSE_LINES:
            if strange < _FALSE_LINES:
                dashes = octets.find(b"\n--", start, end)
            else:
                if strange == _FALSE_LINES:
                    known = re.compile(b"\n--(?:" + b"|".join(map(re.escape, self.known)) + b")")
                match = known.search(octets, start, end)
                dashes = match.start() if match else -1
            if dashes < 0:
                return None
            line_end = self.line_end(dashes + 3)
            found = self.boundary_of(dashes + 3, line_end)
            if found is not None:
                return (dashes, line_end, *found)
            start = line_end
            strange += 1
            self.false_lines += 1
        self.message.defects.add(Defect.TOO_MANY_PARTS)
        return None

    def before_line_break(self, line_feed: int) -> int:
        """Where the line ends that this LF, or CRLF, breaks: the break belongs to the boundary line after it."""
        return line_feed - 1 if self.octets[line_feed - 1 : line_feed] == b"\r" else line_feed

    def line_end(self, start: int) -> int:
        """Where the line's LF is, or the end of the message."""
        found = self.octets.find(b"\n", start)
        return found if found >= 0 else self.size

    def content_type(self, value: bytes) -> ParameterField:
        """The type that a Content-Type field gives: text/plain if it is none. Source: RFC 2045 §5.2."""
        content_type = parse_parameters(value)
        if content_type.defects:
            self.message.defects |= content_type.defects
        if _TYPE.fullmatch(content_type.value):
            return content_type
        self.message.defects.add(Defect.BAD_CONTENT_TYPE)
        return TEXT_PLAIN

    def container(self, content_type: ParameterField, values: dict[bytes, bytes]) -> tuple[Kind, ParameterField]:
        """Whether a multipart or message is opened, or stays opaque."""
        defects = self.message.defects
        encoding = values.get(b"content-transfer-encoding", b"7bit").lower()
        if encoding in (b"base64", b"quoted-printable"):
            defects.add(Defect.ENCODED_CONTAINER)
        if len(self.open) >= self.limits.depth:
            defects.add(Defect.TOO_DEEP)
            return Kind.LEAF, OPAQUE
        if content_type.value == b"message/rfc822":
            return Kind.MESSAGE, content_type
        boundary = content_type.get(b"boundary")
        if not boundary or not boundary.strip(b" \t\r\n"):
            defects.add(Defect.NO_BOUNDARY)
            return Kind.LEAF, TEXT_PLAIN
        return Kind.MULTIPART, content_type

    def open_boundary(self, part: Part) -> None:
        """Make the part's boundary the innermost."""
        boundary = (part.content_type.get(b"boundary") or b"").rstrip(b" \t\r")
        if boundary in self.known or len(boundary) > 70:
            self.message.defects.add(Defect.AMBIGUOUS_BOUNDARY)
        self.known[boundary] = len(self.boundaries)
        self.boundaries.append((boundary, len(self.open) - 1))

    def boundary_of(self, start: int, end: int) -> tuple[int, bool] | None:
        """Which open boundary (position in self.boundaries) the line after "--" gives, and whether it closes."""
        text = self.octets[start : min(end, start + 2048)].rstrip(b" \t\r")
        level = self.known.get(text)
        if level is not None:
            return level, False
        if text.endswith(b"--"):
            level = self.known.get(text[:-2])
            if level is not None:
                return level, True
        innermost = self.boundaries[-1][0]
        if not text.startswith(innermost):
            return None
        self.message.defects.add(Defect.AMBIGUOUS_BOUNDARY)
        return len(self.boundaries) - 1, text.startswith(b"--", len(innermost))

    def close_to(self, level: int, line_feed: int, closes: bool) -> None:
        """End what is open inside the multipart at `level` at the line break before a boundary line."""
        self.finish(self.boundaries[level][1] + 1, self.before_line_break(line_feed))
        if len(self.boundaries) > level + 1:
            self.message.defects.add(Defect.UNCLOSED_MULTIPART)
        keep = level if closes else level + 1
        if len(self.boundaries) > keep:
            del self.boundaries[keep:]
            self.known = {boundary: i for i, (boundary, _) in enumerate(self.boundaries)}

    def finish(self, keep: int, end: int) -> None:
        """End all open parts but the first `keep` at `end`."""
        if len(self.open) <= keep:
            return
        parts = self.message.parts
        # An empty line may end the last header and be the line break before the boundary as well.
        end = max(end, parts[self.open[-1]].body_start)
        for index in self.open[keep:]:
            part = parts[index]
            part.body_end = end
            part.lines = self.lines_before(part.body_end) - part.lines
            if part.kind is Kind.MULTIPART and not part.children:
                self.message.defects.add(Defect.EMPTY_MULTIPART)
        del self.open[keep:]

    def lines_before(self, position: int) -> int:
        """LFs from the start of the message's body to `position`; asked in ascending order, so each is counted once."""
        if position > self.counted_to:
            self.lines += self.octets.count(b"\n", self.counted_to, position)
            self.counted_to = position
        return self.lines


def note_duplicates(names: list[bytes], defects: set[Defect], whole: bool) -> None:
    """Flag fields that stand twice and may not (case 134); `whole`: it is the header of the message itself."""
    seen: set[bytes] = set()
    for name in names:
        if name not in seen:
            seen.add(name)
        elif name == b"content-type":
            defects.add(Defect.DUPLICATE_CONTENT_TYPE)
        elif name == b"content-transfer-encoding":
            defects.add(Defect.DUPLICATE_ENCODING)
        elif name == b"from" and whole:
            defects.add(Defect.DUPLICATE_FROM)
        elif name in ONCE and whole:
            defects.add(Defect.DUPLICATE_FIELD)
