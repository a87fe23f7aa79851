"""Mailboxes of one account: rows of table `mailbox`, within the caller's transaction. Source: RFC 3501 §6.3."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

from pillarbox.model.errors import (
    AccountUnavailable,
    LimitReached,
    MailboxExists,
    MailboxName,
    NoSuchAccount,
    NoSuchMailbox,
)
from pillarbox.model.flags import FIRST_KEYWORD_BIT, MAX_KEYWORDS, SYSTEM_FLAGS_FOLDED
from pillarbox.model.mailbox import STANDARD_MAILBOXES, Mailbox
from pillarbox.store.sqlite import migrate
from pillarbox.store.sqlite.files import Db
from pillarbox.store.sqlite.names import canonical_name, lookup_name, parents

_COLUMNS: Final = (
    "id, name, uidvalidity, uidnext, modseq, messages, unseen, deleted, size, recent_uid, special_use, keywords"
)
NOSELECT: Final = "\\Noselect"
RETIRED: Final = 20_000
"""Names that were given up and are remembered one by one."""


class Meta:
    """The account's counters. `change()` once a transaction that changes messages; `save` writes them back."""

    __slots__ = ("_changed", "db", "modseq", "next_email", "next_mailbox", "uidvalidity")

    def __init__(self, db: Db) -> None:
        rows = db.execute("SELECT modseq, next_email, next_mailbox, uidvalidity, removed FROM meta").fetchall()
        if not rows:
            raise AccountUnavailable(f"{db.filename}: its row of counters is missing")
        self.modseq, self.next_email, self.next_mailbox, self.uidvalidity, removed = rows[0]
        if removed:
            raise NoSuchAccount("removed")
        self.db = db
        self._changed = False

    def begin(self) -> None:
        """Another transaction changes messages."""
        self._changed = False

    def change(self) -> int:
        """The modseq of this transaction's changes."""
        if not self._changed:
            self._changed = True
            self.modseq += 1
        return int(self.modseq)

    def new_uidvalidity(self, now_s: float) -> int:
        """Above all that this account ever used; near the time, so that it rises even if the account is made anew."""
        self.uidvalidity = max(self.uidvalidity + 1, min(int(now_s), 0xFFFFFFFF - 1))
        return int(self.uidvalidity)

    def save(self) -> None:
        """Write the counters."""
        self.db.execute(
            "UPDATE meta SET modseq=?, next_email=?, next_mailbox=?, uidvalidity=?",
            (self.modseq, self.next_email, self.next_mailbox, self.uidvalidity),
        )


class Box:
    """A row of table `mailbox` that is being changed."""

    __slots__ = (
        "deleted", "id", "keywords", "messages", "modseq", "name", "recent_uid", "size", "special_use", "uidnext",
        "uidvalidity", "unseen",
    )  # fmt: skip

    def __init__(self, row: Iterable[Any]) -> None:
        (
            self.id, self.name, self.uidvalidity, self.uidnext, self.modseq, self.messages, self.unseen, self.deleted,
            self.size, self.recent_uid, self.special_use, keywords,
        ) = row  # fmt: skip
        self.keywords: list[str] = keywords.split()

    def value(self) -> Mailbox:
        """As others see it."""
        return Mailbox(
            self.id, self.name, self.uidvalidity, self.uidnext, self.modseq, self.messages, self.unseen, self.deleted,
            self.size, self.recent_uid, self.special_use, tuple(self.keywords),
        )  # fmt: skip

    def save(self, db: Db) -> None:
        """Write the counters and keywords."""
        db.execute(
            "UPDATE mailbox SET uidnext=?, modseq=?, messages=?, unseen=?, deleted=?, size=?, recent_uid=?, keywords=? "
            "WHERE id=?",
            (
                self.uidnext, self.modseq, self.messages, self.unseen, self.deleted, self.size, self.recent_uid,
                " ".join(self.keywords), self.id,
            ),
        )  # fmt: skip

    def bits(self, names: Iterable[str], add: bool = True) -> int:
        """Flag names as bits; keywords that are new to the mailbox join its list if `add`. Raises LimitReached."""
        bits = 0
        for name in names:
            folded = name.lower()
            system = SYSTEM_FLAGS_FOLDED.get(folded)
            if system is not None:
                bits |= system[1]
            elif not name.startswith("\\"):
                index = next((i for i, known in enumerate(self.keywords) if known.lower() == folded), -1)
                if index < 0:
                    if not add:
                        continue
                    if len(self.keywords) >= MAX_KEYWORDS:
                        raise LimitReached(f"{self.name} has {MAX_KEYWORDS} keywords")
                    index = len(self.keywords)
                    self.keywords.append(name)
                bits |= 1 << (FIRST_KEYWORD_BIT + index)
        return bits


