"""One IMAP session as the server sees it: octets in, events out. No store, no clock, no socket.

The core collects commands (lines and literals, within limits), reads them by the grammar, and keeps the rules of order;
the shell carries them out. It asks for the next event only when it has answered the last one, so a client that
pipelines never runs ahead. Source: RFC 3501 §2.2, §3, §4.3 (literals), §5.5; RFC 7888 (LITERAL+); RFC 2177 (IDLE).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from pillarbox.model.settings import Limits
from pillarbox.protocol.imap.commands import Append, Request
from pillarbox.protocol.imap.grammar import COMMANDS, NoGood, When
from pillarbox.protocol.imap.lexer import ATOM, LINE_END_LITERAL, TAG, Lexer, NeedLiteral, ParseError
from pillarbox.protocol.imap.responses import bye, tagged
from pillarbox.protocol.sasl import decode_base64

BAD_BEFORE_LOGIN: Final = 3
BAD_AFTER_LOGIN: Final = 20
SASL_LINE_OCTETS: Final = 12288
MAX_SKIPPED_LINE: Final = 1 << 20
"""A line that is too long may go on for so long before the connection is closed."""
SKIPPED_LITERAL: Final = 1024
"""What a literal counts for there, beside its line: thousands of empty ones are work as well (case 164)."""

_APPEND: Final = re.compile(rb"[^ ]{1,256} APPEND ", re.IGNORECASE)
GO_ON: Final = b"+ Go on.\r\n"


@dataclass(frozen=True, slots=True)
class Mistake:
    """The client was wrong: send `octets`; with `close` that was the last straw."""

    octets: bytes
    close: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Send this (a request to go on with a literal); no answer is due."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class AppendOctets:
    """A piece of the message of the APPEND that was last let go on."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class AppendEnd:
    """The message is whole. If the APPEND goes wrong after its literal, a Mistake comes instead."""


@dataclass(frozen=True, slots=True)
class SaslAnswer:
    """The client's answer to a challenge; None if it was not base64, or took back the exchange (`cancelled`)."""

    data: bytes | None
    cancelled: bool = False

    def __repr__(self) -> str:
        return "SaslAnswer(…)"


@dataclass(frozen=True, slots=True)
class IdleDone:
    """DONE; or, with `good` false, something else that ends IDLE as well."""

    good: bool


Event: TypeAlias = Request | Mistake | Send | AppendOctets | AppendEnd | SaslAnswer | IdleDone


class _Mode(Enum):
    COMMAND = auto()
    LITERAL = auto()
    SKIP_LITERAL = auto()
    """Octets of a literal whose command was refused already."""
    SKIP_COMMAND = auto()
    """The rest of such a command, whose literals do not wait."""
    SKIP_LINE = auto()
    APPEND_ASKED = auto()
    APPEND = auto()
    APPEND_TAIL = auto()
    SASL = auto()
    IDLE = auto()
    DEAF = auto()
    """In STARTTLS, or closed."""


