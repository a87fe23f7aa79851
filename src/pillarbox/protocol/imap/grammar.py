"""Commands of IMAP: octets of a whole command → what it asks for. Source: RFC 3501 §9 and each extension's grammar.

`COMMANDS` is the table of what there is and when it may be said; an extension adds a row.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from enum import Flag, auto
from typing import Final, NamedTuple

from pillarbox.message import charset
from pillarbox.model.flags import SYSTEM_FLAGS_FOLDED
from pillarbox.protocol.imap import commands as c
from pillarbox.protocol.imap.fetch import RECENT, parse_fetch_items
from pillarbox.protocol.imap.lexer import FLAG, LITERAL_MARK, Lexer, NeedLiteral, ParseError
from pillarbox.protocol.imap.names import BadName, decode_name
from pillarbox.protocol.imap.search import (
    All,
    And,
    Dated,
    HasFlag,
    InHeader,
    InSet,
    InText,
    Key,
    Not,
    Or,
    Size,
    fold,
)

MAX_ID_FIELDS: Final = 30
MAX_ID_OCTETS: Final = 1024
MAX_FLAGS: Final = 100
MAX_KEYWORD: Final = 128
STATUS_ITEMS: Final = frozenset((b"MESSAGES", b"RECENT", b"UIDNEXT", b"UIDVALIDITY", b"UNSEEN"))


class When(Flag):
    """States in which a command is allowed. Source: RFC 3501 §3."""

    FRESH = auto()
    """Not authenticated."""
    KNOWN = auto()
    """Authenticated."""
    SELECTED = auto()
    ANY = FRESH | KNOWN | SELECTED
    LOGGED_IN = KNOWN | SELECTED


class NoGood(Exception):
    """The command is well formed, but asks for what cannot be: it is answered NO with this response code."""

    def __init__(self, code: bytes, text: str) -> None:
        super().__init__(text)
        self.code = code


class Rule(NamedTuple):
    when: When
    parse: Callable[[Lexer], c.Command]


# --- parts that several commands share ------------------------------------------------------------------------------


def _mailbox(lexer: Lexer) -> str:
    lexer.space()
    return _name(lexer.astring())


def _name(octets: bytes) -> str:
    try:
        return decode_name(octets)
    except (BadName, UnicodeDecodeError):
        raise NoGood(b"CANNOT", "That is not the name of a mailbox.") from None


def _flag_name(text: str) -> str:
    """A flag with system flags spelled as we spell them. Raises ParseError for unknown flags with a backslash."""
    if text.startswith("\\"):
        known = SYSTEM_FLAGS_FOLDED.get(text.lower())
        if known is None:
            raise ParseError("unknown system flag")
        return known[0]
    if len(text) > MAX_KEYWORD:
        raise NoGood(b"CANNOT", "The keyword is too long.")
    return text


def _flags_in_list(lexer: Lexer) -> list[str]:
    """flag-list, the opening parenthesis taken already."""
    flags: list[str] = []
    if lexer.close():
        return flags
    while True:
        text = lexer.flag()
        if text.lower() != "\\recent":  # some clients copy it from FETCH; it cannot be set
            flags.append(_flag_name(text))
        if len(flags) > MAX_FLAGS:
            raise NoGood(b"LIMIT", "Too many flags.")
        if lexer.close():
            return flags
        lexer.space()


_DATE_TIME: Final = re.compile(
    rb'"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"'
)
_DATE: Final = re.compile(rb'("?)([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})\1')
_MONTHS: Final = {
    name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def _ordinal(day: bytes, month: bytes, year: bytes) -> int:
    try:
        return date(int(year), _MONTHS[month.lower()], int(day)).toordinal()
    except (ValueError, KeyError):
        raise ParseError("no such date") from None


def parse_date_time(lexer: Lexer) -> int:
    """Seconds since 1970. Source: RFC 3501 §9 (date-time)."""
    found = _DATE_TIME.match(lexer.octets, lexer.at)
    if found is None:
        raise ParseError("date-time expected")
    lexer.at = found.end()
    day, month, year, hour, minute, second, sign, zone_hour, zone_minute = found.groups()
    if int(hour) > 23 or int(minute) > 59 or int(second) > 60 or int(zone_hour) > 23 or int(zone_minute) > 59:
        raise ParseError("no such time")
    zone = int(zone_hour) * 3600 + int(zone_minute) * 60
    local = (_ordinal(day.strip(), month, year) - _EPOCH_DAY) * 86400
    local += int(hour) * 3600 + int(minute) * 60 + int(second)
    return local + zone if sign == b"-" else local - zone


# --- any state, and before login --------------------------------------------------------------------------------------


def _plain(value: c.Command) -> Callable[[Lexer], c.Command]:
    """A command without arguments."""

    def parse(lexer: Lexer) -> c.Command:
        lexer.end()
        return value

    return parse


def _authenticate(lexer: Lexer) -> c.Command:
    lexer.space()
    mechanism = lexer.atom().upper().decode("ascii")
    initial = None
    if lexer.take(b" "):
        initial = lexer.match(_BASE64, "base64")
    lexer.end()
    return c.Authenticate(mechanism, initial)


_BASE64: Final = re.compile(rb"[^\x00-\x20\x7f-\xff]+")


def _login(lexer: Lexer) -> c.Command:
    lexer.space()
    username = lexer.astring()
    lexer.space()
    password = lexer.astring()
    lexer.end()
    return c.Login(username, password)


def _id(lexer: Lexer) -> c.Command:
    """Source: RFC 2971 §4: at most 30 pairs, names of 30 octets, values of 1,024."""
    lexer.space()
    fields: list[tuple[bytes, bytes | None]] = []
    if not lexer.open():
        if lexer.nstring() is not None:
            raise ParseError("list or NIL expected")
    elif not lexer.close():
        while True:
            name = lexer.string()
            lexer.space()
            value = lexer.nstring()
            fields.append((name, value))
            if len(fields) > MAX_ID_FIELDS or len(name) > MAX_ID_OCTETS or len(value or b"") > MAX_ID_OCTETS:
                raise ParseError("too much in ID")
            if lexer.close():
                break
            lexer.space()
    lexer.end()
    return c.Id(tuple(fields))


def _enable(lexer: Lexer) -> c.Command:
    names: list[bytes] = []
    while lexer.take(b" "):
        names.append(lexer.word())
    lexer.end()
    if not names:
        raise ParseError("capability expected")
    return c.Enable(tuple(names))


# --- mailboxes --------------------------------------------------------------------------------------------------------


def _select(read_only: bool) -> Callable[[Lexer], c.Command]:
    def parse(lexer: Lexer) -> c.Command:
        name = _mailbox(lexer)
        lexer.end()
        return c.Select(name, read_only)

    return parse


def _create(lexer: Lexer) -> c.Command:
    """A separator at the end says that children are to come; it is no part of the name. Source: RFC 3501 §6.3.3."""
    name = _mailbox(lexer)
    lexer.end()
    return c.Create(name[:-1] if len(name) > 1 and name.endswith("/") else name)


def _delete(lexer: Lexer) -> c.Command:
    name = _mailbox(lexer)
    lexer.end()
    return c.Delete(name)


def _rename(lexer: Lexer) -> c.Command:
    name = _mailbox(lexer)
    new_name = _mailbox(lexer)
    lexer.end()
    return c.Rename(name, new_name[:-1] if len(new_name) > 1 and new_name.endswith("/") else new_name)


def _subscribe(on: bool) -> Callable[[Lexer], c.Command]:
    def parse(lexer: Lexer) -> c.Command:
        name = _mailbox(lexer)
        lexer.end()
        return c.Subscribe(name, on)

    return parse


def _list(subscribed: bool) -> Callable[[Lexer], c.Command]:
    def parse(lexer: Lexer) -> c.Command:
        reference = _mailbox(lexer)
        lexer.space()
        pattern = _name(lexer.list_mailbox())
        lexer.end()
        return c.List(reference, pattern, subscribed)

    return parse


def _status(lexer: Lexer) -> c.Command:
    name = _mailbox(lexer)
    lexer.space()
    if not lexer.open():
        raise ParseError("list of items expected")
    items: list[bytes] = []
    while True:
        item = lexer.word()
        if item not in STATUS_ITEMS:
            raise ParseError("unknown status item")
        if item not in items:
            items.append(item)
        if lexer.close():
            break
        lexer.space()
    lexer.end()
    return c.Status(name, tuple(items))


def _append(lexer: Lexer) -> c.Command:
    """As far as the mark of the literal, which ends the octets. Raises NeedLiteral where that is the mailbox's name."""
    name = _mailbox(lexer)
    lexer.space()
    flags: list[str] = []
    if lexer.open():
        flags = _flags_in_list(lexer)
        lexer.space()
    received_s = None
    if lexer.peek(b'"'):
        received_s = parse_date_time(lexer)
        lexer.space()
    mark = LITERAL_MARK.match(lexer.octets, lexer.at)
    if mark is None or mark.end() != len(lexer.octets):
        raise ParseError("literal expected")
    return c.Append(name, tuple(dict.fromkeys(flags)), received_s, int(mark[1]), waits=not mark[2])


