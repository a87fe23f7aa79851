"""The SQLite engine's own tests use the contract suite's Engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.engines import Engine
from pillarbox.store.sqlite.engine import init_home


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    home = tmp_path / "home"
    init_home(home)
    yield Engine("sqlite", home)
