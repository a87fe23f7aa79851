"""IMAP against a real server. Cases 52, 163–196 as far as they are about it."""

from __future__ import annotations

import contextlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .world import DOMAIN, PASSWORD, Line, World, fresh_source, messages, until, wait_for

TEXT = b"From: carl@x.example\r\nSubject: one\r\n\r\nhello\r\n"
NAMES = ("../x", "a//b", "/a", "%", "*", "a*", "~", "~/x", "#news", "..", "x" * 10_000, "/".join("d" * 1000))


def append(line: Line, octets: bytes = TEXT, mailbox: str = "INBOX") -> str:
    """The tagged answer."""
    line.send(b"a APPEND %s {%d+}\r\n%s\r\n" % (mailbox.encode(), len(octets), octets))
    return line.until("a ")[-1]


def quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def answered(world: World, octets: bytes, port: str = "imap") -> tuple[list[str], bool]:
    """What a session that did not log in says to these octets and a NOOP; whether it then closed."""
    with world.imap(port) as line:
        with contextlib.suppress(ConnectionError):
            line.send(octets + b"\r\nz NOOP\r\n")
        lines = line.until("z ")
        return [text for text in lines[:-1]], lines[-1] == ""


def test_case_052_commands_behind_starttls_end_the_session(world: World) -> None:
    said, closed = answered(world, b"a STARTTLS\r\nb CAPABILITY")
    assert said[0].startswith("a BAD") and said[1].startswith("* BYE") and closed


def test_case_163_literals_before_login(world: World) -> None:
    assert answered(world, b"a LOGIN {2000000000}")[0][0].startswith("a NO [TOOBIG]")
    said, closed = answered(world, b"a LOGIN {2000000000+}")
    assert said[0].startswith("a NO [TOOBIG]") and said[1].startswith("* BYE") and closed


def test_case_164_a_hundred_thousand_literals_of_nothing(world: World) -> None:
    before = world.rss_kib()
    said, closed = answered(world, b"a LOGIN " + b"{0+}\r\n" * 1500)
    assert said[0].startswith("a BAD") and not closed
    said, closed = answered(world, b"a LOGIN " + b"{0+}\r\n" * 100_000)
    assert said[0].startswith("a BAD") and closed
    assert world.rss_kib() - before < 4096


def test_case_164_a_large_literal_is_read_to_its_end(world: World) -> None:
    with world.imap(user="ada") as line:
        line.imap("SELECT INBOX")
        line.send(b"a SEARCH TEXT {900000+}\r\n" + b"x" * 900_000 + b"\r\n")
        assert line.until("a ")[-1].startswith("a OK")


def test_case_165_deep_parentheses(world: World) -> None:
    with world.imap(user="ada") as line:
        line.imap("SELECT INBOX")
        assert line.imap("SEARCH " + "(" * 33 + "ALL" + ")" * 33)[-1].startswith("a BAD")
        assert line.imap("SEARCH " + "(" * 20 + "ALL" + ")" * 20)[-1].startswith("a OK")
    before = world.rss_kib()
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(world.imap()).send(b"a NOOP " + b"(" * 4000)
        assert world.rss_kib() - before < 200 * 40  # buffer, socket and session


def test_case_166_a_message_over_the_limit(world: World) -> None:
    with world.imap(user="ada") as line:
        assert line.imap("APPEND INBOX {52428801}")[-1].startswith("a NO [TOOBIG]")
        assert line.imap("NOOP")[-1].startswith("a OK")
        line.send(b"a APPEND INBOX {52428801+}\r\n")
        assert line.until("a ")[-1].startswith("a NO [TOOBIG]")


def test_case_167_what_a_broken_off_append_left_is_removed(world: World) -> None:
    folder = world.home / "tmp"
    with world.imap(user="eve") as watcher:
        with world.imap(user="eve") as line:
            line.imap("APPEND INBOX {3000000}")
            line.send(b"a" * 2_500_000)
            until(lambda: watcher.imap("NOOP") and list(folder.iterdir()))  # it is on disk
        until(lambda: watcher.imap("NOOP") and not list(folder.iterdir()))
        assert messages(watcher) == 0


