"""Commands of SMTP and submission against a real server. Cases 51–62, 68–83, 85–87, 90."""

from __future__ import annotations

import base64
import contextlib
import socket

import pytest

from .world import DOMAIN, PASSWORD, SENDER, Line, World, events, fresh_source, wait_for

LOGIN = "AUTH PLAIN " + base64.b64encode(f"\0ada@{DOMAIN}\0{PASSWORD}".encode()).decode()


def said(world: World, *commands: bytes | str, port: str = "mx") -> list[str]:
    """The replies to commands of a session of their own."""
    with world.smtp(port) as line:
        return [line.say(command) for command in commands]


@pytest.mark.parametrize("port", ["mx", "submission"])
def test_case_051_commands_behind_starttls_end_the_session(world: World, port: str) -> None:
    with world.smtp(port) as line:
        line.send(b"STARTTLS\r\nEHLO evil.example\r\nRSET\r\n")
        assert line.reply() == "501 5.5.1"
        assert line.rest() == ""


def test_case_053_starttls_forgets_the_hello(world: World) -> None:
    with world.smtp() as line:
        assert line.say("STARTTLS") == "220 2.0.0"
        line.secure()
        assert line.say(SENDER) == "503 5.5.1"
        assert line.say("EHLO client.example") == "250"
        assert line.say("STARTTLS") in ("503 5.5.1", "500 5.5.1")


def test_case_054_no_login_in_clear_text(world: World) -> None:
    with Line(world.port["submission-tls"]) as line:
        line.reply()
        line.send(b"EHLO client.example\r\n")
        assert not any("AUTH" in text for text in line.until("250 "))
        assert line.say(LOGIN) == "538 5.7.11"
        assert line.say(SENDER) == "530 5.7.0"


def test_case_055_one_login_and_not_within_a_transaction(world: World) -> None:
    sender = f"MAIL FROM:<ada@{DOMAIN}>"
    assert said(world, LOGIN, LOGIN, sender, LOGIN, port="submission") == [
        "235 2.7.0",
        "503 5.5.1",
        "250 2.1.0",
        "503 5.5.1",
    ]


def test_case_056_broken_base64_and_long_lines(world: World) -> None:
    asked = ("AUTH PLAIN ===", "AUTH PLAIN a", "AUTH LOGIN", "%%%", "AUTH PLAIN", "A" * 13_000)
    answers = ["501 5.5.2", "501 5.5.2", "334", "501 5.5.2", "334", "500 5.5.6"]
    assert said(world, *asked, port="submission") == answers
    assert said(world, LOGIN, port="submission") == ["235 2.7.0"]  # no effect on other logins


def test_case_057_cancelled_and_broken_off_logins_cost_nothing(world: World) -> None:
    assert said(world, "AUTH PLAIN", "*", LOGIN, port="submission") == ["334", "501 5.7.0", "235 2.7.0"]
    before = world.rss_kib()
    for _ in range(200):
        with world.smtp("submission") as line:
            assert line.say("AUTH SCRAM-SHA-256") == "334"
    assert world.rss_kib() - before < 4096


def test_case_060_what_is_not_smtp_at_all(world: World) -> None:
    for request in ("GET / HTTP/1.1", "POST / HTTP/1.0", "CONNECT a:25 HTTP/1.1", "Host: mx"):
        with Line(world.port["mx"]) as line:
            line.reply()
            line.send(request.encode() + b"\r\nQUIT\r\n")
            assert line.reply() == "421 4.7.0"
            assert line.rest() == ""


def test_case_061_a_line_without_end(world: World) -> None:
    with world.smtp() as line:
        with contextlib.suppress(ConnectionError):
            line.send(b"A" * 500_000)
        assert line.reply() == "500 5.5.2"
        assert line.rest() == ""


def test_case_062_control_characters_and_eight_bit(world: World) -> None:
    for command in (b"NO\0OP", b"NOOP \xff", b"\x1b[2J", b"MAIL FROM:<a\x1b@b.example>", b"EHLO \x1bx"):
        assert said(world, command) == ["500 5.5.2"]
    assert "\x1b" not in world.logged()


