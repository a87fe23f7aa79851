"""How IMAP sessions end while something is being done; when ready answers go out. RFC 3501 §5.5, §7.1.5; case 191."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pillarbox.net.imap_connection import ENDING_S, KEEPALIVE_S, ImapConnection
from pillarbox.net.listen import bind_tcp

from .imap_world import World, play
from .test_imap_limits import settled


@contextmanager
def held(world: World) -> Iterator[asyncio.Event]:
    """STATUS waits for the event."""
    go_on, status = asyncio.Event(), world.store.mailboxes.status

    async def slow(*said: Any) -> Any:
        await go_on.wait()
        return await status(*said)

    world.store.mailboxes.status = slow  # type: ignore[method-assign]
    try:
        yield go_on
    finally:
        world.store.mailboxes.status = status  # type: ignore[method-assign]


def test_a_running_command_is_answered_before_the_bye(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada")
        with held(world) as go_on:
            client.send("a STATUS INBOX (MESSAGES)\r\nb NOOP\r\n")
            await settled(lambda: _only(world).task is not None)
            world.listener.end_sessions(world.accounts["ada"])
            world.listener.sweep()
            await asyncio.sleep(0.02)
            assert not client.reader.at_eof()
            go_on.set()
            said = await client.ended()
        assert said[0].startswith("* STATUS") and said[1].startswith("a OK")
        assert said[2].startswith("* BYE") and len(said) == 3  # what came after it is not begun
        await settled(lambda: not world.gate.sessions)

    play(tmp_path, story)


def test_a_command_that_does_not_end_is_not_waited_for(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada")
        with held(world):
            client.send("a STATUS INBOX (MESSAGES)\r\n")
            await settled(lambda: _only(world).task is not None)
            world.listener.end_sessions(world.accounts["ada"])
            world.clock.advance(ENDING_S + 1)
            world.listener.sweep()
            assert await client.ended() == []
            await settled(lambda: not world.gate.sessions)

    play(tmp_path, story)


def test_ready_answers_do_not_wait_for_a_slow_command(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada")
        with held(world) as go_on:
            client.send("a NOOP\r\nb CAPABILITY\r\nc STATUS INBOX (MESSAGES)\r\nd NOOP\r\n")
            assert (await client.line()).startswith("a OK")
            assert (await client.line()).startswith("* CAPABILITY")
            assert (await client.line()).startswith("b OK")
            go_on.set()
            assert (await client.until("d"))[-2].startswith("c OK")

    play(tmp_path, story)


def test_answers_to_quick_commands_go_out_together(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada")
        transport = _only(world)._transport
        writes: list[bytes] = []

        class Spy:
            def write(self, octets: bytes) -> None:
                writes.append(octets)
                transport.write(octets)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        _only(world)._transport = Spy()  # type: ignore[assignment]
        client.send("a NOOP\r\nb NOOP\r\nc NOOP\r\n")
        assert (await client.until("c"))[-1].startswith("c OK")
        assert len(writes) == 1

    play(tmp_path, story)


def test_case_191_the_kernel_looks_for_peers_that_vanished(tmp_path):
    """Silence for at most 10 minutes, then at most 5 probes a minute apart: gone within 35 minutes."""
    listening = bind_tcp("127.0.0.1", 0)
    with listening, socket.create_connection(listening.getsockname()):
        listening.setblocking(True)
        accepted, _ = listening.accept()
        with accepted:
            assert _vanished_after_s(accepted) <= 20 * 60
            assert 0 < accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 35 * 60 * 1000
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    async def story(world: World) -> None:
        await world.connect()
        accepted = _only(world)._transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert _vanished_after_s(accepted) <= 35 * 60
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_S

    play(tmp_path, story)


def _vanished_after_s(sock: Any) -> int:
    """How long a peer that says nothing and is not there any more keeps its connection."""
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle, every, count = (
        sock.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    return int(idle + every * count)


def _only(world: World) -> ImapConnection:
    [connection] = world.listener.sessions
    return connection