def test_case_168_four_large_appends_of_an_account_at_once(world: World) -> None:
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(world.imap(user="eve")) for _ in range(6)]
        assert all(line.imap("APPEND INBOX {50000000}")[-1].startswith("+") for line in lines[:4])
        assert [line.imap("APPEND INBOX {50000000}")[-1][:12] for line in lines[4:]] == ["a NO [INUSE]"] * 2
        assert append(lines[5]).startswith("a OK")  # small ones go on


def test_case_169_a_reader_that_stops(world: World) -> None:
    with world.imap(user="bob") as line, world.imap(user="bob") as other:
        append(line, b"Subject: large\r\n\r\n" + b"x" * 70 * 100_000)
        line.imap("SELECT INBOX")
        before = world.rss_kib()
        line.send(b"a FETCH 1 (" + b"BODY.PEEK[] " * 50 + b"UID)\r\n")
        for _ in range(200):
            assert other.imap("STATUS INBOX (MESSAGES)")[-1].startswith("a OK")
        assert append(other).startswith("a OK")  # nothing is locked meanwhile
        assert world.rss_kib() - before < 16_000


def test_case_170_sequence_sets(world: World) -> None:
    with world.imap(user="ada") as line:
        append(line)
        line.imap("SELECT INBOX")
        for good in ("1", "*:*", "1:*", ",".join(["1:*"] * 9000), "1,*:1"):
            assert line.imap(f"FETCH {good} UID")[-1].startswith("a OK"), good
        assert line.imap("UID FETCH 1:4294967295 UID")[-1].startswith("a OK")
        with world.imap(user="ada") as second:
            second.imap("SELECT INBOX")
            for bad in ("0", "-1", "4294967296", "99999999999999999999", "1::2", ",1", "1,", "1:4294967295"):
                assert second.imap(f"FETCH {bad} UID")[-1].startswith("a BAD"), bad


def test_case_171_searches(world: World) -> None:
    with world.imap(user="ada") as line:
        line.imap("SELECT INBOX")
        for deep in ("OR ALL " * 5000 + "ALL", "NOT " * 5000 + "ALL", "(" * 5000):
            assert line.imap("SEARCH " + deep)[-1].startswith("a BAD")
        assert line.imap('SEARCH TEXT ""')[0] == "* SEARCH 1"
        assert line.imap('SEARCH TEXT "(h+)+$"')[0] == "* SEARCH"
        assert line.imap("SEARCH" + " BODY hello" * 5000)[-1].startswith("a NO [LIMIT]")
        assert line.imap("SEARCH" + " BODY hello" * 100)[0] == "* SEARCH 1"


def test_case_172_sections(world: World) -> None:
    with world.imap(user="ada") as line:
        line.imap("SELECT INBOX")
        assert line.imap("FETCH 1 BODY[" + "1." * 1000 + "1]")[-1].startswith("a BAD")
        assert f"{{{len(TEXT)}}}" in line.imap("FETCH 1 BODY.PEEK[]<0.9223372036854775808>")[0]


def test_case_173_names_of_mailboxes(world: World) -> None:
    with world.imap(user="ada") as line:
        for name in NAMES:
            assert line.imap(f"CREATE {quoted(name)}")[-1].startswith("a NO [CANNOT]"), name
        for name in ("&", "&AGE", "&2AA-"):
            assert line.imap(f"CREATE {name}")[-1].startswith("a NO"), name
        assert line.imap("CREATE iNbOx")[-1].startswith("a NO [ALREADYEXISTS]")
        assert line.imap("CREATE &AOk-")[-1].startswith("a OK")
        assert line.imap("CREATE e&AwE-")[-1].startswith("a NO [ALREADYEXISTS]")  # the same in another spelling
    names = [path.name for path in (world.home / "accounts").rglob("*")]
    assert all(re.fullmatch(r"[a-z0-9]{2}|[a-z0-9]{26}|blobs|mail\.db(-wal|-shm)?|[0-9a-f]{64}", n) for n in names)


