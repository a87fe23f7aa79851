"""Every transcript in tests/transcripts/imap, against the whole server."""

from pathlib import Path

import pytest

from .imap_transcripts import play_transcript
from .imap_world import World, play

FOLDER = Path(__file__).parents[1] / "transcripts" / "imap"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await play_transcript(path, world)

    play(tmp_path, story)
