"""Reads a POP3 session's messages from the store, many at once where the client asks for one after the other.

While one run of messages is sent, the next is read. Whoever serves from here first finds out what others expunged
(`is_fresh`, `refresh`): contents never change, and the maildrop knows what is gone.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from pillarbox.model.ids import AccountId
from pillarbox.model.uids import UidSet
from pillarbox.protocol.pop3.content import doubled, top
from pillarbox.protocol.pop3.maildrop import Maildrop
from pillarbox.protocol.pop3.surrogate import surrogate
from pillarbox.store.api import INLINE_OCTETS, Bundle, Email, Mailboxes

MAX_AHEAD: Final = 64
MAX_HEADS_AHEAD: Final = 128
"""Messages in one run, whole or only their headers."""
RUN_OCTETS: Final = 256 * 1024
"""About so much is read in one run; at most two runs are in memory."""
HEAD_OCTETS: Final = 4096
"""What a header is taken for before the first are seen."""
FRESH_S: Final = 0.05
"""How long what was found out of others' doings is relied on (signals, which come sooner, may be lost)."""


@dataclass(frozen=True, slots=True)
class Run:
    """Messages that were read together."""

    octets: bytes
    places: dict[int, int]
    """Index of a message → its place in the lists."""
    sizes: list[int]
    """-1: not here."""
    ends: list[int]
    """Where in `octets` each ends."""
    body_starts: list[int]
    """Where the body begins in each, as the parser found it; a hint."""
    heads_only: bool
    dotted: bool
    is_ascii: bool


NOTHING: Final = Run(b"", {}, [], [], [], False, False, True)


