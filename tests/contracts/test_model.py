"""Mailboxes against a small model in memory: whatever is done, UIDs, flags and counters agree (cases 31-33)."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pillarbox.model.flags import flag_names
from pillarbox.model.uids import ALL, UidSet
from pillarbox.store.sqlite.engine import init_home

from .engines import Engine

NAMES = ("INBOX", "a", "a/b", "c")
FLAGS = ("\\Seen", "\\Deleted", "\\Flagged", "$One", "$Two")
some_flags = st.frozensets(st.sampled_from(FLAGS), max_size=3)
some_uids = st.one_of(
    st.just(ALL), st.lists(st.integers(1, 12), min_size=1, max_size=5).map(UidSet.of), st.just(UidSet(((3, 8),)))
)


@dataclass
class Box:
    """What the model knows of one mailbox: UID → flags."""

    id: int
    uidvalidity: int
    uidnext: int = 1
    messages: dict[int, frozenset[str]] = field(default_factory=dict)
    seen: dict[int, frozenset[str]] = field(default_factory=dict)
    """What a client knew at `since`."""
    since: int = 0

    def chosen(self, uids: UidSet) -> list[int]:
        return [uid for uid in sorted(self.messages) if uid in uids]


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        home = Path(self.folder.name) / "home"
        init_home(home)
        self.engine = Engine("sqlite", home)
        self.loop = asyncio.new_event_loop()
        self.boxes: dict[str, Box] = {}
        self.validities: dict[str, int] = {}
        self.modseq = 0

    def do(self, story: Any) -> Any:
        return self.loop.run_until_complete(story)

    @initialize()
    def begin(self) -> None:
        self.opened = self.engine.opened()
        self.store = self.do(self.opened.__aenter__()).mailboxes
        self.account = self.engine.account_id()
        self.do(self.store.create_account(self.account))
        inbox = self.do(self.store.status(self.account, "INBOX"))
        self.boxes["INBOX"] = Box(inbox.id, inbox.uidvalidity)

    def teardown(self) -> None:
        self.do(self.opened.__aexit__(None, None, None))
        self.loop.close()
        self.folder.cleanup()

    @rule(name=st.sampled_from(NAMES), flags=some_flags, count=st.integers(1, 3))
    def append(self, name: str, flags: frozenset[str], count: int) -> None:
        if (box := self.boxes.get(name)) is None:
            return
        filed = self.do(self.store.append(self.account, box.id, [self.engine.email(flags=flags) for _ in range(count)]))
        for headline in filed:
            assert headline.uid == box.uidnext
            box.messages[headline.uid] = flags
            box.uidnext += 1

    @rule(name=st.sampled_from(NAMES), uids=some_uids, mode=st.sampled_from("+-="), flags=some_flags)
    def store_flags(self, name: str, uids: UidSet, mode: str, flags: frozenset[str]) -> None:
        if (box := self.boxes.get(name)) is None:
            return
        stored = self.do(self.store.set_flags(self.account, box.id, uids, mode, flags))
        changed = []
        for uid in box.chosen(uids):
            old = box.messages[uid]
            new = old | flags if mode == "+" else old - flags if mode == "-" else flags
            box.messages[uid] = new
            if new != old:
                changed.append(uid)
        assert list(stored.changed.uids) == changed

    @rule(name=st.sampled_from(NAMES), uids=some_uids, only_deleted=st.booleans())
    def expunge(self, name: str, uids: UidSet, only_deleted: bool) -> None:
        if (box := self.boxes.get(name)) is None:
            return
        doomed = [u for u in box.chosen(uids) if not only_deleted or "\\Deleted" in box.messages[u]]
        assert self.do(self.store.expunge(self.account, box.id, uids, only_deleted)) == UidSet.of(doomed)
        for uid in doomed:
            del box.messages[uid]

    @rule(source=st.sampled_from(NAMES), into_name=st.sampled_from(NAMES), uids=some_uids, move=st.booleans())
    def copy(self, source: str, into_name: str, uids: UidSet, move: bool) -> None:
        if (box := self.boxes.get(source)) is None or (into := self.boxes.get(into_name)) is None:
            return
        chosen = box.chosen(uids)
        moved = self.do(self.store.copy(self.account, box.id, uids, into_name, move))
        assert list(moved.source_uids) == chosen
        assert list(moved.target_uids) == list(range(into.uidnext, into.uidnext + len(chosen)))
        for uid in chosen:
            into.messages[into.uidnext] = box.messages[uid]
            into.uidnext += 1
        for uid in chosen if move else ():
            del box.messages[uid]

    @rule(name=st.sampled_from(NAMES[1:]))
    def create(self, name: str) -> None:
        if name in self.boxes:
            return
        self.do(self.store.create(self.account, name))
        for box in self.do(self.store.list(self.account)):
            if box.name in NAMES and box.name not in self.boxes and box.special_use != "\\Noselect":
                assert box.uidvalidity > self.validities.get(box.name, 0)
                self.boxes[box.name] = Box(box.id, box.uidvalidity)

    @rule(name=st.sampled_from(("a/b", "c")))
    def delete(self, name: str) -> None:
        if (box := self.boxes.pop(name, None)) is not None:
            self.validities[name] = box.uidvalidity
            self.do(self.store.delete(self.account, name))

    @rule(name=st.sampled_from(NAMES))
    def look(self, name: str) -> None:
        """A client asks what changed since it looked last, and then knows the same as the model."""
        if (box := self.boxes.get(name)) is None:
            return
        changes = self.do(self.store.changes(self.account, box.id, box.since))
        for uid in [uid for uid in box.seen if uid in changes.expunged]:
            del box.seen[uid]
        keywords = list(changes.mailbox.keywords)
        for uid, flags in zip(changes.changed.uids, changes.changed.flags, strict=True):
            box.seen[uid] = frozenset(flag_names(flags, keywords))
        box.since = changes.mailbox.highest_modseq
        assert box.seen == box.messages

    @rule()
    def reopen(self) -> None:
        self.do(self.opened.__aexit__(None, None, None))
        self.opened = self.engine.opened()
        self.store = self.do(self.opened.__aenter__()).mailboxes

    @invariant()
    def agrees(self) -> None:
        for box in self.boxes.values():
            row, found = self.do(self.store.uids(self.account, box.id))
            assert list(found.uids) == sorted(box.messages)
            names = {
                u: frozenset(flag_names(f, list(row.keywords))) for u, f in zip(found.uids, found.flags, strict=True)
            }
            assert names == box.messages
            assert (row.uidnext, row.uidvalidity, row.messages) == (box.uidnext, box.uidvalidity, len(box.messages))
            assert row.unseen == sum("\\Seen" not in flags for flags in box.messages.values())
            assert row.deleted == sum("\\Deleted" in flags for flags in box.messages.values())
        if self.boxes:
            modseq = self.do(self.store.modseq(self.account))
            assert modseq >= self.modseq
            self.modseq = modseq


Machine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMailboxesAgreeWithTheModel = Machine.TestCase
