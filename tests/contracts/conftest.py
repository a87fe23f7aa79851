"""The contract suite runs on every engine: a new one adds itself to ENGINES."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pillarbox.store.sqlite.engine import init_home

from .engines import Engine

ENGINES = ("sqlite",)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    home = tmp_path / "home"
    init_home(home)
    yield Engine(request.param, home)
