"""Room on the disk: whether new mail may come in, and a reserve for the moment when there is none. Cases 11 to 13."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RESERVE_OCTETS: Final = 16 * 1024 * 1024
MIN_SHARE: Final = 0.02
MIN_INODES: Final = 1000


@dataclass(frozen=True, slots=True)
class Space:
    """What a file system has left for us, in octets and inodes; totals are 0 where it does not say."""

    free_octets: int
    total_octets: int
    free_inodes: int
    total_inodes: int

    def is_enough(self, message_octets: int) -> bool:
        """Is there room for new mail: twice the largest message, and 2 %? The 2 % are asked for up to 4 GiB."""
        share = min(int(self.total_octets * MIN_SHARE), 4 << 30)
        if self.free_octets < max(2 * message_octets, share):
            return False
        return not self.total_inodes or self.free_inodes >= min(MIN_INODES, self.total_inodes // 50)


def space_left(path: Path) -> Space:
    """Ask the file system that holds `path`."""
    status = os.statvfs(path)
    return Space(
        status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize, status.f_favail, status.f_files
    )  # fmt: skip


def make_reserve(home: Path) -> None:
    """Keep some room that is ours when the disk is full. Raises OSError."""
    path = home / "reserve"
    if path.exists():
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(handle, 0, RESERVE_OCTETS)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def release_reserve(home: Path) -> None:
    """Give the room to what must go on (settling, deleting)."""
    (home / "reserve").unlink(missing_ok=True)