# --- messages ---------------------------------------------------------------------------------------------------------


def _expunge(lexer: Lexer) -> c.Command:
    lexer.end()
    return c.Expunge(None)


def _fetch(lexer: Lexer, uid: bool) -> c.Command:
    lexer.space()
    messages = lexer.sequence_set()
    lexer.space()
    items = parse_fetch_items(lexer)
    lexer.end()
    return c.Fetch(messages, items, uid)


_STORE_ITEM: Final = re.compile(rb"([+-]?)FLAGS(\.SILENT)?", re.IGNORECASE)


def _store(lexer: Lexer, uid: bool) -> c.Command:
    lexer.space()
    messages = lexer.sequence_set()
    lexer.space()
    found = _STORE_ITEM.fullmatch(lexer.match(_ITEM, "item"))
    if found is None:
        raise ParseError("FLAGS expected")
    lexer.space()
    if lexer.open():
        flags = _flags_in_list(lexer)
    else:
        flags = [_flag_name(f) for f in _bare_flags(lexer) if f.lower() != "\\recent"]
    lexer.end()
    mode = found[1].decode("ascii") or "="
    return c.Store(messages, mode, frozenset(flags), bool(found[2]), uid)


_ITEM: Final = re.compile(rb"[A-Za-z.+-]+")


