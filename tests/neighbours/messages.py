"""Messages that are hard on those who change them: dots, long lines, 8 bits, From-lines, empty endings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """A message, and the subject that finds it again."""

    subject: str
    octets: bytes


def samples(tag: str) -> list[Sample]:
    """Return a few messages whose subjects begin with `tag`, in wire form (CRLF)."""
    bodies = {
        "plain": b"Hello,\r\n\r\nwords.\r\n",
        "dots": b".\r\n..\r\n.leading dot\r\nend.\r\n.\r\n\r\n",
        "from": b"From here on it goes down\r\n>From there too\r\nFrom \r\n",
        "eight": "Grüße aus Köln, çà et là: 漢字\r\n".encode(),
        "spaces": b"trailing spaces   \r\n\ttab \t\r\n\r\n\r\n",
        "long": b"x" * 990 + b"\r\n" + b"y" * 76 + b"\r\n",
        "empty": b"",
    }
    return [_sample(tag, name, b"text/plain; charset=utf-8", body) for name, body in bodies.items()] + [
        _sample(tag, "parts", b'multipart/mixed; boundary="=-b"', PARTS)
    ]


PARTS = (
    b"A preamble.\r\n--=-b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n"
    b"\r\n<p>Gr=C3=BC=C3=9Fe</p>\r\n--=-b\r\nContent-Type: application/octet-stream; name=a.bin\r\n"
    b"Content-Disposition: attachment; filename=a.bin\r\nContent-Transfer-Encoding: base64\r\n\r\nAAECAwQ=\r\n"
    b"--=-b--\r\nAn epilogue.\r\n"
)


def _sample(tag: str, name: str, content_type: bytes, body: bytes) -> Sample:
    subject = f"{tag} {name}"
    octets = (
        b"From: Out Side <outside@sender.test>\r\nTo: someone@pillarbox.test\r\nSubject: %s\r\n"
        b"Date: Mon, 02 Nov 2026 10:00:00 +0100\r\nMessage-ID: <%s@sender.test>\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: %s\r\nContent-Transfer-Encoding: 8bit\r\n\r\n%s"
        % (subject.encode(), subject.replace(" ", ".").encode(), content_type, body)
    )
    return Sample(subject, octets)


def simple(subject: str, body: bytes = b"Hello.\r\n", sender: str = "outside@sender.test") -> bytes:
    """Return one small message in wire form."""
    return (
        b"From: %s\r\nTo: someone@pillarbox.test\r\nSubject: %s\r\nDate: Mon, 02 Nov 2026 10:00:00 +0100\r\n"
        b"Message-ID: <%s@sender.test>\r\n\r\n%s"
        % (sender.encode(), subject.encode(), subject.replace(" ", ".").encode(), body)
    )


def with_lf(octets: bytes) -> bytes:
    """Return the message as a file on Unix has it."""
    return octets.replace(b"\r\n", b"\n")
