"""Damage stays where it is: garbled accounts, torn logs, newer schemas, full disks. Cases 5-13, 27, 29, 38."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from contracts.engines import Engine
from contracts.test_blobs import large_octets, written
from pillarbox.model.errors import AccountUnavailable, DamagedMessage, StoreFull, Trouble
from pillarbox.model.ids import AccountId
from pillarbox.model.mailbox import Content
from pillarbox.model.outcome import Delivered
from pillarbox.model.uids import ALL
from pillarbox.store.api import Selection, Settlement, Store, Target
from pillarbox.store.sqlite import files, migrate
from pillarbox.store.sqlite.engine import init_home
from pillarbox.store.sqlite.space import Space, space_left


async def filled(engine: Engine, store: Store, count: int = 5) -> AccountId:
    account = engine.account_id()
    await store.mailboxes.create_account(account)
    inbox = await store.mailboxes.status(account, "INBOX")
    await store.mailboxes.append(account, inbox.id, [engine.email(i) for i in range(count)])
    return account


def mail_db(engine: Engine, account: AccountId) -> Path:
    return engine.home / "accounts" / account[-2:] / account / "mail.db"


def folded(path: Path) -> None:
    """Bring the log into the file, as the mover does."""
    db = files.open_file(path, checkpoint_on_close=True)
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()


def garble(path: Path, offset: int, octets: int = 64) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(random.Random(offset).randbytes(octets))


@pytest.mark.parametrize("where", ["header", "pages", "missing"])
def test_a_garbled_account_does_not_disturb_others_case_029(engine: Engine, where: str) -> None:
    accounts = engine.run(lambda store: _two(engine, store))
    path = mail_db(engine, accounts[0])
    folded(path)
    if where == "missing":
        for suffix in ("", "-wal", "-shm"):
            path.with_name("mail.db" + suffix).unlink(missing_ok=True)
    else:
        for offset in [0] if where == "header" else range(4096, path.stat().st_size, 4096):
            garble(path, offset + 20)

    async def story(store: Store) -> None:
        message = engine.message()
        job = engine.job(message, Target("local", accounts[0]))
        for _ in range(2):
            with pytest.raises(AccountUnavailable):
                await store.mailboxes.list(accounts[0])
            with pytest.raises(AccountUnavailable):
                await store.mailboxes.deliver(accounts[0], [engine.delivery(job, message)])
        assert len(await store.verify(accounts[0])) >= 1
        assert (await store.mailboxes.status(accounts[1], "INBOX")).messages == 5
        await store.mailboxes.deliver(accounts[1], [engine.delivery(job, message)])

    engine.run(story)


async def _two(engine: Engine, store: Store) -> list[AccountId]:
    return [await filled(engine, store) for _ in range(2)]


def test_a_torn_end_of_the_log_is_dropped_case_007(engine: Engine) -> None:
    async def begin(store: Store) -> AccountId:
        account = await filled(engine, store, 3)
        inbox = (await store.mailboxes.status(account, "INBOX")).id
        await store.mailboxes.append(account, inbox, [engine.email(9)])
        return account

    account = engine.run(begin)
    log = mail_db(engine, account).with_name("mail.db-wal")
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 3000)

    async def story(store: Store) -> None:
        assert (await store.mailboxes.status(account, "INBOX")).messages == 3
        assert await store.verify(account) == []

    engine.run(story)


@pytest.mark.parametrize("part", [0, 2])
def test_a_bit_flip_in_a_large_content_is_found_case_027(engine: Engine, part: int) -> None:
    octets = large_octets()

    async def story(store: Store) -> None:
        account = await filled(engine, store, 1)
        inbox = (await store.mailboxes.status(account, "INBOX")).id
        content = await written(store, octets)
        email = engine.email()
        [filed] = await store.mailboxes.append(account, inbox, [type(email)(email.id, content)])
        path = engine.home / "blobs" / content.sha256.hex()[:2] / content.sha256.hex()
        assert os.stat(path).st_nlink == 2
        with path.open("r+b") as file:
            at = part * path.stat().st_size // 4 + 100
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 4]))
        opened = await store.mailboxes.open(account, filed.email)
        with pytest.raises(DamagedMessage):
            await opened.read()
        with pytest.raises(DamagedMessage):
            await store.blobs.read(content)
        with pytest.raises(DamagedMessage):
            await opened.read(part * (1 << 20) + 50, 1000)
        assert await opened.read((1 << 20) + 500, 1000) == octets[(1 << 20) + 500 : (1 << 20) + 1500]
        assert any(content.sha256.hex() in finding for finding in await store.verify(account))
        other = await store.mailboxes.open(account, filed.email - 1)
        assert (await other.read()).startswith(b"From")
        # The same content again: the pool's damaged file is replaced.
        assert await written(store, octets) == content
        assert await store.blobs.read(content) == octets

    engine.run(story)


def test_an_unlinked_content_in_the_pool_is_collected_case_005(engine: Engine) -> None:
    async def story(store: Store) -> None:
        orphan = await written(store, large_octets(200_000))
        queued = await written(store, large_octets(300_000))
        message = engine.message()
        message = type(message)(message.id, message.envelope, queued)
        await store.spool.accept(message, [engine.job(message, Target("remote", "x.test"))])
        paths = [engine.home / "blobs" / c.sha256.hex()[:2] / c.sha256.hex() for c in (orphan, queued)]
        await store.checkpoint()
        assert all(path.exists() for path in paths)
        for path in paths:
            os.utime(path, (1, 1))
        engine.clock.advance(4000)
        await store.checkpoint()
        assert [path.exists() for path in paths] == [False, True]

    engine.run(story)


def test_contents_of_expunged_messages_go(engine: Engine) -> None:
    async def story(store: Store) -> None:
        account = await filled(engine, store, 700)
        inbox = (await store.mailboxes.status(account, "INBOX")).id
        content = await written(store, large_octets(200_000))
        email = engine.email()
        await store.mailboxes.append(account, inbox, [type(email)(email.id, content)] * 2)
        blob = mail_db(engine, account).parent / "blobs" / content.sha256.hex()
        await store.mailboxes.expunge(account, inbox, type(ALL)(((1, 701),)), only_deleted=False)
        engine.clock.advance(400)
        await store.checkpoint()
        engine.clock.advance(400)
        await store.checkpoint()
        assert blob.exists()
        await store.mailboxes.expunge(account, inbox, ALL, only_deleted=False)
        await store.checkpoint()
        engine.clock.advance(400)
        await store.checkpoint()
        assert not blob.exists()
        assert await store.verify(account) == []

    engine.run(story)


@pytest.mark.parametrize("name", ["spool", "directory", "account"])
def test_a_newer_schema_is_refused_politely_case_038(engine: Engine, name: str) -> None:
    account = engine.run(lambda store: filled(engine, store))
    path = mail_db(engine, account) if name == "account" else engine.home / f"{name}.db"
    db = files.open_file(path, checkpoint_on_close=True)
    db.pragma("user_version", 99)
    db.close()

    async def story(store: Store) -> None:
        await store.mailboxes.list(account)

    with pytest.raises(Trouble, match="newer pillarbox"):
        engine.run(story)


def test_an_interrupted_migration_goes_on_case_038(tmp_path: Path) -> None:
    files.load_checksums()
    made: list[int] = []

    def second(db: files.Db) -> None:
        made.append(2)
        db.execute("CREATE TABLE b(x)")
        if len(made) == 1:
            raise apsw.FullError("disk full")

    old = migrate.Schema("test", ("CREATE TABLE a(x)",))
    new = migrate.Schema("test", ("CREATE TABLE a(x)", second, "CREATE TABLE c(x)"))
    files.create_file(tmp_path / "test.db", lambda db: migrate.create(db, old))
    for attempt in range(3):
        db = files.open_file(tmp_path / "test.db")
        if attempt == 0:
            with pytest.raises(apsw.FullError):
                migrate.migrate(db, new)
            assert db.pragma("user_version") == 1
        else:
            migrate.migrate(db, new)
            assert db.pragma("user_version") == 3
        db.close()
    assert made == [2, 2]


def test_files_that_are_not_as_they_have_to_be_are_refused_case_008(engine: Engine) -> None:
    db = apsw.Connection(str(engine.home / "spool.db"), vfs=files.VFS)
    db.pragma("journal_mode", "delete")
    db.close()
    with pytest.raises(Trouble, match="journal_mode"):
        engine.run(_nothing)
    plain = engine.home / "directory.db"
    plain.unlink()
    db = apsw.Connection(str(plain), vfs="unix")
    db.pragma("journal_mode", "wal")
    db.close()
    with pytest.raises(Trouble):
        engine.run(_nothing)


@pytest.mark.parametrize("name", ["spool", "directory"])
@pytest.mark.parametrize(("where", "why"), [("pages", "checksum"), ("header", "file is not a database")])
def test_a_damaged_database_is_called_so(engine: Engine, name: str, where: str, why: str) -> None:
    engine.run(lambda store: filled(engine, store))
    path = engine.home / f"{name}.db"
    folded(path)
    for offset in [0] if where == "header" else range(4096, path.stat().st_size, 4096):
        garble(path, offset)

    async def story(store: Store) -> None:
        await store.directory.domains()
        await store.directory.accounts()
        await store.spool.trace("x")
        await store.spool.peek(Selection())

    with pytest.raises(Trouble, match=rf"{name}\.db is damaged \({why}\); restore it from a backup"):
        engine.run(story)


async def _nothing(store: Store) -> None:
    return


def test_a_home_is_made_once(engine: Engine, tmp_path: Path) -> None:
    engine.run(lambda store: store.directory.add_domain("pillarbox.test"))
    init_home(engine.home)
    assert engine.run(lambda store: store.directory.domains()) == ["pillarbox.test"]
    engine.home = tmp_path / "elsewhere"
    with pytest.raises(Trouble, match="init"):
        engine.run(_nothing)


def _fill_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[], None]:
    """SQLite's own limit on a file's pages stands for a full disk; the returned function makes room."""
    opened: list[apsw.Connection] = []
    real = files.open_file

    def limited(path: Path, **options: bool) -> apsw.Connection:
        db = real(path, **options)
        if path.name == name and not room:
            db.pragma("max_page_count", db.pragma("page_count"))
        opened.append(db)
        return db

    room: list[int] = []
    for module in ("base", "accounts"):
        monkeypatch.setattr(f"pillarbox.store.sqlite.{module}.open_file", limited)

    def make_room() -> None:
        room.append(1)

    return make_room


def test_a_full_disk_is_temporary_case_011(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def begin(store: Store) -> None:
        message = engine.message()
        await store.spool.accept(message, [engine.job(message, Target("remote", "x.test"))])

    engine.run(begin)
    make_room = _fill_disk(monkeypatch, "spool.db")

    async def story(store: Store) -> None:
        assert (engine.home / "reserve").exists()
        message = engine.message(os.urandom(100_000))
        with pytest.raises(StoreFull):
            await store.spool.accept(message, [engine.job(message, Target("remote", "x.test"))])
        assert not (engine.home / "reserve").exists()
        [claim] = await store.spool.claim(10, engine.clock.now())  # the queue still drains
        await store.spool.settle([Settlement(claim.job.id, claim.token, Delivered())])
        make_room()
        await store.checkpoint()
        assert (engine.home / "reserve").exists()

    engine.run(story)
    engine.run(begin)


def test_room_for_new_mail_cases_012_013(engine: Engine) -> None:
    gib = 1 << 30
    assert Space(100 * gib, 1000 * gib, 10**6, 10**7).is_enough(50 << 20)
    assert not Space(90 << 20, gib, 10**6, 10**7).is_enough(50 << 20)
    assert not Space(gib // 2, 100 * gib, 10**6, 10**7).is_enough(50 << 20)
    assert not Space(100 * gib, 1000 * gib, 3, 10**7).is_enough(50 << 20)
    assert Space(100 * gib, 1000 * gib, 0, 0).is_enough(50 << 20)  # a file system without inodes to count
    assert space_left(engine.home).total_octets > 0


def test_a_content_of_a_row_is_checked_too(engine: Engine) -> None:
    async def story(store: Store) -> None:
        with pytest.raises(DamagedMessage):
            await store.blobs.read(Content(b"\0" * 32, 3, b"abc"))

    engine.run(story)