def test_case_068_recipients_over_the_limit(world: World) -> None:
    with world.smtp() as line:
        line.say(SENDER)
        line.send(f"RCPT TO:<ada@{DOMAIN}>\r\n".encode() * 1001)
        assert [line.reply() for _ in range(1001)] == ["250 2.1.5"] * 1000 + ["452 4.5.3"]
        assert line.say("DATA") == "354"  # those before stand


def test_case_070_vrfy_and_expn_tell_nothing(world: World) -> None:
    asked = (f"VRFY ada@{DOMAIN}", "VRFY nobody", "EXPN staff", "EXPN nobody")
    assert said(world, *asked) == ["252 2.5.2", "252 2.5.2", "502 5.5.1", "502 5.5.1"]


def test_case_071_no_open_relay(world: World) -> None:
    forms = [
        "a%b.example@us.example",
        "a@b.example@us.example",
        '"a@b.example"@us.example',
        "@us.example,@x.example:a@b.example",
        "@us.example:a@b.example",
        "b.example!a",
        "b.example!a@us.example",
        "a@[127.0.0.1]",
        "a@b.example.",
        "A@B.EXAMPLE",
        "a@127.0.0.1",
        "a@[IPv6:::1]",
    ]
    for form in forms:
        assert said(world, SENDER, f"RCPT TO:<{form}>") == ["250 2.1.0", "550 5.7.1"], form


def test_case_073_074_a_user_is_only_themselves(world: World) -> None:
    assert said(world, LOGIN, f"MAIL FROM:<bob@{DOMAIN}>", port="submission") == ["235 2.7.0", "550 5.7.1"]
    for author in (
        f"From: bob@{DOMAIN}",
        f"From: ada@{DOMAIN}\r\nFrom: bob@{DOMAIN}",
        f"From: ada@{DOMAIN}, b@{DOMAIN}",
    ):
        with world.smtp("submission") as line:
            for command in (LOGIN, f"MAIL FROM:<ada@{DOMAIN}>", f"RCPT TO:<bob@{DOMAIN}>", "DATA"):
                line.say(command)
            line.send(author.encode() + b"\r\n\r\nx\r\n.\r\n")
            assert line.reply() in ("550 5.7.1", "554 5.6.0")


def test_case_076_077_078_addresses_that_are_none_or_nobodys(world: World) -> None:
    for address, answer in {
        '""@us.example': "501 5.1.3",
        "": "501 5.1.3",
        "a" * 65 + "@us.example": "501 5.1.3",
        "a@" + "a" * 255 + ".example": "501 5.1.3",
        "|id@us.example": "550 5.1.1",
        "/etc/x@us.example": "550 5.1.1",
        ":include:/etc/passwd@us.example": "550 5.1.1",
        "${run{id}}@us.example": "550 5.1.1",
        "%00@us.example": "550 5.1.1",
    }.items():
        assert said(world, SENDER, f"RCPT TO:<{address}>")[1] == answer, address
    assert said(world, SENDER, b"RCPT TO:<\xc3@us.example>")[1] == "553 5.6.7"
    assert said(world, b"MAIL FROM:<\xc3\xa9@x.example>") == ["553 5.6.7"]


def test_case_079_names_in_hello(world: World) -> None:
    for name, answer in {
        "a" * 255: "250",
        "a" * 256: "501 5.5.4",
        "$(id)": "250",
        "<script>": "250",
        "' or 1=1": "501 5.5.4",
        "Subject: x": "501 5.5.4",
        "": "501 5.5.4",
    }.items():
        assert said(world, f"EHLO {name}") == [answer], name
    assert said(world, "EHLO x\ty") == ["500 5.5.2"]


def test_case_079_the_name_stays_in_its_place_in_received(world: World) -> None:
    with world.imap(user="eve") as eve, world.smtp() as line:
        for command in ("EHLO <script>$(id)", SENDER, f"RCPT TO:<eve@{DOMAIN}>", "DATA"):
            line.say(command)
        line.send(b"From: x@x.example\r\n\r\nx\r\n.\r\n")
        assert line.reply() == "250 2.0.0"
        wait_for(eve, 1)
        eve.imap("SELECT INBOX")
        header = "\n".join(eve.imap("FETCH 1 BODY.PEEK[HEADER.FIELDS (RECEIVED)]"))
        assert header.count("Received:") == 1 and "[127." in header