def test_case_174_patterns(world: World) -> None:
    with world.imap(user="eve") as line:
        line.send(b"".join(b"b CREATE m%d\r\n" % number for number in range(500)))
        for _ in range(500):
            line.line()
        assert line.imap('LIST "" "' + "*%" * 50 + 'zz"')[-1].startswith("a OK")
        assert len(line.imap('LIST "" "' + "*m" * 1 + "%" * 5000 + '"')) == 501


def test_case_176_mailboxes_of_others_are_not_there(world: World) -> None:
    with world.imap(user="bob") as bob, world.imap(user="eve") as eve:
        bob.imap("CREATE secret")
        append(eve)
        eve.imap("SELECT INBOX")
        for command in ("SELECT {}", "EXAMINE {}", "STATUS {} (MESSAGES)", "COPY 1 {}", "MOVE 1 {}", "DELETE {}"):
            absent = eve.imap(command.format("nowhere"))
            for name in ("secret", f"user/bob@{DOMAIN}", f'"Other Users/bob@{DOMAIN}"', f"user.bob@{DOMAIN}.secret"):
                assert eve.imap(command.format(name)) == absent, (command, name)
            eve.imap("SELECT INBOX")
        assert "secret" not in "".join(eve.imap('LIST "" "*"') + eve.imap('LIST "" user/*') + eve.imap('LSUB "" "*"'))


def test_case_178_an_expunge_by_another_waits_for_its_time(world: World) -> None:
    with world.imap(user="bob") as one, world.imap(user="bob") as two:
        one.imap("CREATE shared")
        for _ in range(3):
            append(one, mailbox="shared")
        for line in (one, two):
            line.imap("SELECT shared")
        one.imap("STORE 2 +FLAGS.SILENT (\\Deleted)")
        assert "* 2 EXPUNGE" in one.imap("EXPUNGE")
        for command in ("FETCH 1:3 (FLAGS UID)", "STORE 1:3 +FLAGS (\\Flagged)", "SEARCH ALL"):
            assert not any("EXPUNGE" in text for text in two.imap(command) if text.startswith("*")), command
        assert two.imap("FETCH 2 BODY.PEEK[]")[-1].startswith(("a OK [EXPUNGEISSUED]", "a NO [EXPUNGEISSUED]"))
        assert "* 2 EXPUNGE" in two.imap("NOOP")


def test_case_180_no_compression_yet(world: World) -> None:
    with world.imap(user="ada") as line:
        assert not any("COMPRESS" in text for text in line.imap("CAPABILITY"))
        assert line.imap("COMPRESS DEFLATE")[-1].startswith("a BAD")


def test_case_181_id(world: World) -> None:
    said = [
        answered(world, b'a ID ("name" "' + b"x" * 1_000_000 + b'")')[0][0],
        answered(world, b"a ID (" + b" ".join(b'"k%d" "v"' % n for n in range(31)) + b")")[0][0],
        answered(world, b'a ID ("name" "' + b"x" * 1025 + b'")')[0][0],
    ]
    assert all(text.startswith("a BAD") for text in said)
    assert answered(world, b'a ID ("name" {8+}\r\na\r\n\x1b[2Jx)')[0][-1].startswith("a OK")
    assert "\x1b" not in world.logged()


def test_case_182_184_a_flood_of_wrong_logins_locks_nobody_out(world: World) -> None:
    known = fresh_source()
    with world.imap(user="ada", source=known) as line:
        line.imap("NOOP")
    flood = [world.imap() for _ in range(50)]
    for number, line in enumerate(flood):
        name = "ada" if number % 2 else "nobody"
        line.send(f"a LOGIN {name}@{DOMAIN} wrong{number}\r\n")
    with world.imap(user="ada", source=known) as line:  # while all of them wait
        assert line.imap("NOOP")[-1].startswith("a OK")
    with ThreadPoolExecutor(50) as pool:
        said = set(pool.map(lambda line: line.line(), flood))
    for line in flood:
        line.socket.close()
    assert said <= {
        "a NO [AUTHENTICATIONFAILED] Name or password is wrong.",
        next((text for text in said if text.startswith("a NO [UNAVAILABLE]")), ""),
    }


