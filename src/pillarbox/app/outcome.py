"""How a reload ended, written for whoever asked for it: `pillarbox reload` waits for this file to change."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import structlog

from pillarbox.cli.service import OUTCOME_FILE

log = structlog.get_logger("server")


def tell_outcome(home: Path, began_ns: int, error: str, needs_restart: tuple[str, ...] = ()) -> None:
    """Write it, whole, and log what needs a restart. A disk that is full must not stop the server.

    `began_ns` (monotonic, which all processes of the machine share) is when the reload began: who asked later than that
    waits for the next one.
    """
    if needs_restart:
        log.warning("needs a restart", settings=", ".join(needs_restart))
    value = {"began_ns": began_ns, "ok": not error, "error": error, "needs_restart": needs_restart}
    path = home / OUTCOME_FILE
    with contextlib.suppress(OSError):
        new = path.with_suffix(".new")
        new.write_text(json.dumps(value))
        os.replace(new, path)
