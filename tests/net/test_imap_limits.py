"""Bad and hungry clients against the whole IMAP server. Cases 52 to 57, 163 to 187, 191, 196; LIMITS."""

from __future__ import annotations

import asyncio
import dataclasses
import socket

from pillarbox.model.errors import Refused
from pillarbox.model.settings import Limits
from pillarbox.model.status import Status

from .imap_world import World, play, sample

BIG = b"Subject: big\r\n\r\n" + b"x" * 70 + b"\r\n"


def connection(world: World, index: int = 0):
    """The server's side of a session."""
    return sorted(world.listener.sessions, key=lambda c: c._transport.get_extra_info("peername")[1])[index]


async def settled(condition, turns: int = 2000) -> None:
    """Let the loop turn until `condition` holds."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came")


def test_case_054_no_password_without_tls(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect()
        assert "LOGINDISABLED" in client.greeting and "AUTH=" not in client.greeting
        assert (await client.command("AUTHENTICATE PLAIN AGFkYQBzZWNyZXQ="))[-1].startswith("t1 NO [PRIVACYREQUIRED]")

    play(tmp_path, story, cleartext=False)


def test_case_187_plain_password_before_tls(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect()
        assert (await client.command("LOGIN ada secret"))[-1].startswith("t1 NO [PRIVACYREQUIRED]")
        assert world.logins.asked == []

    play(tmp_path, story, cleartext=False)


def test_case_055_login_twice(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada")
        assert (await client.command("AUTHENTICATE PLAIN AGFkYQBzZWNyZXQ="))[-1].startswith("t2 BAD")

    play(tmp_path, story)


def test_case_056_broken_base64(tmp_path):
    async def story(world: World) -> None:
        other = await world.connect("bob")
        for answer in ("AAAA=", "A" * 12_000, "=", "\x80", ""):
            client = await world.connect()
            client.send("a AUTHENTICATE PLAIN\r\n")
            assert (await client.line()).startswith("+")
            client.send(answer + "\r\n")
            assert (await client.line()).startswith(("a BAD", "a NO [AUTHENTICATIONFAILED]"))
        assert (await other.command("NOOP"))[-1].startswith("t2 OK")

    play(tmp_path, story)


def test_case_057_gone_in_mid_exchange(tmp_path):
    async def story(world: World) -> None:
        for _ in range(50):
            client = await world.connect()
            client.send("a AUTHENTICATE PLAIN\r\n")
            await client.line()
            client.writer.close()
        await settled(lambda: not world.listener.sessions)
        assert world.gate.sessions == []

    play(tmp_path, story)


def test_case_163_large_literals_before_login(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect()
        assert (await client.command("LOGIN {2000000000}"))[-1].startswith("t1 NO [TOOBIG]")
        client.send(b"b LOGIN {2000000000+}\r\n" + b"x" * 1_000_000)
        said = await client.ended()
        assert said[0].startswith("b NO [TOOBIG]") and said[1].startswith("* BYE")

    play(tmp_path, story)


def test_case_165_nothing_but_parentheses(tmp_path):
    async def story(world: World) -> None:
        clients = [await world.connect() for _ in range(30)]
        for client in clients:
            client.send(b"a NOOP " + b"(" * 4000)
        await settled(lambda: all(c.session.core.buffered == 4007 for c in world.listener.sessions))
        for client in clients:
            client.send(b"\r\n")
            assert (await client.line()).startswith("a BAD")

    play(tmp_path, story)


def test_case_166_a_refused_message_is_skipped(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada")
        client.send(b"a APPEND Nowhere {3000+}\r\n" + b"x" * 3000 + b"\r\nb NOOP\r\n")
        assert (await client.line()).startswith("a NO [TRYCREATE]")
        assert (await client.line()).startswith("b OK")

    play(tmp_path, story)


def test_case_167_a_message_that_does_not_come(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada")
        client.send(b"a APPEND INBOX {200000}\r\n")
        assert (await client.line()).startswith("+")
        client.send(b"x" * 150_000)
        await settled(lambda: connection(world).session.core.buffered == 0 and connection(world).task is None)
        world.clock.advance(59)
        world.listener.sweep()
        client.send(b"x")
        await settled(lambda: connection(world)._heard_s == world.clock.monotonic())
        world.clock.advance(59)
        world.listener.sweep()
        assert not client.reader.at_eof()
        world.clock.advance(2)
        world.listener.sweep()
        assert (await client.ended())[-1].startswith("* BYE")
        await settled(lambda: not world.listener.sessions)
        assert not list((tmp_path / "home" / "tmp").iterdir())
        assert world.listener.service.appends == {}

    play(tmp_path, story)


def test_case_168_many_large_messages_at_once(tmp_path):
    async def story(world: World) -> None:
        clients = [await world.connect("ada") for _ in range(5)]
        answers = []
        for client in clients:
            client.send(b"a APPEND INBOX {200000}\r\n")
            answers.append((await client.line())[:10])
        assert [a[0] for a in answers] == ["+"] * 4 + ["a"] and answers[4] == "a NO [INUS"
        other = await world.connect("bob")
        other.send(b"a APPEND INBOX {200000}\r\n")
        assert (await other.line()).startswith("+")
        clients[0].send(BIG + b"x" * (200_000 - len(BIG)) + b"\r\n")
        assert (await clients[0].until("a"))[-1].startswith("a OK [APPENDUID")
        clients[4].send(b"b APPEND INBOX {200000}\r\n")
        assert (await clients[4].line()).startswith("+")

    play(tmp_path, story)


def test_case_169_a_reader_that_stops(tmp_path):
    async def story(world: World) -> None:
        message = b"Subject: x\r\n\r\n" + b"0123456789abcde\r\n" * 1000
        await world.file(*[message] * 300)
        client = await world.connect("ada", "INBOX")
        transport = connection(world)._transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        client.writer.transport.pause_reading()
        client.send("a FETCH 1:* BODY.PEEK[]\r\n")
        await settled(lambda: connection(world)._paused_s is not None)
        assert transport.get_write_buffer_size() <= 256 * 1024
        other = await world.connect("ada", "INBOX")
        assert (await other.command("STORE 1 +FLAGS (\\Seen)"))[-1].startswith("t3 OK")
        assert (await other.command("FETCH 300 BODY[]"))[-1].startswith("t4 OK")
        assert transport.get_write_buffer_size() <= 256 * 1024
        world.clock.advance(30)
        world.listener.sweep()
        client.writer.transport.resume_reading()
        assert sum("BODY[]" in line for line in await client.until("a")) == 300
        # and if it stays so, it is cut off
        client.writer.transport.pause_reading()
        client.send("b FETCH 1:* BODY.PEEK[]\r\n")
        await settled(lambda: any(c._paused_s is not None for c in world.listener.sessions))
        world.clock.advance(61)
        world.listener.sweep()
        await settled(lambda: len(world.listener.sessions) == 1)

    play(tmp_path, story)


def test_large_messages_are_streamed(tmp_path):
    async def story(world: World) -> None:
        body = b"".join(b"line %07d\r\n" % n for n in range(150_000))
        message = b"Subject: large\r\nX-Other: y\r\n\r\n" + body
        await world.file(sample(1), message)
        client = await world.connect("ada", "INBOX")
        (line, done) = await client.command("FETCH 2 (UID BODY.PEEK[] BODY.PEEK[HEADER.FIELDS (X-Other)])")
        assert line.startswith(f"* 2 FETCH (UID 2 BODY[] {{{len(message)}}}Subject: large")
        assert line.endswith("line 0149999\\r\\n BODY[HEADER.FIELDS (X-Other)] {14}X-Other: y\\r\\n\\r\\n)")
        (line, done) = await client.command("FETCH 2 BODY.PEEK[TEXT]<1400000.70>")
        assert (
            line
            == "* 2 FETCH (BODY[TEXT]<1400000> {70}" + body[1400000:1400070].decode().replace("\r\n", "\\r\\n") + ")"
        )
        assert (await client.command("SEARCH BODY 0149999"))[0] == "* SEARCH 2"
        assert done

    play(tmp_path, story)


def test_case_027_a_damaged_message_alone_is_refused(tmp_path):
    async def story(world: World) -> None:
        message = b"Subject: large\r\n\r\n" + b"line %07d\r\n" * 20_000
        await world.file(sample(1), message, sample(3))
        for path in (tmp_path / "home").rglob("blobs/**/*"):
            if path.is_file():
                path.chmod(0o600)
                octets = bytearray(path.read_bytes())
                octets[100:140] = b"\xff" * 40
                path.write_bytes(octets)
        client = await world.connect("ada", "INBOX")
        said = await client.command("FETCH 1:3 (UID BODY.PEEK[])")
        assert [line[:12] for line in said] == ["* 1 FETCH (U", "* 3 FETCH (U", "t3 NO [SERVE"]
        assert (await client.command("FETCH 2 (UID ENVELOPE)"))[-1].startswith("t4 OK")

    play(tmp_path, story)


def test_case_175_too_many_mailboxes(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada")
        answers = [(await client.command(f"CREATE box{n}"))[-1] for n in range(10)]
        assert " OK " in answers[0] and " NO [LIMIT]" in answers[-1]

    play(tmp_path, story, limits=Limits(mailboxes=10))


def test_case_173_odd_names_are_refused_or_only_names(tmp_path):
    """Names of mailboxes never become names of files."""

    def files() -> set[str]:
        return {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if "dirty" not in p.parts}

    async def story(world: World) -> None:
        client = await world.connect("ada")
        await client.command("CREATE first")
        before = files()
        for name in (
            "../x",
            '"a//b"',
            "a/../b",
            '"' + "x" * 10_000 + '"',
            "/".join("d" * 1000),
            '"/x"',
            "~",
            "#news/a",
        ):
            answer = (await client.command(f"CREATE {name}"))[-1].partition(" ")[2]
            assert answer.startswith(("NO [CANNOT]", "OK")), (name, answer)
        assert files() == before

    play(tmp_path, story)


def test_case_176_mailboxes_of_others_are_not_there(tmp_path):
    """There is no way to name them: what looks like one answers as any absent name does."""

    async def story(world: World) -> None:
        bob = await world.connect("bob")
        await bob.command("CREATE Secret")
        ada = await world.connect("ada", "INBOX")
        for command in ("SELECT {}", "STATUS {} (MESSAGES)", "DELETE {}", "RENAME {} x"):
            answers = []
            for name in ("Secret", "bob/Secret", "user/bob/Secret", "Absent"):
                answers.append((await ada.command(command.format(name)))[-1].partition(" ")[2])
            assert set(answers) == {"NO [NONEXISTENT] No such mailbox."}
        assert (await ada.command('LIST "" *ecret'))[:-1] == []

    play(tmp_path, story)


def test_case_181_id_is_bounded(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect()
        assert (await client.command('ID ("a" {1025+}\r\n' + "x" * 1025 + ")"))[-1].startswith("t1 BAD")
        assert (await client.command('ID ("a" {4+}\r\nx\r\ny)'))[-1].startswith("t2 OK")

    play(tmp_path, story)


def test_case_182_too_busy_to_check(tmp_path):
    async def story(world: World) -> None:
        world.logins.refusal = Refused(Status(4, 3, 2), "login-queue")
        client = await world.connect()
        assert (await client.command("LOGIN ada secret"))[-1].startswith("t1 NO [UNAVAILABLE]")
        world.logins.refusal = None
        assert (await client.command("LOGIN ada secret"))[-1].startswith("t2 OK")

    play(tmp_path, story)


def test_case_185_odd_passwords(tmp_path):
    async def story(world: World) -> None:
        for arguments in (
            b"ada {1000000+}\r\n" + b"x" * 1_000_000,
            b"ada {5+}\r\nse\0cr",
            b"ada " + b"x" * 1025,
            b"{3+}\r\n\xff\xfe\xfd x",
        ):
            client = await world.connect()
            client.send(b"a LOGIN " + arguments + b"\r\n")
            assert (await client.line()).startswith(("a NO [AUTHENTICATIONFAILED]", "a NO [TOOBIG]"))
        assert all(len(password) <= 1 for _, password in world.logins.asked)

    play(tmp_path, story)


def test_case_191_timeouts(tmp_path):
    async def story(world: World) -> None:
        fresh = await world.connect()
        idle = await world.connect("ada", "INBOX")
        idle.send("a IDLE\r\n")
        assert (await idle.line()).startswith("+")
        world.clock.advance(61)
        world.listener.sweep()
        assert (await fresh.ended())[-1].startswith("* BYE")
        world.clock.advance(1800 - 61)
        world.listener.sweep()
        await settled(lambda: len(world.listener.sessions) == 1)
        assert not idle.reader.at_eof()
        world.clock.advance(2)
        world.listener.sweep()
        assert (await idle.ended())[-1].startswith("* BYE")
        await settled(lambda: not world.listener.sessions)
        assert world.gate.sessions == []

    play(tmp_path, story)


def test_a_client_that_says_a_letter_a_minute_does_not_stay(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect()
        for _ in range(3):
            client.send("x")
            await asyncio.sleep(0.01)
            world.clock.advance(25)
            world.listener.sweep()
        assert (await client.ended())[-1].startswith("* BYE")

    play(tmp_path, story)


def test_sessions_are_admitted_by_the_gate(tmp_path):
    async def story(world: World) -> None:
        world.gate.most = 1
        client = await world.connect()
        second = await world.connect()
        assert second.greeting.startswith("* BYE") and await second.ended() == []
        world.gate.most_logins = 0
        said = await client.command("LOGIN ada secret")
        assert said[-1].startswith("t1 NO [LIMIT]")
        assert (await client.ended())[0].startswith("* BYE")
        await settled(lambda: not world.gate.sessions)

    play(tmp_path, story)


def test_a_lost_signal_is_made_up_for_each_minute(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada", "INBOX")
        client.send("a IDLE\r\n")
        await client.line()
        world.listener.service.signals.waiting.clear()
        await world.file(sample(1))
        world.clock.advance(61)
        world.listener.sweep()
        assert await client.line() == "* 1 EXISTS"

    play(tmp_path, story)


def test_sessions_of_a_closed_account_end(tmp_path):
    async def story(world: World) -> None:
        ada, bob = await world.connect("ada", "INBOX"), await world.connect("bob")
        ada.send("a IDLE\r\n")
        await ada.line()
        await world.store.directory.set_state(world.accounts["ada"], "disabled", world.clock.now())
        world.listener.service.signals.publish("directory")
        assert (await ada.ended())[-1].startswith("* BYE")
        assert (await bob.command("NOOP"))[-1].startswith("t2 OK")
        world.listener.end_sessions(world.accounts["bob"])
        assert (await bob.ended())[-1].startswith("* BYE")

    play(tmp_path, story)


def test_sessions_of_a_closed_account_end_even_if_nobody_is_told(tmp_path):
    async def story(world: World) -> None:
        ada = await world.connect("ada", "INBOX")
        await world.store.directory.set_state(world.accounts["ada"], "disabled", world.clock.now())
        world.clock.advance(61)
        world.listener.sweep()
        assert (await ada.ended())[-1].startswith("* BYE")

    play(tmp_path, story)


def test_stopping_ends_what_is_in_progress(tmp_path):
    async def story(world: World) -> None:
        await world.file(*map(sample, range(300)))
        busy, idle = await world.connect("ada", "INBOX"), await world.connect("bob")
        busy.send("a FETCH 1:* BODY.PEEK[]\r\n")
        assert (await busy.line()).startswith("* 1 FETCH")
        await world.listener.stop(5.0)
        assert (await idle.ended())[-1].startswith("* BYE")
        said = await busy.ended()
        assert said[-2].startswith("a OK") and said[-1].startswith("* BYE")

    play(tmp_path, story)


def test_quota_at_append(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada")
        assert (await client.command("APPEND INBOX {2000}"))[-1].startswith("t2 NO [OVERQUOTA]")
        client.send(b"a APPEND INBOX {%d+}\r\n%b\r\n" % (len(BIG), BIG))
        assert (await client.line()).startswith("a OK")
        await client.command("SELECT INBOX")
        await client.command("COPY 1 Archive")
        said = [(await client.command("COPY 1 Archive"))[-1] for _ in range(12)]
        assert "NO [OVERQUOTA]" in said[-1]

    play(tmp_path, story, quota=1000)


def test_input_waits_while_a_command_runs(tmp_path):
    async def story(world: World) -> None:
        client = await world.connect("ada", "INBOX")
        client.send(b"".join(b"n%d NOOP\r\n" % n for n in range(20_000)))
        for n in range(20_000):
            assert (await client.line()).startswith(f"n{n} OK")
            if n % 1000 == 0:
                assert connection(world).session.core.buffered <= 65536 + 262144

    play(tmp_path, story)


def test_case_196_status_is_one_row(tmp_path):
    """STATUS asks the store for the row of counters, and for nothing else."""

    async def story(world: World) -> None:
        await world.file(*map(sample, range(50)))
        client = await world.connect("ada", "INBOX")
        mailboxes = world.listener.service.store.mailboxes
        asked = []

        class Watching:
            def __getattr__(self, name):
                asked.append(name)
                return getattr(mailboxes, name)

        world.listener.service.store = dataclasses.make_dataclass("Store", ["mailboxes"])(Watching())
        assert (await client.command("STATUS INBOX (MESSAGES UNSEEN UIDNEXT RECENT)"))[-1].startswith("t3 OK")
        assert asked == ["status", "modseq"] or asked == ["modseq", "status"]
        world.listener.service.store = world.store

    play(tmp_path, story)
