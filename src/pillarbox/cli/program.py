"""What the commands need of the whole program, and only `app` can give: an open store, a home, a running server."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pillarbox.model.errors import PillarboxError

if TYPE_CHECKING:  # these take longer to load than `pillarbox version` may
    from pillarbox.model.settings import Settings
    from pillarbox.store.api import Signals, Store

OK = 0
USAGE = 64
DATA = 65
NO_INPUT = 66
NO_USER = 67
UNAVAILABLE = 69
SOFTWARE = 70
CANNOT_CREATE = 73
IO = 74
TEMPORARY = 75
NO_PERMISSION = 77
CONFIG = 78
"""Exit codes, as sysexits.h has them."""


class CommandError(PillarboxError):
    """A command cannot do what was asked; the text says what, why, and what to do. `code` is the exit code."""

    def __init__(self, text: str, code: int = USAGE) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command says: lines for people, the same as a value for `--json`, and the exit code."""

    lines: tuple[str, ...] = ()
    value: Any = None
    code: int = OK


@dataclass(frozen=True, slots=True)
class Opened:
    """A store that a command opened, and how to wake the server."""

    store: Store
    signals: Signals
    settings: Settings


class Program(Protocol):
    """The program around the commands."""

    def opened(self, home: Path, settings: Settings) -> AbstractAsyncContextManager[Opened]:
        """The store of this home, for one command."""

    def make_home(self, home: Path) -> bool:
        """Make the folders and databases of a home; what is there stays. True if a database was made. Raises
        Trouble."""

    def serve(self, home: Path, config: Path, *, say: str = "") -> int:
        """Run the server in the foreground until it is told to stop; the exit code. `say` is printed once it is
        ready. Raises CommandError, ConfigError."""


def config_path(home: Path, given: str) -> Path:
    """The configuration file: as given, else in the home."""
    return Path(given) if given else home / "pillarbox.toml"