def test_case_185_186_names_and_passwords_that_are_none(world: World) -> None:
    logins = [f'LOGIN {quoted(name)} "{PASSWORD}"' for name in ("a*a@us.example", "%u", "' or 1", "../ada@us.example")]
    logins += [f'LOGIN ada@{DOMAIN} "{"p" * 1025}"', f'LOGIN {quoted(f"ada@{DOMAIN} ")} "{PASSWORD}"']
    lines = [world.imap() for _ in logins]
    for line, login in zip(lines, logins, strict=True):
        line.send(f"a {login}\r\n")
    for line in lines:
        assert line.line().startswith("a NO [AUTHENTICATIONFAILED]")
        line.socket.close()
    with world.imap() as line:
        assert line.imap(f'LOGIN ADA@{DOMAIN.upper()} "{PASSWORD}"')[-1].startswith("a OK")


def test_case_187_no_password_in_clear_text(world: World) -> None:
    with world.imap("imap-tls") as line:
        assert "LOGINDISABLED" in line.imap("CAPABILITY")[0]
        assert line.imap(f"LOGIN ada@{DOMAIN} hunter2")[-1].startswith("a NO [PRIVACYREQUIRED]")
        assert line.imap("AUTHENTICATE PLAIN AGFkYQBodW50ZXIy")[-1].startswith("a NO [PRIVACYREQUIRED]")
    assert "hunter2" not in world.logged() and "AGFkYQBodW50ZXIy" not in world.logged()


@pytest.mark.parametrize("mailbox", ["INBOX"])
def test_case_190_all_who_wait_hear_of_one_delivery(world: World, mailbox: str) -> None:
    before = 0
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(world.imap(user="ada")) for _ in range(80)]
        for line in waiting:
            line.imap(f"SELECT {mailbox}")
            line.send(b"a IDLE\r\n")
            line.until("+")
        before = messages(stack.enter_context(world.imap(user="ada")))
        world.deliver(b"From: x@x.example\r\nSubject: news\r\n\r\nx")
        for line in waiting:
            assert f"* {before + 1} EXISTS" in line.until(f"* {before + 1} EXISTS")


def test_case_191_the_kernel_looks_for_peers_that_vanished(world: World) -> None:
    with world.imap(user="ada") as line:
        client = line.socket.getsockname()[1]

        def is_watched() -> bool:
            rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            ends = [f":{world.port['imap']:04X}", f":{client:04X}"]
            ours = next(row for row in rows if [row[1][-5:], row[2][-5:]] == ends)
            kind, _, when = ours[5].partition(":")
            return kind == keep_alive and int(when, 16) <= 600 * 100

        keep_alive = "02"  # and "01" while what was said is not acknowledged; times in hundredths of a second
        until(is_watched)


def test_case_196_status_in_a_loop(world: World) -> None:
    with world.imap(user="ada") as line:
        line.send(b"b STATUS INBOX (MESSAGES UIDNEXT UNSEEN RECENT)\r\n" * 2000)
        assert sum(line.line().startswith("b OK") for _ in range(4000)) == 2000


def test_case_177_who_may_not_any_more_is_told_bye(world: World) -> None:
    with world.imap(user="eve") as idle, world.imap(user="eve") as other:
        idle.imap("SELECT INBOX")
        idle.send(b"a IDLE\r\n")
        idle.until("+")
        world.command("user", "disable", f"eve@{DOMAIN}")
        assert idle.until("* BYE")[-1].startswith("* BYE")
        assert other.until("* BYE")[-1].startswith("* BYE")
    world.command("user", "enable", f"eve@{DOMAIN}")
    with world.imap(user="eve") as line:
        wait_for(line, 0)