class Reader:
    """The mailbox of one session."""

    __slots__ = (
        "_account",
        "_checked_s",
        "_coming",
        "_emails",
        "_head_octets",
        "_is_due",
        "_last",
        "_mailbox",
        "_mailboxes",
        "_maildrop",
        "_modseq",
        "_read_to",
        "_run",
        "_turn",
        "_utf8",
        "_window",
        "is_stale",
    )

    def __init__(
        self,
        mailboxes: Mailboxes,
        account: AccountId,
        mailbox: int,
        emails: array[int],
        maildrop: Maildrop,
        modseq: int,
        *,
        utf8: bool,
    ) -> None:
        """`emails`: the messages' ids in the store. `modseq`: the account's, from before the maildrop was loaded.
        `utf8`: the client takes headers in UTF-8 (RFC 6856)."""
        self._mailboxes = mailboxes
        self._account = account
        self._mailbox = mailbox
        self._emails = emails
        self._maildrop = maildrop
        self._modseq = modseq
        self._utf8 = utf8
        self._checked_s = 0.0
        self._run = NOTHING
        self._coming: asyncio.Task[Run] | None = None
        self._last = -2
        """Index of the message asked for last."""
        self._read_to = 0
        """Index of the first message after those that were read."""
        self._turn = -1
        """When this one is asked for, the next run is begun."""
        self._is_due = False
        """The next run is about to be begun."""
        self._window = 1
        self._head_octets = HEAD_OCTETS
        self.is_stale = False
        """The account may have changed: `refresh` before anything is answered."""

    def changed(self) -> None:
        """A signal: something in the account has changed."""
        self.is_stale = True

    def forget(self) -> None:
        """Drop what was read ahead."""
        self._run = NOTHING
        self._turn, self._is_due = -1, False
        if self._coming:
            self._coming.cancel()
            self._coming = None

    # --- what others do ----------------------------------------------------------------------------------------------

    def is_fresh(self, now_s: float) -> bool:
        """True if it was looked up a moment ago what others do, and no signal has come since."""
        return not self.is_stale and now_s - self._checked_s < FRESH_S

    async def refresh(self, now_s: float) -> None:
        """Find out what others expunged. Raises Trouble, NoSuchAccount, NoSuchMailbox."""
        self.is_stale, self._checked_s = False, now_s
        await self._catch_up(await self._mailboxes.modseq(self._account))

    async def _catch_up(self, modseq: int) -> None:
        if modseq > self._modseq:
            changes = await self._mailboxes.changes(self._account, self._mailbox, self._modseq)
            self._maildrop.expunged(changes.expunged)
            self._modseq = modseq

    # --- messages ----------------------------------------------------------------------------------------------------

    def take(self, index: int, lines: int | None) -> bytes | None:
        """The message, or its header and first `lines` lines, dots doubled; None if it has not been read ahead."""
        run = self._run
        place = run.places.get(index)
        if place is None and self._turn_page():
            run = self._run
            place = run.places.get(index)
        if place is None or (size := run.sizes[place]) < 0 or (lines is None and run.heads_only):
            return None
        octets, end = run.octets, run.ends[place]
        start = end - size
        if lines is None:
            octets = octets[start:end]
        elif (
            lines == 0
            and (body := start + run.body_starts[place]) <= end  # it may be of what was not read
            and octets.endswith(b"\n\r\n", start, body)
        ):
            octets = octets[start:body]
        else:
            cut = top(octets[start:end], lines, is_whole=size == self._maildrop.size(index))
            if cut is None:
                return None
            octets = cut
        if not (run.is_ascii or self._utf8):
            octets = surrogate(octets)
        if run.dotted:
            octets = doubled(octets)
        self._last = index
        if index == self._turn:
            self._turn, self._is_due = -1, True
            asyncio.get_running_loop().call_soon(self._begin_next)  # when this one is sent
        return octets

    async def find(self, index: int, lines: int | None, upcoming: list[int]) -> bytes | int | None:
        """The same from the store; the id of the email if it is large: then open it; None if it was expunged.

        `upcoming`: indices that will be asked for next. Raises Trouble, NoSuchAccount, NoSuchMailbox.
        """
        found: bytes | None = None
        self._begin_next()
        if self._coming:
            await asyncio.wait((self._coming,))
            self._turn_page()
            if self._maildrop.find(index + 1) is not None:
                found = self.take(index, lines)
        if found is None and self._maildrop.find(index + 1) is not None:
            wanted = self._wanted(index, lines == 0, upcoming)
            if wanted:
                self._keep(await self._fetch(wanted, lines == 0))
                if self._maildrop.find(index + 1) is not None:
                    found = self.take(index, lines)
        self._last = index
        if found is not None:
            return found
        return self._emails[index] if self._maildrop.find(index + 1) is not None else None

    async def open(self, email: int) -> Email:
        """A large message. Raises NoSuchMessage, Trouble."""
        return await self._mailboxes.open(self._account, email)

    def gone(self, index: int) -> None:
        """The message turned out to be expunged."""
        self._maildrop.expunged(UidSet.of((self._maildrop.uid(index),)))

    async def expunge(self, uids: UidSet) -> None:
        """Remove messages, all or none. Raises Trouble."""
        await self._mailboxes.expunge(self._account, self._mailbox, uids, only_deleted=False)

    # --- runs --------------------------------------------------------------------------------------------------------

    def _wanted(self, index: int, heads_only: bool, upcoming: list[int]) -> Sequence[int]:
        """What to read with this message: those the client has asked for, or those it is likely to ask for.
        Nothing, if it is large, or if that has been read and was not enough."""
        if not heads_only and self._maildrop.size(index) > INLINE_OCTETS:
            return []
        if heads_only and self._run.heads_only and index in self._run.places:
            return []
        if upcoming and upcoming[0] != index + 1:
            self._window = 1
            return self._bounded([index, *upcoming], heads_only)
        if upcoming:
            self._window = _limit(heads_only)
        else:
            self._window = min(2 * self._window, _limit(heads_only)) if index == self._last + 1 else 1
        return self._bounded(self._maildrop.indices(index, self._window), heads_only)

    def _bounded(self, indices: Sequence[int], heads_only: bool) -> Sequence[int]:
        """The first of these that are RUN_OCTETS together; at least one."""
        if heads_only:
            count = RUN_OCTETS // self._head_octets
        else:
            count = self._maildrop.fitting(indices, RUN_OCTETS)
        return indices[: max(1, count)]

    def _keep(self, run: Run) -> None:
        self._run = run
        self._turn, self._is_due = -1, False
        if run.places:
            self._read_to = next(reversed(run.places)) + 1
            if self._window > 1:
                self._turn = next(iter(run.places))  # at once: a client that pipelines is as quick as the store

    def _turn_page(self) -> bool:
        """Go on with the next run, if it is there."""
        coming = self._coming
        if coming is None or not coming.done():
            return False
        self._coming = None
        if coming.cancelled() or coming.exception():
            return False  # whoever asks the store now is told
        self._keep(coming.result())
        return True

    def _begin_next(self) -> None:
        """Read the run after this one, while this one is sent."""
        if not self._is_due:
            return
        self._is_due = False
        heads_only = self._run.heads_only
        self._window = min(2 * self._window, _limit(heads_only))
        indices = self._bounded(self._maildrop.indices(self._read_to, self._window), heads_only)
        if indices:
            self._coming = asyncio.get_running_loop().create_task(self._fetch(indices, heads_only))
            self._coming.add_done_callback(_look)

    async def _fetch(self, indices: Sequence[int], heads_only: bool) -> Run:
        if isinstance(indices, range):
            emails = self._emails[indices.start : indices.stop]
        else:
            emails = array("Q", [self._emails[index] for index in indices])
        found = await self._mailboxes.bundle(self._account, emails, heads_only)
        await self._catch_up(found.modseq)
        if heads_only:
            self._head_octets = max(1, len(found.octets) // len(emails))
        return _run(indices, found, heads_only)


def _limit(heads_only: bool) -> int:
    return MAX_HEADS_AHEAD if heads_only else MAX_AHEAD


def _run(indices: Sequence[int], found: Bundle, heads_only: bool) -> Run:
    sizes, octets = found.sizes, found.octets
    ends = [*accumulate(sizes if min(sizes) >= 0 else [max(0, size) for size in sizes])]
    places = dict(zip(indices, range(len(indices)), strict=True))
    return Run(octets, places, sizes, ends, found.body_starts, heads_only, found.dotted, octets.isascii())


def _look(task: asyncio.Task[Run]) -> None:
    """A run that nobody came for may have failed; the next one will say so."""
    if not task.cancelled():
        task.exception()