def _bare_flags(lexer: Lexer) -> list[str]:
    flags = [lexer.flag()]
    while not lexer.at_end() and lexer.take(b" ") and len(flags) < MAX_FLAGS:
        flags.append(lexer.match(FLAG, "flag").decode("ascii"))
    return flags


def _copy(lexer: Lexer, uid: bool, move: bool = False) -> c.Command:
    lexer.space()
    messages = lexer.sequence_set()
    name = _mailbox(lexer)
    lexer.end()
    return c.Copy(messages, name, move, uid)


def _move(lexer: Lexer, uid: bool) -> c.Command:
    return _copy(lexer, uid, move=True)


def _uid_expunge(lexer: Lexer) -> c.Command:
    lexer.space()
    uids = lexer.sequence_set()
    lexer.end()
    return c.Expunge(uids)


def _uid(lexer: Lexer) -> c.Command:
    lexer.space()
    match lexer.word():
        case b"FETCH":
            return _fetch(lexer, True)
        case b"STORE":
            return _store(lexer, True)
        case b"SEARCH":
            return _search(lexer, True)
        case b"COPY":
            return _copy(lexer, True)
        case b"MOVE":
            return _move(lexer, True)
        case b"EXPUNGE":
            return _uid_expunge(lexer)
    raise ParseError("unknown UID command")


