"""Structured field values: address lists and Message-ID lists. Source: RFC 5322 §3.4, §3.6.4, §4.4; RFC 6532 §3.2.

Values are taken unfolded. One grammar for everyone who asks (cases 126, 127): what is not quite an address list is read
as far as it can be, with a defect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from pillarbox.message import encoded_word
from pillarbox.message.defects import Defect
from pillarbox.message.limits import DEFAULT


class Mailbox(NamedTuple):
    """One element of an address list, raw octets without quoting; or where a group begins or ends.

    A group is the mailboxes between its beginning (only `local`, the group's name) and its end (all None), as in the
    IMAP ENVELOPE (RFC 3501 §7.4.2).
    """

    name: bytes | None
    """Display name, or the comment after a bare address (RFC 822's way); encoded words not decoded."""
    route: bytes | None
    """Obsolete source route, "@a,@b"."""
    local: bytes | None
    domain: bytes | None
    """Empty where it is missing."""

    @property
    def is_group_mark(self) -> bool:
        """True for the beginning or end of a group."""
        return self.domain is None

    @property
    def display_name(self) -> str:
        """The display name decoded; empty if there is none."""
        return encoded_word.decode(self.name) if self.name else ""

    @property
    def addr_spec(self) -> str:
        """local@domain as text, the local part quoted where it must be; empty for a group mark."""
        if self.domain is None or self.local is None:
            return ""
        local = self.local
        if not _DOT_ATOM.fullmatch(local):
            local = b'"' + local.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        return (local + b"@" + self.domain).decode("utf-8", "replace")


GROUP_END: Final = Mailbox(None, None, None, None)


@dataclass(frozen=True, slots=True)
class AddressList:
    """A parsed address field: mailboxes and group marks in order."""

    entries: tuple[Mailbox, ...]
    defects: frozenset[Defect] = frozenset()

    @property
    def mailboxes(self) -> list[Mailbox]:
        """The mailboxes alone, groups dissolved."""
        return [entry for entry in self.entries if entry.domain is not None]


EMPTY: Final = AddressList(())
_DOT_ATOM: Final = re.compile(
    rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+)*"
)
# The two forms that nearly all mail has. Whatever differs goes the long way, all of it.
ANGLE: Final = re.compile(
    rb'(?: ?"([^"\\]*)" ?|([^"(),:;<>@\[\\\]\x00-\x1f\x7f]*))'
    rb"<([A-Za-z0-9!#$%&'*+/=?^_`{|}~.\x80-\xff-]+)@([A-Za-z0-9.\x80-\xff-]+)>(?: ?,|\Z)"
)
BARE: Final = re.compile(rb" ?([A-Za-z0-9!#$%&'*+/=?^_`{|}~.\x80-\xff-]+)@([A-Za-z0-9.\x80-\xff-]+)(?: ?,|\Z)")
_TOKEN: Final = re.compile(
    rb'([ \t\r\n]+)|([^ \t\r\n"(),:;<>@\[\\\].]+)|"([^"\\]*(?:\\.[^"\\]*)*)"?|(\[[^\]\\]*(?:\\.[^\]\\]*)*\]?)|(.)',
    re.DOTALL,
)
_SEPARATORS: Final = (b".", b"@", b",", b":")
_QUOTED_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)
_COMMENT_TEXT: Final = re.compile(rb"[^()\\]+")
_MESSAGE_ID: Final = re.compile(rb"<([^<>]*)>")
_SPACE: Final = re.compile(rb"[ \t\r\n]+")


def parse_addresses(value: bytes) -> AddressList:
    """Read the value of From, To, Reply-To …; never fails. At most 2,000 mailboxes are read."""
    entries: list[Mailbox] = []
    position, size = 0, len(value)
    while position < size:
        match = ANGLE.match(value, position)
        if match is not None:
            quoted, phrase, local, domain = match.groups()
            name = quoted if quoted is not None else phrase.strip(b" ")
            entries.append(Mailbox(name or None, None, local, domain))
        else:
            match = BARE.match(value, position)
            if match is None:
                return _Parser(value).run()
            entries.append(Mailbox(None, None, match[1], match[2]))
        position = match.end()
        if len(entries) > DEFAULT.addresses:
            return AddressList(tuple(entries[: DEFAULT.addresses]), frozenset({Defect.TOO_MANY_ADDRESSES}))
    return AddressList(tuple(entries))


