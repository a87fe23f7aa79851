"""How a reload ended, written for whoever asked for it: `pillarbox reload` waits for this file to change."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import structlog

from pillarbox.cli.service import OUTCOME_FILE

log = structlog.get_logger("server")


def tell_outcome(home: Path, error: str, needs_restart: tuple[str, ...] = ()) -> None:
    """Write it, whole, and log what needs a restart. A disk that is full must not stop the server."""
    if needs_restart:
        log.warning("needs a restart", settings=", ".join(needs_restart))
    value = {"at": time.time_ns(), "ok": not error, "error": error, "needs_restart": needs_restart}
    path = home / OUTCOME_FILE
    with contextlib.suppress(OSError):
        new = path.with_suffix(".new")
        new.write_text(json.dumps(value))
        os.replace(new, path)
