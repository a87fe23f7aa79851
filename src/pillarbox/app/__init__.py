"""The composition root: settings, then a store, then those who decide, then those who listen; and the entry point.

Only here the storage engine has a name. Imports are made where they are needed: `pillarbox version` must be quick,
and a command that adds a user needs no IMAP.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pillarbox.cli.main import main as run_command
from pillarbox.cli.program import Opened

if TYPE_CHECKING:
    from pillarbox.model.settings import Settings


class Pillarbox:
    """Implements `cli.program.Program`."""

    @asynccontextmanager
    async def opened(self, home: Path, settings: Settings) -> AsyncIterator[Opened]:
        """The store for one command; signals are only sent."""
        from pillarbox.net.clock import SystemClock
        from pillarbox.net.signals import LocalSignals
        from pillarbox.store.sqlite.engine import open_store

        signals = LocalSignals(home / "run")
        try:
            store = await open_store(home, signals=signals, settings=settings, clock=SystemClock(), role="command")
            try:
                yield Opened(store, signals, settings)
            finally:
                await store.close()
        finally:
            signals.close()

    def make_home(self, home: Path) -> bool:
        """Make the folders and databases of a home; what is there stays. True if a database was made."""
        from pillarbox.store.sqlite.engine import init_home

        return init_home(home)

    def serve(self, home: Path, config: Path, *, say: str = "") -> int:
        """Run the server in the foreground until it is told to stop; the exit code."""
        from pillarbox.app.server import Server

        return Server(home, config, say).run()


def main() -> int:
    """The program `pillarbox`."""
    return run_command(Pillarbox(), sys.argv[1:])