class ImapServer:
    """The state of a session, and what it has read so far."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.state = When.FRESH
        self._buffer = bytearray()
        self._searched = 0
        self._mode = _Mode.COMMAND
        self._left = 0
        self._command = bytearray()
        self._line_octets = 0
        self._literals = 0
        self._literal_octets = 0
        self._too_long = 0
        self._skipped = 0
        self._bad = 0
        self._append: Append | None = None

    # --- what the shell says

    def receive(self, octets: bytes) -> None:
        if self._mode is not _Mode.DEAF:
            self._buffer += octets

    @property
    def buffered(self) -> int:
        """Octets that wait to be read: the shell stops reading from its peer when there are many."""
        return len(self._buffer)

    def logged_in(self) -> None:
        self.state = When.KNOWN
        self._bad = 0

    def selected(self, on: bool) -> None:
        self.state = When.SELECTED if on else When.KNOWN

    def append_go(self) -> bytes:
        """Take the message of the pending Append: returns what to send for that, maybe nothing."""
        append = self._append
        assert append is not None
        self._append, self._left, self._mode = None, append.size, _Mode.APPEND
        return GO_ON if append.waits else b""

    def append_refuse(self) -> bool:
        """The pending Append is refused before its message. True if the connection must be closed after the answer:
        the message is on its way and too large to be read and dropped (case 166)."""
        append = self._append
        assert append is not None
        self._append = None
        return self._drop_literal(append.size, append.waits)

    def challenge(self) -> None:
        """The client was sent a challenge: its next line is an answer."""
        self._mode = _Mode.SASL

    def idling(self) -> None:
        """The client was told to idle: its next line ends that."""
        self._mode = _Mode.IDLE

    def securing(self) -> bool:
        """STARTTLS was accepted. False if octets in the clear came after it: then nothing may go on (case 52)."""
        self._mode = _Mode.DEAF
        return not self._buffer

    def secured(self) -> None:
        """The handshake is over: begin again, all that came in the clear forgotten. Source: RFC 3501 §6.2.1."""
        self._buffer.clear()
        self._searched = 0
        self._reset()

    def close(self) -> None:
        """Nothing that comes matters any more."""
        self._buffer.clear()
        self._mode = _Mode.DEAF

    # --- what the client said

    def next_event(self) -> Event | None:
        """What comes next, or None when more octets are needed. Nothing a peer sends makes this raise."""
        while True:
            match self._mode:
                case _Mode.COMMAND:
                    line = self._take_line()
                    if line is None or isinstance(line, Mistake):
                        return line
                    event = self._take_command(line)
                    if event is not None:
                        return event
                case _Mode.LITERAL:
                    if not self._take_literal():
                        return None
                case _Mode.SKIP_LITERAL:
                    if not self._skip_octets():
                        return None
                case _Mode.SKIP_COMMAND | _Mode.SKIP_LINE:
                    if not self._skip_line():
                        return Mistake(bye(b"Too much."), close=True) if self._is_deaf() else None
                case _Mode.APPEND:
                    if self._left and not self._buffer:
                        return None
                    if self._left:
                        return self._append_octets()
                    self._mode = _Mode.APPEND_TAIL
                case _Mode.APPEND_TAIL | _Mode.SASL | _Mode.IDLE:
                    return self._special_line()
                case _:
                    return None

    # --- lines

    def _line_limit(self) -> int:
        if self._mode is _Mode.SASL:
            return SASL_LINE_OCTETS
        limits = self.limits
        return limits.imap_line_preauth_octets if self.state is When.FRESH else limits.imap_line_octets

    def _take_line(self) -> bytes | Mistake | None:
        """The next line without its end; None if it is not whole."""
        buffer = self._buffer
        end = buffer.find(b"\n", self._searched)
        length = len(buffer) if end < 0 else end
        if length + self._line_octets > self._line_limit():
            return self._line_too_long()
        if end < 0:
            self._searched = len(buffer)
            return None
        line = bytes(buffer[: end - 1 if end and buffer[end - 1] == 13 else end])
        del buffer[: end + 1]
        self._searched = 0
        return line

    def _line_too_long(self) -> Mistake:
        """Said once, then the connection is closed."""
        tag = self._tag(bytes(self._command[:300] or self._buffer[:300]))
        self._too_long += 1
        if self._too_long > 1:
            self.close()
            return Mistake(tagged(tag, b"BAD", b"Line too long.") + bye(b"Too many long lines."), close=True)
        self._reset()
        self._searched = self._skipped = 0
        self._mode = _Mode.SKIP_LINE
        return self._bad_command(tag, b"Line too long.")

    def _skip_line(self) -> bool:
        """Drop a line, and what belongs to it. False when more octets are needed."""
        buffer = self._buffer
        end = buffer.find(b"\n")
        if end < 0:
            self._skipped += max(0, len(buffer) - 64)
            del buffer[:-64]  # its end may be the mark of a literal
            if self._skipped > MAX_SKIPPED_LINE:
                self.close()
            return False
        line = bytes(buffer[max(0, end - 64) : end]).rstrip(b"\r")
        self._skipped += end
        del buffer[: end + 1]
        mark = LINE_END_LITERAL.search(line)
        if mark and mark[3]:
            self._skipped += SKIPPED_LITERAL
            if self._skipped > MAX_SKIPPED_LINE or self._drop_literal(int(mark[2]), waits=False):
                self.close()
                return False
            return True
        self._reset()
        return True

    # --- commands and their literals

    def _take_command(self, line: bytes) -> Event | None:
        """A line of a command: the command is whole, or a literal follows."""
        mark = LINE_END_LITERAL.search(line)
        self._command += line
        self._command += b"\r\n"
        if mark is None or mark[1]:
            octets = bytes(self._command)
            self._reset()
            return self._read_command(octets)
        self._line_octets += len(line)
        size, waits = int(mark[2]), not mark[3]
        if self.state is not When.FRESH and _APPEND.match(self._command):
            event = self._read_append(size, waits)
            if event is not None:
                return event
        return self._begin_literal(size, waits)

    def _begin_literal(self, size: int, waits: bool) -> Event | None:
        limits = self.limits
        self._literals += 1
        self._literal_octets += size
        fresh = self.state is When.FRESH
        most = limits.imap_line_preauth_octets if fresh else limits.imap_literal_octets
        if self._literals > limits.imap_literals:
            return self._refuse_literal(size, waits, b"BAD", b"", b"Too many literals.")
        if self._literal_octets > most:
            return self._refuse_literal(size, waits, b"NO", b"TOOBIG", b"Literals too large.")
        self._left, self._mode = size, _Mode.LITERAL
        return Send(GO_ON) if waits else None

    def _refuse_literal(self, size: int, waits: bool, condition: bytes, code: bytes, text: bytes) -> Mistake:
        tag = self._tag(bytes(self._command[:300]))
        self._skipped = 0
        close = self._drop_literal(size, waits)
        self._bad += 1
        if close:
            self.close()
            return Mistake(tagged(tag, condition, text, code) + bye(b"Too much to skip."), close=True)
        return self._mistake(tag, condition, text, code)

    def _drop_literal(self, size: int, waits: bool) -> bool:
        """The command with this literal was answered already. True if the connection must be closed."""
        self._reset()
        if waits:
            return False
        fresh = self.state is When.FRESH
        if size > (self.limits.imap_line_preauth_octets if fresh else self.limits.message_octets):
            return True
        self._left, self._mode = size, _Mode.SKIP_LITERAL
        return False

    def _take_literal(self) -> bool:
        taken = min(self._left, len(self._buffer))
        self._command += self._buffer[:taken]
        del self._buffer[:taken]
        self._left -= taken
        if self._left:
            return False
        self._mode = _Mode.COMMAND
        return True

    def _skip_octets(self) -> bool:
        taken = min(self._left, len(self._buffer))
        del self._buffer[:taken]
        self._left -= taken
        if self._left:
            return False
        self._mode = _Mode.SKIP_COMMAND
        return True

    def _read_command(self, octets: bytes) -> Event:
        """By the grammar, if it may be said now."""
        found = TAG.match(octets)
        if found is None or octets[found.end() : found.end() + 1] != b" ":
            return self._bad_command(b"*", b"Tag expected.")
        tag = found[0]
        lexer = Lexer(octets, self.limits.imap_depth)
        lexer.at = found.end() + 1
        try:
            name = lexer.match(ATOM, "command").upper()
            rule = COMMANDS.get(name)
            if rule is None:
                return self._bad_command(tag, b"Unknown command.")
            if not rule.when & self.state:
                return self._bad_command(tag, b"Not now.")
            command = rule.parse(lexer)
        except ParseError as error:
            return self._bad_command(tag, str(error).encode("ascii", "replace").capitalize() + b".")
        except NeedLiteral:
            return self._bad_command(tag, b"Literal expected.")
        except NoGood as error:
            return Mistake(tagged(tag, b"NO", str(error).encode("ascii", "replace"), error.code))
        self._bad = 0
        return Request(tag, command)

    def _read_append(self, size: int, waits: bool) -> Event | None:
        """APPEND as far as the literal that its last line announces; None if that is its mailbox's name."""
        octets = bytes(self._command)
        tag = self._tag(octets)
        lexer = Lexer(octets, self.limits.imap_depth)
        try:
            lexer.at = len(lexer.match(_APPEND, "tag")) - 1
            command = COMMANDS[b"APPEND"].parse(lexer)
        except NeedLiteral:
            return None
        except ParseError as error:
            text = str(error).encode("ascii", "replace").capitalize() + b"."
            return self._refuse_literal(size, waits, b"BAD", b"", text)
        except NoGood as error:
            return self._refuse_literal(size, waits, b"NO", error.code, str(error).encode("ascii", "replace"))
        assert isinstance(command, Append)
        self._reset()
        self._append, self._mode = command, _Mode.APPEND_ASKED
        self._bad = 0
        return Request(tag, command)

    def _append_octets(self) -> AppendOctets:
        taken = min(self._left, len(self._buffer))
        piece = bytes(self._buffer[:taken])
        del self._buffer[:taken]
        self._left -= taken
        return AppendOctets(piece)

    # --- lines that are no commands

    def _special_line(self) -> Event | None:
        mode = self._mode
        line = self._take_line()
        if line is None or isinstance(line, Mistake):
            return line
        self._mode = _Mode.COMMAND
        if mode is _Mode.IDLE:
            return IdleDone(line.strip().upper() == b"DONE")
        if mode is _Mode.SASL:
            return SaslAnswer(None, cancelled=True) if line == b"*" else SaslAnswer(decode_base64(line))
        if not line.strip():
            return AppendEnd()
        mark = LINE_END_LITERAL.search(line)
        if mark and self._drop_literal(int(mark[2]), waits=not mark[3]):
            self.close()
            return Mistake(b"", close=True)
        return Mistake(b"")

    # --- mistakes

    def _is_deaf(self) -> bool:
        return self._mode is _Mode.DEAF

    def _tag(self, octets: bytes) -> bytes:
        found = TAG.match(octets)
        return found[0] if found and octets[found.end() : found.end() + 1] == b" " else b"*"

    def _bad_command(self, tag: bytes, text: bytes) -> Mistake:
        self._bad += 1
        return self._mistake(tag, b"BAD", text)

    def _mistake(self, tag: bytes, condition: bytes, text: bytes, code: bytes = b"") -> Mistake:
        octets = tagged(tag, condition, text, code)
        if self._bad < (BAD_BEFORE_LOGIN if self.state is When.FRESH else BAD_AFTER_LOGIN):
            return Mistake(octets)
        self.close()
        return Mistake(octets + bye(b"Too many bad commands."), close=True)

    def _reset(self) -> None:
        """Ready for the next command."""
        self._mode = _Mode.COMMAND
        self._command = bytearray()
        self._line_octets = self._literals = self._literal_octets = self._left = 0
