"""Mail to other domains: found by MX on loopback; taken, deferred or refused by Debian's Postfix and smtp-sink."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from .certificates import make_certificates
from .conftest import AGAINST_PEERS, DOMAIN, Mailbox
from .dns_world import DnsWorld
from .mailhost import MailHost, User
from .messages import samples, simple, with_lf
from .pillarbox_server import Pillarbox
from .postfix import Postfix
from .processes import free_ports, until
from .programs import need, need_root
from .sink import Sink
from .wire import SmtpWire, WireError

pytestmark = pytest.mark.skipif(AGAINST_PEERS, reason="these need pillarbox's queue")


def submit(mailhost: MailHost, user: User, to: str | list[str], message: bytes) -> None:
    """Send by submission with STARTTLS and a login."""
    context = ssl.create_default_context(cafile=str(mailhost.authority))
    with smtplib.SMTP("localhost", mailhost.submission, timeout=30) as smtp:
        smtp.starttls(context=context)
        smtp.login(user.address, user.password)
        smtp.sendmail(user.address, to, message, mail_options=["BODY=8BITMIME"])


@pytest.fixture(scope="module")
def postfix(folder: Path, world: DnsWorld, elsewhere_port: int) -> Iterator[Postfix]:
    """Debian's Postfix as the mail server of other.test, at the address its MX record leads to."""
    need("postfix")
    need_root()
    where = folder / "elsewhere"
    where.mkdir()
    server = Postfix(
        where,
        elsewhere_port,
        host="127.0.0.2",
        certificates=make_certificates(where, ("mx.other.test",)),
        mailboxes=("someone@other.test", "one@other.test", "two@other.test"),
    )
    server.start()
    world.add("other.test", "MX", "20 nobody.other.test.", "10 mx.other.test.")
    world.add("mx.other.test", "A", "127.0.0.2")
    world.add("nobody.other.test", "A", "127.0.0.9")
    yield server
    server.stop()


def test_postfix_takes_our_mail_byte_for_byte_by_tls(
    pillarbox: Pillarbox, postfix: Postfix, world: DnsWorld, user: User
) -> None:
    for sample in samples("relayed"):
        submit(
            pillarbox.mailhost,
            user,
            "someone@other.test",
            sample.octets.replace(b"outside@sender.test", user.address.encode(), 1),
        )

    def there() -> bool:
        return len(postfix.messages("someone@other.test")) >= 8

    until("8 messages at Postfix", there, 30)
    received = postfix.messages("someone@other.test")
    for sample in samples("relayed"):
        [message] = [octets for octets in received if f"Subject: {sample.subject}\n".encode() in octets]
        body = with_lf(sample.octets).partition(b"\n\n")[2]
        assert message.partition(b"\n\n")[2] == body
        assert b"with ESMTPS" in message
        assert message.count(b"\nReceived: ") == 2  # ours for the submission, and Postfix's
    assert ("other.test", "MX") in world.asked


def test_a_message_for_here_and_elsewhere(
    pillarbox: Pillarbox, postfix: Postfix, server: MailHost, user: User, mailbox: Mailbox
) -> None:
    submit(server, user, [user.address, "one@other.test", "two@other.test"], simple("both", sender=user.address))
    mailbox.wait_for("both")
    until(
        "mail for one and two", lambda: all(len(postfix.messages(f"{n}@other.test")) == 1 for n in ("one", "two")), 30
    )


def test_postfix_sends_to_us(
    pillarbox: Pillarbox, server: MailHost, folder: Path, mailbox: Mailbox, user: User
) -> None:
    need("postfix")
    need_root()
    where = folder / "sender"
    where.mkdir()
    [port] = free_ports(1)
    sender = Postfix(
        where, port, domains=("sender.test",), relayhost=f"[127.0.0.1]:{server.smtp}",
        certificates=make_certificates(where, ("mx.sender.test",)),
    )  # fmt: skip
    sender.start()
    try:
        with SmtpWire(port) as smtp:
            for sample in samples("from postfix"):
                smtp.deliver("outside@sender.test", [user.address], sample.octets)
            big = simple("from postfix big", b"0123456789 some line of a big message\r\n" * 120_000)
            smtp.deliver("outside@sender.test", [user.address], big)
        for sample in [*samples("from postfix")]:
            assert mailbox.wait_for(sample.subject).endswith(sample.octets)
        assert mailbox.wait_for("from postfix big").endswith(big)
        until("an empty queue at Postfix", lambda: "empty" in sender.queue())
    finally:
        sender.stop()


@pytest.mark.parametrize("command", ["CONNECT", "MAIL", "RCPT", "DATA", "."])
def test_4yz_is_tried_again(
    pillarbox: Pillarbox, folder: Path, world: DnsWorld, elsewhere_port: int, mailbox: Mailbox, user: User, command: str
) -> None:
    domain = f"soft{command.lower().replace('.', 'end')}.test"
    world.add(domain, "MX", f"10 mx.{domain}.")
    world.add(f"mx.{domain}", "A", "127.0.0.3")
    subject = f"deferred at {command}"
    sink = Sink(folder / f"{domain}.soft", "127.0.0.3", elsewhere_port, "-r", command)
    try:
        submit(pillarbox.mailhost, user, f"someone@{domain}", simple(subject, sender=user.address))
        until("a first try", lambda: subject_in_queue(pillarbox, domain), 30, 0.2)
    finally:
        sink.stop()
    assert mailbox.messages() == {}
    sink = Sink(folder / f"{domain}.good", "127.0.0.3", elsewhere_port)
    try:
        until("a second try", lambda: bool(sink.messages()), 40, 0.1)
        until("an empty queue", lambda: not subject_in_queue(pillarbox, domain), 20, 0.2)
        [message] = sink.messages()
        assert f"Subject: {subject}\n".encode() in message
    finally:
        sink.stop()
    assert mailbox.messages() == {}