def create_tables(db: Db, now_s: float) -> None:
    """All of a new account: tables, counters, standard mailboxes."""
    migrate.create(db, migrate.ACCOUNT)
    db.execute("INSERT INTO meta VALUES(1, ?, 1, 1, 1, 0, 0)", (os.urandom(16),))
    meta = Meta(db)
    for name, special_use in STANDARD_MAILBOXES:
        insert(db, meta, name, special_use, now_s)
        db.execute("INSERT INTO subscription VALUES(?)", (name,))
    meta.save()


def by_id(db: Db, mailbox: int) -> Box:
    """Raises NoSuchMailbox."""
    for row in db.execute(f"SELECT {_COLUMNS} FROM mailbox WHERE id=?", (mailbox,)):
        return Box(row)
    raise NoSuchMailbox(f"mailbox {mailbox}")


def find(db: Db, name: str) -> Box | None:
    """By name in any spelling."""
    for row in db.execute(f"SELECT {_COLUMNS} FROM mailbox WHERE name=?", (_bindable(lookup_name(name)),)):
        return Box(row)
    return None


def by_name(db: Db, name: str) -> Box:
    """Raises NoSuchMailbox."""
    box = find(db, name)
    if box is None:
        raise NoSuchMailbox(name[:100])
    return box


def list_all(db: Db) -> list[Mailbox]:
    """INBOX first, the others by name."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM mailbox ORDER BY name <> 'INBOX', name")
    return [Box(row).value() for row in rows]


def totals(db: Db) -> tuple[int, int]:
    """Octets and messages of all mailboxes."""
    octets, messages = db.execute("SELECT total(size), total(messages) FROM mailbox").fetchall()[0]
    return int(octets), int(messages)


def insert(db: Db, meta: Meta, name: str, special_use: str, now_s: float) -> Box:
    """One new row."""
    number = meta.next_mailbox
    meta.next_mailbox += 1
    row = (number, name, meta.new_uidvalidity(now_s), 1, meta.modseq, 0, 0, 0, 0, 1, special_use, "")
    db.execute("INSERT INTO mailbox VALUES(?,?,?,?,?,?,?,?,?,?,?,?)", row)
    return Box(row)


def create(db: Db, name: str, special_use: str, limit: int, now_s: float) -> Mailbox:
    """CREATE. A trailing "/" only says that children will come (RFC 3501 §6.3.3)."""
    name = canonical_name(name.removesuffix("/"))
    meta = Meta(db)
    old = find(db, name)
    if old is not None and old.special_use != NOSELECT:
        raise MailboxExists(name)
    if old is not None:
        _retire(db, old)
    missing = [parent for parent in parents(name) if find(db, parent) is None]
    _check_room(db, len(missing) + 1, limit)
    for parent in missing:
        insert(db, meta, parent, "", now_s)
    box = insert(db, meta, name, special_use, now_s)
    meta.change()
    meta.save()
    return box.value()


def children(db: Db, name: str) -> list[tuple[int, str]]:
    """(id, name) of all that is below a name."""
    low, high = name + "/", name + "0"  # "0" is the character after "/"
    rows = db.execute("SELECT id, name FROM mailbox WHERE name>? AND name<? ORDER BY name", (low, high))
    return [(number, child) for number, child in rows]


def rename(db: Db, name: str, new_name: str, limit: int, now_s: float) -> Box | None:
    """RENAME of all but INBOX, with its children. For INBOX: makes the new mailbox and returns it, still empty."""
    new_name = canonical_name(new_name.removesuffix("/"))
    box = by_name(db, name)
    meta = Meta(db)
    if find(db, new_name) is not None:
        raise MailboxExists(new_name)
    if new_name.startswith(box.name + "/") and box.name != "INBOX":
        raise MailboxName(f"{new_name!r} is within itself")
    missing = [parent for parent in parents(new_name) if find(db, parent) is None]
    _check_room(db, len(missing) + (box.name == "INBOX"), limit)
    for parent in missing:
        insert(db, meta, parent, "", now_s)
    target = None
    if box.name == "INBOX":
        target = insert(db, meta, new_name, "", now_s)
    else:
        moved = [(box.id, box.name), *children(db, box.name)]
        names = [(number, old, canonical_name(new_name + old[len(box.name) :])) for number, old in moved]
        for number, old, new in names:
            _rename_row(db, meta, number, old, new, now_s)
    meta.change()
    meta.save()
    return target


def _rename_row(db: Db, meta: Meta, number: int, old: str, new: str, now_s: float) -> None:
    [(validity,)] = db.execute("SELECT uidvalidity FROM mailbox WHERE id=?", (number,)).fetchall()
    _retire_name(db, old, validity)
    retired = db.execute("SELECT uidvalidity FROM retired WHERE name IN (?, '')", (new,)).fetchall()
    if any(other >= validity for (other,) in retired):  # another mailbox had this name with a higher one (case 179)
        validity = meta.new_uidvalidity(now_s)
    db.execute("UPDATE mailbox SET name=?, uidvalidity=? WHERE id=?", (new, validity, number))


def remove_row(db: Db, meta: Meta, box: Box, now_s: float) -> None:
    """DELETE of a mailbox whose messages are gone. With children its name stays, \\Noselect: a mailbox of its own, so
    that whoever has the deleted one open learns that it is gone."""
    _retire(db, box)
    if children(db, box.name):
        insert(db, meta, box.name, NOSELECT, now_s)


def _retire(db: Db, box: Box) -> None:
    _retire_name(db, box.name, box.uidvalidity)
    db.execute("DELETE FROM mailbox WHERE id=?", (box.id,))
    db.execute("DELETE FROM expunged WHERE mailbox=?", (box.id,))


def _retire_name(db: Db, name: str, uidvalidity: int) -> None:
    db.execute(
        "INSERT INTO retired VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET uidvalidity=max(uidvalidity, ?2)",
        (name, uidvalidity),
    )
    [(count,)] = db.execute("SELECT count(*) FROM retired").fetchall()
    if count > RETIRED:  # from here on all of them count as one: the name "" stands for any
        [(highest,)] = db.execute("SELECT max(uidvalidity) FROM retired").fetchall()
        db.execute("DELETE FROM retired")
        db.execute("INSERT INTO retired VALUES('', ?)", (highest,))


def _check_room(db: Db, more: int, limit: int) -> None:
    [(count,)] = db.execute("SELECT count(*) FROM mailbox").fetchall()
    if count + more > limit:
        raise LimitReached(f"{count} mailboxes")


def subscriptions(db: Db) -> list[str]:
    """Names, in order."""
    return [name for (name,) in db.execute("SELECT name FROM subscription ORDER BY name")]


def subscribe(db: Db, name: str, on: bool, limit: int) -> None:
    """The name need not exist, but must be one that could."""
    if not on:
        db.execute("DELETE FROM subscription WHERE name=?", (_bindable(lookup_name(name)),))
        return
    name = canonical_name(name)
    [(count,)] = db.execute("SELECT count(*) FROM subscription").fetchall()
    if count >= 2 * limit:
        raise LimitReached(f"{count} subscriptions")
    db.execute("INSERT OR IGNORE INTO subscription VALUES(?)", (name,))


def take_recent(db: Db, mailbox: int) -> int:
    """The first \\Recent UID; those below UIDNEXT are nobody else's then."""
    box = by_id(db, mailbox)
    if box.recent_uid != box.uidnext:
        db.execute("UPDATE mailbox SET recent_uid=uidnext WHERE id=?", (mailbox,))
    return int(box.recent_uid)


def _bindable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