# --- SEARCH -----------------------------------------------------------------------------------------------------------


def _search(lexer: Lexer, uid: bool) -> c.Command:
    """Source: RFC 3501 §6.4.4, §9 (search, search-key)."""
    label = "utf-8"
    start = lexer.at
    lexer.space()
    if lexer.octets[lexer.at : lexer.at + 8].upper() == b"CHARSET ":
        lexer.at += 8
        label = lexer.astring().decode("ascii", "replace")
        if charset.codec_for(label) is None:
            raise NoGood(b"BADCHARSET (US-ASCII UTF-8)", "Unknown charset.")
        start = lexer.at
    lexer.at = start
    keys: list[Key] = []
    while lexer.take(b" "):
        if lexer.at_end():
            break
        keys.append(_search_key(lexer, label))
    lexer.end()
    if not keys:
        raise ParseError("search key expected")
    return c.Search(And(tuple(keys)) if len(keys) > 1 else keys[0], uid)


_FLAG_KEYS: Final[dict[bytes, Key]] = {
    b"ALL": All(),
    b"ANSWERED": HasFlag(2),
    b"DELETED": HasFlag(8),
    b"DRAFT": HasFlag(16),
    b"FLAGGED": HasFlag(4),
    b"NEW": And((HasFlag(RECENT), Not(HasFlag(1)))),
    b"OLD": Not(HasFlag(RECENT)),
    b"RECENT": HasFlag(RECENT),
    b"SEEN": HasFlag(1),
    b"UNANSWERED": Not(HasFlag(2)),
    b"UNDELETED": Not(HasFlag(8)),
    b"UNDRAFT": Not(HasFlag(16)),
    b"UNFLAGGED": Not(HasFlag(4)),
    b"UNSEEN": Not(HasFlag(1)),
}
_DATE_KEYS: Final = {
    b"BEFORE": ("<", False),
    b"ON": ("=", False),
    b"SINCE": (">", False),
    b"SENTBEFORE": ("<", True),
    b"SENTON": ("=", True),
    b"SENTSINCE": (">", True),
}
_FIELD_KEYS: Final = frozenset((b"BCC", b"CC", b"FROM", b"SUBJECT", b"TO"))
_FIELD_NAME: Final = re.compile(rb"[!-9;-~]{1,200}")


def _search_key(lexer: Lexer, label: str) -> Key:
    first = lexer.octets[lexer.at : lexer.at + 1]
    if first == b"(":
        return _search_list(lexer, label)
    if first.isdigit() or first == b"*":
        return InSet(lexer.sequence_set(), False)
    word = lexer.word()
    if word in _FLAG_KEYS:
        return _FLAG_KEYS[word]
    if word in _FIELD_KEYS:
        return InHeader(word.lower(), _text(lexer, label))
    if word in _DATE_KEYS:
        lexer.space()
        found = _DATE.match(lexer.octets, lexer.at)
        if found is None:
            raise ParseError("date expected")
        lexer.at = found.end()
        order, sent = _DATE_KEYS[word]
        return Dated(order, _ordinal(found[2], found[3], found[4]), sent)
    return _other_key(lexer, label, word)