def test_case_080_nobody_may_speak_for_another_address(world: World) -> None:
    for command in ("XCLIENT ADDR=192.0.2.1", "XFORWARD ADDR=192.0.2.1", "PROXY TCP4 192.0.2.1 192.0.2.2 1 25"):
        assert said(world, command) == ["550 5.7.0"]


def test_case_081_parameters_of_dsn(world: World) -> None:
    assert said(world, SENDER, f"RCPT TO:<ada@{DOMAIN}> ORCPT=rfc822;a+0D+0Ab")[1] == "501 5.5.4"
    assert said(world, SENDER + " ENVID=" + "a" * 10_000) == ["501 5.5.4"]


def test_case_082_queues_are_not_run_on_request(world: World) -> None:
    assert said(world, "ETRN '; drop table jobs", "ETRN x", "TURN") == ["458 4.5.0", "458 4.5.0", "502 5.5.1"]


def test_case_083_a_hundred_commands_without_mail(world: World) -> None:
    for command in ("NOOP", "RSET"):
        with world.smtp() as line:
            line.send(f"{command}\r\n".encode() * 100)
            assert [line.reply() for _ in range(100)] == ["250 2.0.0"] * 99 + ["421 4.7.0"]
            assert line.rest() == ""


def test_case_085_a_client_that_does_not_read_is_not_written_to(world: World) -> None:
    before = world.rss_kib()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            line = stack.enter_context(Line(world.port["mx"]))
            line.socket.settimeout(0.01)
            with contextlib.suppress(TimeoutError, ConnectionError):
                line.send(b"EHLO a\r\nVRFY\r\nEHLO a\r\n" * 10_000)
        assert world.rss_kib() - before < 8192
        assert said(world, "NOOP") == ["250 2.0.0"]


def test_case_086_the_301st_connection_of_a_minute(world: World) -> None:
    source = fresh_source()
    replies = []
    for _ in range(301):
        with Line(world.port["mx"], source) as line:
            replies.append(line.reply())
            line.send(b"QUIT\r\n")
            line.rest()
    assert replies == ["220"] * 300 + ["421 4.7.0"]
    assert said(world, "NOOP") == ["250 2.0.0"]  # from elsewhere


def test_case_087_a_network_has_three_times_as_much(world: World) -> None:
    prefix = fresh_source().removesuffix("1")
    with contextlib.ExitStack() as stack:
        replies = [
            stack.enter_context(Line(world.port["mx"], f"{prefix}{1 + number % 50}")).reply() for number in range(91)
        ]
        assert replies == ["220"] * 90 + ["421 4.7.0"]
        assert said(world, "NOOP") == ["250 2.0.0"]


def test_case_090_handshakes_that_never_end_leave_the_rest_alone(world: World) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", world.port["imaps"]), 30))
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert said(world, "NOOP") == ["250 2.0.0"]
        with world.imap(user="ada") as line:
            assert line.imap("NOOP")[-1].startswith("a OK")


def test_case_090_one_host_cannot_shut_out_the_others(world: World) -> None:
    source = fresh_source()
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            with contextlib.suppress(ConnectionError):
                sock = socket.create_connection(("127.0.0.1", world.port["imaps"]), 30, (source, 0))
                stack.enter_context(sock).sendall(b"\x16\x03\x01\x02\x00\x01")
        with Line(world.port["imaps"]) as line:
            line.secure()
            assert line.line().startswith("* OK")


def test_case_089_refusals_are_logged_with_where_they_came_from(world: World) -> None:
    source = fresh_source()
    with world.smtp(source=source) as line:
        line.say(SENDER)
        assert line.say("RCPT TO:<x@elsewhere.example>") == "550 5.7.1"
    assert any(entry["peer"] == source and entry["rule"] == "relay-denied" for entry in events(world, "refused"))