def subject_in_queue(pillarbox: Pillarbox, domain: str) -> bool:
    """Say whether the queue holds something for `domain` that was tried at least once and answered 4yz."""
    listed = pillarbox.command("queue", "list", "--json")
    return domain in listed and "45" in listed


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA", "."])
def test_5yz_comes_back_as_a_report(
    pillarbox: Pillarbox, folder: Path, world: DnsWorld, elsewhere_port: int, mailbox: Mailbox, user: User, command: str
) -> None:
    domain = f"hard{command.lower().replace('.', 'end')}.test"
    world.add(domain, "MX", f"10 mx.{domain}.")
    world.add(f"mx.{domain}", "A", "127.0.0.4")
    sink = Sink(folder / f"{domain}", "127.0.0.4", elsewhere_port, "-f", command, "-B", "554 5.7.1 we do not want this")
    try:
        submit(pillarbox.mailhost, user, f"someone@{domain}", simple("unwanted words", sender=user.address))
        [report] = mailbox.wait(1, timeout_s=40).values()
    finally:
        sink.stop()
    check_report(report, f"someone@{domain}", b"5.7.1")
    assert b"we do not want this" in report


def test_no_report_for_a_null_sender(
    pillarbox: Pillarbox, folder: Path, world: DnsWorld, elsewhere_port: int, mailbox: Mailbox, user: User
) -> None:
    """A report that comes in for us is delivered; one that we cannot give back is not answered by another."""
    with SmtpWire(pillarbox.mailhost.smtp) as smtp:
        smtp.deliver("", [user.address], simple("a report from elsewhere"))
        with pytest.raises(WireError, match="refused"):
            smtp.deliver("", [f"nobody.here@{DOMAIN}"], simple("a report to nobody"))
    message = mailbox.wait_for("a report from elsewhere")
    assert message.startswith(b"Return-Path: <>\r\n")


@pytest.mark.parametrize(("domain", "status"), [("nullmx.test", b"5.1.10"), ("absent.test", b"5.1.2")])
def test_a_domain_that_takes_no_mail_is_final(
    pillarbox: Pillarbox, world: DnsWorld, mailbox: Mailbox, user: User, domain: str, status: bytes
) -> None:
    """RFC 7505: a domain that says it takes no mail; RFC 5321 §5.1: a domain that is not there."""
    if domain == "nullmx.test":
        world.add(domain, "MX", "0 .")
    try:
        submit(pillarbox.mailhost, user, f"someone@{domain}", simple(f"to {domain}", sender=user.address))
    except smtplib.SMTPRecipientsRefused as refused:  # said at once: as good
        [(_, words)] = refused.recipients.values()
        assert status in words
        return
    [report] = mailbox.wait(1, timeout_s=30).values()
    check_report(report, f"someone@{domain}", status)


def test_after_its_lifetime_a_message_comes_back(folder: Path, world: DnsWorld) -> None:
    """The other end defers for ever; lifetime 6 s."""
    world.add("never.test", "MX", "10 mx.never.test.")
    world.add("mx.never.test", "A", "127.0.0.5")
    [port] = free_ports(1)
    sink = Sink(folder / "never.test", "127.0.0.5", port, "-r", "RCPT")
    ada = User(f"ada@{DOMAIN}", "secret-ada")
    impatient = Pillarbox(
        folder / "impatient",
        (ada,),
        domain=DOMAIN,
        name_server=f"127.0.0.1:{world.port}",
        outbound_port=port,
        queue="lifetime_s = 6.0\nfirst_retry_s = 1.0\nmax_retry_s = 2.0\ndelay_notice_s = 2.0\n",
    )
    impatient.set_up()
    impatient.start()
    try:
        submit(impatient.mailhost, ada, "someone@never.test", simple("into the void", sender=ada.address))
        mailbox = Mailbox(impatient.mailhost, ada)
        reports = list(mailbox.wait(2, timeout_s=40).values())
        assert b"Action: delayed" in reports[0]
        check_report(reports[1], "someone@never.test", b"5.4.7")
    finally:
        impatient.stop()
        sink.stop()


def check_report(report: bytes, recipient: str, status: bytes) -> None:
    """Check the form of a failure report (RFC 3464)."""
    assert report.startswith(b"Return-Path: <>\r\n")
    assert b"Content-Type: multipart/report;" in report
    assert b"report-type=delivery-status" in report.replace(b'"', b"")
    assert b"Final-Recipient: rfc822;" in report
    assert recipient.encode() in report
    assert b"\r\nAction: failed\r\n" in report
    assert b"\r\nStatus: " + status in report, report.decode("utf-8", "replace")
