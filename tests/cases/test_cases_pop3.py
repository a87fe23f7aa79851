"""POP3 against a real server. Cases 52, 187, 192–195."""

from __future__ import annotations

from .world import DOMAIN, PASSWORD, World

TEXT = b"From: carl@x.example\r\nSubject: one\r\n\r\nhello"


def test_case_052_commands_behind_stls_end_the_session(world: World) -> None:
    with world.pop3() as line:
        line.send(b"STLS\r\nNOOP\r\n")
        assert line.line().startswith("-ERR")
        assert line.rest() == ""


def test_case_187_no_password_in_clear_text(world: World) -> None:
    with world.pop3("pop3-tls") as line:
        assert line.ask(f"USER ada@{DOMAIN}").startswith("-ERR")
        assert line.ask("PASS hunter2").startswith("-ERR")
    assert "hunter2" not in world.logged()


def test_case_192_one_session_at_a_time(world: World) -> None:
    with world.pop3(user="ada"), world.pop3() as second:
        second.ask(f"USER ada@{DOMAIN}")
        assert second.ask(f"PASS {PASSWORD}").startswith("-ERR [IN-USE]")


def test_case_193_numbers_that_are_none_and_thousands_of_commands(world: World) -> None:
    world.deliver(TEXT, "bob")
    world.deliver(TEXT, "bob")
    with world.pop3(user="bob") as line:
        for command in ("RETR 99999999999", "TOP -1 1", "TOP 1 -1", "RETR 0", "RETR 3", "LIST x", "RETR 1 2"):
            assert line.ask(command).startswith("-ERR"), command
        assert line.ask("DELE 1").startswith("+OK")
        for command in ("UIDL 1", "RETR 1", "LIST 1", "TOP 1 0", "DELE 1"):
            assert line.ask(command).startswith("-ERR"), command
        assert line.ask("RSET").startswith("+OK")
        before = world.rss_kib()
        line.send(b"UIDL 2\r\n" * 10_000)
        assert len({line.line() for _ in range(10_000)}) == 1
        assert world.rss_kib() - before < 4096


def test_case_194_nothing_is_deleted_without_quit(world: World) -> None:
    world.deliver(TEXT, "eve")
    with world.pop3(user="eve") as line:
        assert line.ask("DELE 1").startswith("+OK")
    for _ in range(1000):  # until the broken session has let go
        with world.pop3() as line:
            line.ask(f"USER eve@{DOMAIN}")
            if line.ask(f"PASS {PASSWORD}").startswith("+OK"):
                assert line.ask("STAT").startswith("+OK 1 ")
                return
    raise AssertionError("the mailbox stayed locked")


def test_case_195_no_weak_logins(world: World) -> None:
    with world.pop3() as line:
        line.send(b"CAPA\r\n")
        assert not any("CRAM-MD5" in text or "APOP" in text for text in line.until("."))
        assert line.ask(f"APOP ada@{DOMAIN} c4c9334bac560ecc979e58001b3e22fb").startswith("-ERR")
        assert line.ask("AUTH CRAM-MD5").startswith("-ERR")
