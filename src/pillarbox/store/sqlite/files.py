"""Opening SQLite files as docs/store.md wants them, and what their errors mean.

WAL, synchronous=FULL, no mmap, checksums on every page; set by pragma and read back. A file that is not so is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import apsw
import apsw.sqlite_extra

from pillarbox.model.errors import AccountUnavailable, PillarboxError, StoreFull, Trouble
from pillarbox.store.blobs.pool import system_trouble

Db: TypeAlias = Any
"""An `apsw.Connection`. Any, since its rows are tuples of whatever the columns hold."""

T = TypeVar("T")
VFS: Final = "cksmvfs"
RESERVED_OCTETS: Final = 8
BUSY_MS: Final = 5000
_FULL: Final = 2
_NO_MMAP: Final = "DEFAULT_MMAP_SIZE=0" in apsw.compile_options
_loading = threading.Lock()
_loaded = False

DAMAGE: Final = (apsw.CorruptError, apsw.NotADBError, apsw.IOError, apsw.CantOpenError)


def load_checksums() -> None:
    """Register SQLite's checksum VFS, once in a process. Raises Trouble if this apsw has none."""
    global _loaded
    with _loading:
        if _loaded:
            return
        memory = apsw.Connection(":memory:")
        try:
            apsw.sqlite_extra.load(memory, "cksumvfs")
        except Exception as error:
            raise Trouble(f"this apsw has no checksum VFS: {error}") from error
        finally:
            memory.close()
        if VFS not in apsw.vfs_names():
            raise Trouble("the checksum VFS did not register")
        _loaded = True


def create_file(path: Path, schema: Callable[[apsw.Connection], None]) -> None:
    """Make a database that nobody else knows of yet; the caller fsyncs the file and moves it to its place."""
    db = apsw.Connection(str(path), vfs=VFS)
    try:
        db.pragma("page_size", 4096)
        db.reserve_bytes(None, RESERVED_OCTETS)
        db.pragma("journal_mode", "off")
        db.pragma("synchronous", "off")
        with db:
            schema(db)
        db.pragma("journal_mode", "wal")
    finally:
        db.close()


def open_file(path: Path, *, checkpoint_on_close: bool = False, cache_statements: int = 60) -> apsw.Connection:
    """Open an existing database. Raises apsw errors as they come; Trouble if it is not as it has to be."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
    db = apsw.Connection(str(path), flags=flags, vfs=VFS, statementcachesize=cache_statements)
    try:
        db.set_busy_timeout(BUSY_MS)
        if not checkpoint_on_close:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        mode, synchronous = db.pragma("journal_mode"), db.pragma("synchronous")
        if synchronous != _FULL:
            db.pragma("synchronous", _FULL)
            synchronous = db.pragma("synchronous")
        if mode != "wal" or synchronous != _FULL:
            raise Trouble(f"{path}: journal_mode is {mode}, synchronous is {synchronous}; must be wal and {_FULL}")
        if not _NO_MMAP and db.pragma("mmap_size", 0):
            raise Trouble(f"{path}: mmap cannot be turned off")
        if db.reserve_bytes(None) != RESERVED_OCTETS:
            raise Trouble(f"{path}: its pages have no checksums")
        db.wal_autocheckpoint(0)
    except BaseException:
        db.close()
        raise
    return db


def at_one_moment(db: Db, verb: Callable[[Db], T]) -> T:
    """Run a verb that only reads, all of it on one state of the file."""
    db.execute("BEGIN")
    try:
        return verb(db)
    finally:
        if db.in_transaction:
            db.execute("COMMIT")


def as_trouble(error: BaseException, what: str, account: bool = False) -> BaseException:
    """What an error from SQLite or the system means to callers: StoreFull, AccountUnavailable or Trouble.

    What was raised on purpose, and what nobody foresaw, is returned as it is.
    """
    if isinstance(error, PillarboxError) or not isinstance(error, (apsw.Error, OSError)):
        return error
    text = f"{what}: {type(error).__name__}: {error}"
    if damage := _damage(error):
        text = f"{what} is damaged ({damage}); restore it from a backup"
    meant: PillarboxError
    if isinstance(error, OSError):
        meant = system_trouble(error, what)
    elif isinstance(error, apsw.FullError):
        meant = StoreFull(text)
    elif account and isinstance(error, DAMAGE):
        meant = AccountUnavailable(text)
    else:
        meant = Trouble(text)
    meant.__cause__ = error
    return meant


def _damage(error: BaseException) -> str:
    """What shows that the file itself is damaged, not the way to it; empty where nothing does."""
    if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return "checksum"  # the VFS that looks at them found it wrong
    return str(error) if isinstance(error, (apsw.CorruptError, apsw.NotADBError)) else ""
