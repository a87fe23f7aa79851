"""The mail that the users of `pillarbox try` find: one message of each kind that clients show differently."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

from pillarbox.message.date import format_date
from pillarbox.model.address import Address


@dataclass(frozen=True, slots=True)
class Sample:
    """A message as it came: `octets` with CRLF, and its envelope sender."""

    sender: str
    sent_s: float
    octets: bytes


_HEAD: Final = """\
Received: from {helo} ({helo} [192.0.2.25])
\tby mail.pillarbox.test with ESMTPS id {id}
\tfor <{to}>; {date}
From: {author}
To: {to}
Date: {date}
Message-ID: <{id}@{helo}>
MIME-Version: 1.0
"""

_WELCOME: Final = """\
Subject: Welcome to pillarbox
Content-Type: text/plain; charset=us-ascii

Hello,

this is a mail server that runs on your machine only. What you send to
ada@pillarbox.test or bob@pillarbox.test arrives here, and so does mail to
{detail}.

Have a look around: flags, folders, search, sending. Nothing can break.
--{space}
the postmaster
"""

_UTF8: Final = """\
Subject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe_aus_Z=C3=BCrich_=E2=9C=89?=
Content-Type: text/plain; charset=utf-8; format=flowed
Content-Transfer-Encoding: 8bit

Grüße aus Zürich, привет из Москвы, 京都からこんにちは, γειά σου.

Ein Satz mit “Anführungszeichen”, einem Gedankenstrich – und einem 😀.
"""

_HTML: Final = """\
Subject: Minutes, with a picture
Content-Type: multipart/mixed; boundary="outer-7f3a"

This is a message in MIME format.
--outer-7f3a
Content-Type: multipart/alternative; boundary="inner-91bc"

--inner-91bc
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Minutes of Monday: the pillar box is red =E2=80=93 and stays red.

--inner-91bc
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<html><body><h1>Minutes of Monday</h1>
<p>The pillar box is <b style=3D"color: #c00">red</b> =E2=80=93 and stays red.<=
/p></body></html>

--inner-91bc--

--outer-7f3a
Content-Type: image/png; name="box.png"
Content-Disposition: attachment; filename="box.png"
Content-Transfer-Encoding: base64

{png}
--outer-7f3a
Content-Type: text/csv; charset=utf-8
Content-Disposition: attachment; filename*=UTF-8''Pr%C3%A9sences.csv

name;present
Ada;yes
Bob;no

--outer-7f3a--
"""

_NESTED: Final = """\
Subject: Fwd: Re: the lost letter
Content-Type: multipart/mixed; boundary="fwd-2"

--fwd-2
Content-Type: text/plain; charset=us-ascii

See below. It was forwarded twice, each time as a whole message.

--fwd-2
Content-Type: message/rfc822
Content-Disposition: inline

From: Carol <carol@example.net>
To: postmaster@example.org
Subject: Re: the lost letter
Date: Mon, 2 Mar 2026 09:30:00 +0100
Message-ID: <second@example.net>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="fwd-1"

--fwd-1
Content-Type: text/plain; charset=us-ascii

This is what came:

--fwd-1
Content-Type: message/rfc822

From: Dave <dave@example.com>
To: carol@example.net
Subject: the lost letter
Date: Sun, 1 Mar 2026 18:00:00 +0000
Message-ID: <first@example.com>

It was in the pillar box all the time.

--fwd-1--

--fwd-2--
"""

_THREAD: Final = """\
Subject: Re: Welcome to pillarbox
In-Reply-To: <{welcome}@post.example.org>
References: <{welcome}@post.example.org>
Content-Type: text/plain; charset=us-ascii

> Have a look around: flags, folders, search, sending.

I did. It works.
"""

_PNG: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000008000000080200000 04b6d29dc0000001349444154789c63fcc3c0c0c0"
    "c0c4800d0c5c0e00293c01 0d6a1b1bd30000000049454e44ae426082".replace(" ", "")
)


def samples(to: Address, now_s: float) -> list[Sample]:
    """Sample messages for this user, the latest of them from just now."""
    others = "bob" if to.local == "ada" else "ada"
    kinds = (
        ("postmaster@example.org", "Postmaster <postmaster@example.org>", _WELCOME),
        ("heidi@example.com", "=?UTF-8?Q?Heidi_M=C3=BCller?= <heidi@example.com>", _UTF8),
        ("minutes@example.org", '"Minutes, weekly" <minutes@example.org>', _HTML),
        ("carol@example.net", "Carol <carol@example.net>", _NESTED),
        (f"{others}@{to.domain}", f"{others.title()} <{others}@{to.domain}>", _THREAD),
    )
    made = []
    for number, (sender, author, text) in enumerate(kinds):
        sent_s = now_s - 3600 * (len(kinds) - 1 - number)
        head = _HEAD.format(
            helo="post.example.org", id=f"{to.local}-{number}", to=to, author=author, date=format_date(sent_s)
        )
        whole = head + text.format(
            space=" ",
            detail=f"{to.local}+anything@{to.domain}",
            png=base64.encodebytes(_PNG).decode().strip(),
            welcome=f"{to.local}-0",
        )
        made.append(Sample(sender, sent_s, whole.replace("\n", "\r\n").encode()))
    return made