def _other_key(lexer: Lexer, label: str, word: bytes) -> Key:
    match word:
        case b"BODY":
            return InText(_text(lexer, label), False)
        case b"TEXT":
            return InText(_text(lexer, label), True)
        case b"HEADER":
            lexer.space()
            name = lexer.astring()
            if not _FIELD_NAME.fullmatch(name):
                raise ParseError("field name expected")
            return InHeader(name.lower(), _text(lexer, label))
        case b"KEYWORD" | b"UNKEYWORD":
            lexer.space()
            key = HasFlag(0, lexer.atom().decode("ascii"))
            return key if word == b"KEYWORD" else Not(key)
        case b"LARGER" | b"SMALLER":
            lexer.space()
            return Size(lexer.number(), word == b"LARGER")
        case b"UID":
            lexer.space()
            return InSet(lexer.sequence_set(), True)
        case b"NOT":
            lexer.space()
            lexer.deeper()
            key_inside = _search_key(lexer, label)
            lexer.depth += 1
            return Not(key_inside)
        case b"OR":
            lexer.deeper()
            lexer.space()
            one = _search_key(lexer, label)
            lexer.space()
            other = _search_key(lexer, label)
            lexer.depth += 1
            return Or(one, other)
    raise ParseError("unknown search key")


def _search_list(lexer: Lexer, label: str) -> Key:
    lexer.open()
    keys = [_search_key(lexer, label)]
    while not lexer.close():
        lexer.space()
        keys.append(_search_key(lexer, label))
    return And(tuple(keys)) if len(keys) > 1 else keys[0]


def _text(lexer: Lexer, label: str) -> str:
    lexer.space()
    return fold(charset.decode(lexer.astring(), label))


# --- the table --------------------------------------------------------------------------------------------------------

COMMANDS: Final[dict[bytes, Rule]] = {
    b"CAPABILITY": Rule(When.ANY, _plain(c.Capability())),
    b"NOOP": Rule(When.ANY, _plain(c.Noop())),
    b"LOGOUT": Rule(When.ANY, _plain(c.Logout())),
    b"ID": Rule(When.ANY, _id),
    b"STARTTLS": Rule(When.FRESH, _plain(c.StartTls())),
    b"AUTHENTICATE": Rule(When.FRESH, _authenticate),
    b"LOGIN": Rule(When.FRESH, _login),
    b"ENABLE": Rule(When.LOGGED_IN, _enable),
    b"SELECT": Rule(When.LOGGED_IN, _select(False)),
    b"EXAMINE": Rule(When.LOGGED_IN, _select(True)),
    b"CREATE": Rule(When.LOGGED_IN, _create),
    b"DELETE": Rule(When.LOGGED_IN, _delete),
    b"RENAME": Rule(When.LOGGED_IN, _rename),
    b"SUBSCRIBE": Rule(When.LOGGED_IN, _subscribe(True)),
    b"UNSUBSCRIBE": Rule(When.LOGGED_IN, _subscribe(False)),
    b"LIST": Rule(When.LOGGED_IN, _list(False)),
    b"LSUB": Rule(When.LOGGED_IN, _list(True)),
    b"NAMESPACE": Rule(When.LOGGED_IN, _plain(c.Namespace())),
    b"STATUS": Rule(When.LOGGED_IN, _status),
    b"APPEND": Rule(When.LOGGED_IN, _append),
    b"IDLE": Rule(When.LOGGED_IN, _plain(c.Idle())),
    b"CHECK": Rule(When.SELECTED, _plain(c.Check())),
    b"CLOSE": Rule(When.SELECTED, _plain(c.Close(True))),
    b"UNSELECT": Rule(When.SELECTED, _plain(c.Close(False))),
    b"EXPUNGE": Rule(When.SELECTED, _expunge),
    b"SEARCH": Rule(When.SELECTED, lambda lexer: _search(lexer, False)),
    b"FETCH": Rule(When.SELECTED, lambda lexer: _fetch(lexer, False)),
    b"STORE": Rule(When.SELECTED, lambda lexer: _store(lexer, False)),
    b"COPY": Rule(When.SELECTED, lambda lexer: _copy(lexer, False)),
    b"MOVE": Rule(When.SELECTED, lambda lexer: _move(lexer, False)),
    b"UID": Rule(When.SELECTED, _uid),
}

__all__ = ["COMMANDS", "NeedLiteral", "NoGood", "Rule", "When", "parse_date_time"]
