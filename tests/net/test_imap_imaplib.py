"""The standard library's client against the server: a neighbour that needs no other program."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import imaplib
import time

from pillarbox.protocol.sasl import ScramClient

from .imap_world import World, play, sample


def with_imaplib(tmp_path, session, **options):
    """Run `session(client)` in a thread, as imaplib blocks."""

    async def story(world: World) -> None:
        await world.file(*map(sample, range(1, 6)))

        def work():
            client = imaplib.IMAP4("127.0.0.1", world.port, timeout=10)
            try:
                session(client)
            finally:
                with contextlib.suppress(OSError):  # after LOGOUT it is closed already
                    client.shutdown()

        await asyncio.get_running_loop().run_in_executor(None, work)

    play(tmp_path, story, **options)


def test_a_reader(tmp_path):
    def session(client):
        assert "IDLE" not in client.capabilities
        assert client.login("ada@pillarbox.test", "secret")[0] == "OK"
        assert client.select()[1] == [b"5"]
        assert client.response("UIDVALIDITY")[1][0].isdigit()
        assert client.search(None, "SUBJECT", '"message 3"') == ("OK", [b"3"])
        kind, data = client.fetch("3", "(RFC822.SIZE BODY.PEEK[])")
        assert kind == "OK" and data[0][1] == sample(3)
        assert client.uid("FETCH", "2:3", "(FLAGS)")[1][1] == b"3 (UID 3 FLAGS (\\Recent))"
        assert client.store("1:2", "+FLAGS", "\\Deleted")[0] == "OK"
        assert client.expunge() == ("OK", [b"2", b"1"])
        assert client.list()[1][0] == b'(\\HasNoChildren) "/" INBOX'
        assert client.namespace() == ("OK", [b'(("" "/")) NIL NIL'])
        assert client.close()[0] == "OK"
        assert client.status("INBOX", "(MESSAGES)")[1] == [b"INBOX (MESSAGES 3)"]
        assert client.logout()[0] == "BYE"

    with_imaplib(tmp_path, session)


def test_a_writer(tmp_path):
    def session(client):
        client.login("ada@pillarbox.test", "secret")
        assert client.create("Work/2027")[0] == "OK"
        message = sample(9)
        kind, data = client.append("Work/2027", "(\\Seen)", imaplib.Time2Internaldate(time.time()), message)
        assert kind == "OK" and b"APPENDUID" in data[0]
        assert client.select("Work/2027") == ("OK", [b"1"])
        assert client.fetch("1", "(FLAGS BODY[TEXT])")[1][0][1] == b"Hello 9.\r\n"
        assert client.copy("1", "Archive")[0] == "OK"
        assert client.copy("1", "Nowhere")[0] == "NO"
        assert client.uid("MOVE", "1", "Trash")[0] == "OK"
        assert client.search(None, "ALL") == ("OK", [b""])
        assert client.unselect()[0] == "OK"
        assert client.rename("Work", "Job")[0] == "OK"
        assert client.delete("Job/2027")[0] == "OK"
        assert client.subscribe("Archive")[0] == "OK"
        assert client.lsub()[1] == [b'() "/" Archive'] or b"Archive" in client.lsub()[1][0]

    with_imaplib(tmp_path, session)


def test_scram(tmp_path):
    def session(client):
        scram = ScramClient("ada@pillarbox.test", "secret", base64.b64encode(b"x" * 18).decode())

        def answer(challenge):
            return scram.receive(challenge) if challenge else scram.begin()

        assert client.authenticate("SCRAM-SHA-256", answer)[0] == "OK"
        assert scram.is_satisfied()
        assert client.select()[0] == "OK"

    with_imaplib(tmp_path, session)


def test_plain(tmp_path):
    def session(client):
        assert client.authenticate("PLAIN", lambda _: b"\0ada@pillarbox.test\0secret")[0] == "OK"

    with_imaplib(tmp_path, session)


def test_wrong_password(tmp_path):
    def session(client):
        try:
            client.login("ada@pillarbox.test", "wrong")
        except imaplib.IMAP4.error as error:
            assert b"AUTHENTICATIONFAILED" in error.args[0]
        else:
            raise AssertionError

    with_imaplib(tmp_path, session)