class _Parser:
    """The long way: token by token, with what RFC 5322 §4.4 and real mail allow."""

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.entries: list[Mailbox] = []
        self.defects: set[Defect] = set()
        self.in_group = False
        self.mailboxes = 0
        self.reset()

    def reset(self) -> None:
        """Begin the next mailbox."""
        self.words: list[bytes] = []  # unquoted; single spaces and dots as they stand between them
        self.comment: bytes | None = None
        self.angle: list[bytes] | None = None  # what stood in <…>
        self.at = -1  # index in the words (or the angle) after the last @
        self.route: bytes | None = None
        self.closed = False

    def run(self) -> AddressList:
        value, position, size = self.value, 0, len(self.value)
        while position < size:
            match = _TOKEN.match(value, position)
            if match is None:
                break
            position = match.end()
            space, atom, quoted, literal, special = match.groups()
            if space is not None:
                self.space()
            elif atom is not None:
                self.word(atom)
            elif quoted is not None:
                if match.end() == match.end(3):  # the closing quote is missing
                    self.defects.add(Defect.BAD_ADDRESS)
                self.word(_QUOTED_PAIR.sub(rb"\1", quoted) if b"\\" in quoted else quoted)
            elif literal is not None:
                self.word(literal)
            elif special == b"(":
                position = self.read_comment(position)
            else:
                self.special(special)
            if self.mailboxes >= DEFAULT.addresses:
                self.defects.add(Defect.TOO_MANY_ADDRESSES)
                break
        else:
            self.end_mailbox()
        if self.in_group:
            self.entries.append(GROUP_END)
        return AddressList(tuple(self.entries), frozenset(self.defects))

    def space(self) -> None:
        if self.angle is None and self.words and self.words[-1] != b" ":
            self.words.append(b" ")

    def word(self, text: bytes) -> None:
        if self.closed:  # something after <…>: "<a>b" (case 127)
            self.defects.add(Defect.BAD_ADDRESS)
            return
        (self.words if self.angle is None else self.angle).append(text)

    def special(self, char: bytes) -> None:
        if self.angle is not None and not self.closed:
            self.special_in_angle(char)
        elif char == b",":
            self.end_mailbox()
        elif char == b"<":
            if self.closed:
                self.defects.add(Defect.BAD_ADDRESS)
                self.end_mailbox()
            self.angle = []
            self.at = -1
        elif char == b":" and not self.in_group and self.at < 0 and not self.closed:
            name = b"".join(self.words).strip(b" ")
            self.entries.append(Mailbox(None, None, name, None))
            self.reset()
            self.in_group = True
        elif char == b";":
            self.end_mailbox()
            if self.in_group:
                self.in_group = False
                self.entries.append(GROUP_END)
        elif char == b"@" and not self.closed:
            if self.at >= 0:
                self.defects.add(Defect.BAD_ADDRESS)
            self.words.append(b"@")
            self.at = len(self.words)
        elif char == b"." and not self.closed:
            self.words.append(b".")
        else:
            self.defects.add(Defect.BAD_ADDRESS)

    def special_in_angle(self, char: bytes) -> None:
        assert self.angle is not None
        if char == b">":
            self.closed = True
        elif char == b":" and self.angle and self.angle[0] == b"@":
            self.route = b"".join(self.angle)
            self.angle = []
            self.at = -1
        elif char == b"@":
            if self.at > 1:
                self.defects.add(Defect.BAD_ADDRESS)
            self.angle.append(b"@")
            self.at = len(self.angle)
        elif char in b".,:":
            # A comma without a route, or a second colon, is kept as text: it was inside the brackets.
            self.angle.append(char)
        else:
            self.defects.add(Defect.BAD_ADDRESS)

    def read_comment(self, position: int) -> int:
        """Read the comment that begins before `position`; return where it ends. Nested ones by counting."""
        value, size, depth = self.value, len(self.value), 1
        pieces: list[bytes] = []
        while position < size:
            char = value[position : position + 1]
            if char == b"\\":
                pieces.append(value[position + 1 : position + 2])
                position += 2
                continue
            match = _COMMENT_TEXT.match(value, position)
            if match is not None:
                pieces.append(match[0])
                position = match.end()
                continue
            position += 1
            depth += 1 if char == b"(" else -1
            if depth == 0:
                break
            pieces.append(char)
        if depth:
            self.defects.add(Defect.BAD_ADDRESS)
        self.comment = b"".join(pieces).strip()
        self.space()
        return position

    def end_mailbox(self) -> None:
        """File what was read since the last comma."""
        if self.angle is not None:
            if not self.closed:
                self.defects.add(Defect.BAD_ADDRESS)
            name = b"".join(self.words).strip(b" ")
            local, domain = self.split(self.angle)
            if self.at >= 0 and not name and self.comment:
                name = self.comment
            if local or domain or name:
                self.add(Mailbox(name or None, self.route, local, domain))
            # "<>" alone is the null address: no mailbox.
        elif self.words and any(word != b" " for word in self.words):
            words = [word for word in self.words if word != b" "] if self.at >= 0 else self.words
            if self.at >= 0:
                self.at = len(words) - words[::-1].index(b"@")
                local, domain = self.split(words)
                self.add(Mailbox(self.comment or None, None, local, domain))
            else:
                text = b"".join(words).strip(b" ")
                self.defects.add(Defect.BAD_ADDRESS)
                if b" " in text:
                    self.add(Mailbox(text, None, b"", b""))
                else:
                    self.add(Mailbox(self.comment or None, None, text, b""))
        self.reset()

    def split(self, words: list[bytes]) -> tuple[bytes, bytes]:
        """Local part and domain of an addr-spec's tokens; the last @ divides. Two words in a row are a mistake."""
        before = b"."
        for word in words:
            if word not in _SEPARATORS and before not in _SEPARATORS:
                self.defects.add(Defect.BAD_ADDRESS)
                break
            before = word
        if self.at < 0:
            self.defects.add(Defect.BAD_ADDRESS)
            return b"".join(words), b""
        return b"".join(words[: self.at - 1]), b"".join(words[self.at :])

    def add(self, mailbox: Mailbox) -> None:
        if not mailbox.local or not mailbox.domain:
            self.defects.add(Defect.BAD_ADDRESS)
        self.entries.append(mailbox)
        self.mailboxes += 1


def parse_message_ids(value: bytes) -> list[str]:
    """The ids of References, In-Reply-To or Message-ID, without angle brackets and white space, in order.

    A value without brackets that is one word is taken as an id (broken senders). The last 1,000 are kept.
    Source: RFC 5322 §3.6.4, §4.5.4.
    """
    found = _MESSAGE_ID.findall(value)
    if not found:
        bare = value.strip(b" \t\r\n<>")
        found = [bare] if bare and b"@" in bare and not _SPACE.search(bare) else []
    found = found[-DEFAULT.message_ids :]
    ids = (_SPACE.sub(b"", item) if b" " in item or b"\t" in item else item for item in found)
    return [item.decode("utf-8", "replace") for item in ids if item]
