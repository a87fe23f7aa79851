"""Turns of writers among processes, and signs of life, as byte ranges of one lock file. docs/decisions/turns.md.

A turn is two octets of the file: "next" and "now". The ranges belong to the open file description, so two stores
opened in one process exclude each other as two processes do; within one store a database has one writing lane.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from pathlib import Path
from typing import Final

from pillarbox.model.errors import Trouble
from pillarbox.model.ids import AccountId

_FLOCK: Final = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid of Linux's struct flock
_SET: Final = fcntl.F_OFD_SETLK
_GET: Final = fcntl.F_OFD_GETLK
WAIT_S: Final = 10.0

SPOOL: Final = 0
DIRECTORY: Final = 2
_ACCOUNTS: Final = 1 << 32
_HOLDERS: Final = 1 << 62


def account_slot(account: AccountId) -> int:
    """The slot of an account's file: from the last 60 bits of its id, which are random."""
    return _ACCOUNTS + 2 * int(account.translate(_DIGITS)[-12:], 32)


_DIGITS: Final = str.maketrans("0123456789abcdefghjkmnpqrstvwxyz", "0123456789abcdefghijklmnopqrstuv")


class Turns:
    """The lock file, opened for one store."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Give up every turn and sign of life."""
        os.close(self._fd)

    def take(self, slot: int, wait_s: float = WAIT_S) -> None:
        """Wait for the turn of a slot. In a thread. Raises Trouble after `wait_s`."""
        if self._lock(slot):
            if self._lock(slot + 1):
                self._unlock(slot)
                return
            queued = True
        else:
            queued = False
        deadline, pause = time.monotonic() + wait_s, 0.0001
        try:
            while True:
                if not queued:
                    queued = self._lock(slot)
                if queued and self._lock(slot + 1):
                    return
                if time.monotonic() > deadline:
                    raise Trouble(f"turn {slot} did not come within {wait_s:g} s")
                time.sleep(pause)
                pause = min(pause * 1.5, 0.002)
        finally:
            if queued:
                self._unlock(slot)

    def try_take(self, slot: int) -> bool:
        """Take the turn of a slot if it is free and nobody waits for it. Never waits."""
        try:
            if not self._lock(slot, 2):
                return False
            self._unlock(slot)
        except OSError:  # whoever waits for it in a thread meets the same error, and tells
            return False
        return True

    def leave(self, slot: int) -> None:
        """End the turn. Where even that fails, we still have it, and the end of our next one ends it; what was
        committed stays so, and must not be told otherwise."""
        with contextlib.suppress(OSError):
            self._unlock(slot + 1)

    def live(self, holder: int) -> None:
        """Show that this holder lives, until `close` or the end of the process."""
        if not self._lock(_HOLDERS + holder):
            raise Trouble(f"holder {holder} lives already")

    def lives(self, holder: int) -> bool:
        """Does another store's holder live?"""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _HOLDERS + holder, 1, 0)
        found = fcntl.fcntl(self._fd, _GET, asked)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def _lock(self, at: int, octets: int = 1) -> bool:
        try:
            fcntl.fcntl(self._fd, _SET, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, octets, 0))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, at: int) -> None:
        fcntl.fcntl(self._fd, _SET, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, at, 1, 0))
