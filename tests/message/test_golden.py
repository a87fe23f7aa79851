"""Mail from all over the world, lawful and broken: `name.json` says what readers are told of `name.eml`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .golden_view import view

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.eml")))
def test_message_is_read_as_written_down(name: str) -> None:
    octets = (GOLDEN / f"{name}.eml").read_bytes()
    assert view(octets) == json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))


def test_no_answer_without_a_message() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == {path.stem for path in GOLDEN.glob("*.eml")}
