"""A search costs nobody anything once its client has gone. Case 171."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from pillarbox.protocol.imap import search

from .imap_world import World, play, sample
from .test_imap_limits import settled


def test_case_171_a_search_ends_when_its_client_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, gone = threading.Event(), threading.Event()
    looked_at: list[int] = []

    def slow(batch: search.Batch, index: int, *rest: object) -> bool:
        looked_at.append(index)
        began.set()
        gone.wait(30)
        return False

    monkeypatch.setattr(search, "_in_text", slow)

    async def story(world: World) -> None:
        await world.file(*map(sample, range(300)))
        client, other = await world.connect("ada", "INBOX"), await world.connect("ada", "INBOX")
        client.send('a SEARCH TEXT "hello"\r\n')
        await settled(began.is_set)
        assert (await other.command("NOOP"))[-1].startswith("t3 OK")  # it runs beside the others
        client.writer.close()
        await settled(lambda: len(world.listener.sessions) == 1)
        gone.set()
        await asyncio.wrap_future(world.listener.service.searches.submit(int))  # the threads are free again
        await asyncio.wrap_future(world.listener.service.searches.submit(int))
        await settled(lambda: world.listener.service.searches._work_queue.empty())
        assert len(looked_at) <= 2

    play(tmp_path, story)
