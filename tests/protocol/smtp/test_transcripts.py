"""Every file in `transcripts/`, played against the server core."""

from __future__ import annotations

from pathlib import Path

import pytest

from .play import play

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    play(path)
