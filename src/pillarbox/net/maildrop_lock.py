"""One POP3 session at a time per mailbox, whatever process it is in: a lock file each, held by `flock`.

The kernel lets go of it when the process dies, so no lock is ever stale (case 192). Source: RFC 1939 §4.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from pillarbox.model.ids import AccountId


class MaildropLock:
    """A lock that is held until `release`."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others have it. Harmless if called again."""
        if self._descriptor >= 0:
            # removed while held: whoever opened the file meanwhile finds it unlinked, and opens a new one
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


class MaildropLocks:
    """Locks of the accounts of one home."""

    def __init__(self, run: Path) -> None:
        """`run` is the home's folder for such things; a folder `pop3` is made in it (mode 700). Raises OSError."""
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = run / "pop3"  # of their own: who watches `run` for other processes is not disturbed
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def take(self, account: AccountId) -> MaildropLock | None:
        """The account's lock, or None if another session holds it. Never waits. Raises OSError."""
        path = self._folder / f"{account}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError:
                os.close(descriptor)
                raise
            if os.fstat(descriptor).st_nlink:
                return MaildropLock(path, descriptor)
            os.close(descriptor)  # its holder removed it between our open and our lock
