"""Base subject, preview, search text. RFC 5256 §2.1, RFC 8970."""

from __future__ import annotations

import pytest

from pillarbox.message.subject import base_subject
from pillarbox.message.text import plain_from_html, search_text
from pillarbox.message.wire import wire_forms


@pytest.mark.parametrize(
    ("subject", "base"),
    [
        ("hello", "hello"),
        ("Re: hello", "hello"),
        ("RE: Re : Fwd: hello", "hello"),
        ("fw: hello", "hello"),
        ("Re[2]: hello", "hello"),
        ("Re: [list] Re: hello (fwd)", "hello"),
        ("[list] hello", "hello"),
        ("[list]", "[list]"),
        ("[a] [b]", "[b]"),
        ("[fwd: hello]", "hello"),
        ("[Fwd: Re: [x] hello (fwd)] ", "hello"),
        ("hello (FWD) (fwd)", "hello"),
        ("  many \t spaces  ", "many spaces"),
        ("regarding: hello", "regarding: hello"),
        ("Re:", ""),
        ("", ""),
        ("[unclosed hello", "[unclosed hello"),
    ],
)
def test_base_subject(subject: str, base: str) -> None:
    assert base_subject(subject) == base


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>one<br>two</p>", "one two"),
        ("o<b>n</b>e", "one"),
        ("<style>p{}</style>a<script>if (a<b) x</script>b", "a b"),
        ("<SCRIPT>x</Script>y", "y"),
        ("<title>never closed a", "never closed a"),
        ("<script>never closed a", ""),
        ("a<!-- <p> x -->b<!-- open", "ab"),
        ("1 < 2 &amp;&#x41;&nbsp;x", "1 < 2 &A x"),
        ("a<b href='x y", "a"),
        ("İ<style>x</style>y", "İ y"),
    ],
)
def test_html(source: str, text: str) -> None:
    assert " ".join(plain_from_html(source).split()) == text


def message(content_type: str, body: bytes, more: str = "") -> bytes:
    return f"From: a@b\r\nContent-Type: {content_type}\r\n{more}\r\n".encode() + body


@pytest.mark.parametrize(
    ("octets", "preview"),
    [
        (message("text/plain", b"one\r\n\r\n  two\tthree"), "one two three"),
        (message("text/plain", b"x" * 300), "x" * 200),
        (message("text/plain", b" " * 5000 + b"late"), "late"),
        (message("text/html", b"<html><style>" + b"p{}" * 3000 + b"</style><p>a &amp; b"), "a & b"),
        (message("text/plain", b"YQ==", "Content-Transfer-Encoding: base64\r\n"), "a"),
        (message("application/pdf", b"%PDF"), ""),
        (message("text/plain", b"secret", "Content-Disposition: attachment\r\n"), ""),
        (message("text/plain; charset=utf-8", "a\u202e\u200bb\0c".encode()), "abc"),
    ],
)
def test_preview(octets: bytes, preview: str) -> None:
    assert wire_forms(octets).preview == preview


def test_plain_text_is_preferred_to_html() -> None:
    octets = message(
        "multipart/alternative; boundary=b", b"--b\r\nContent-Type: text/html\r\n\r\n<i>h\r\n--b\r\n\r\np\r\n--b--"
    )
    assert wire_forms(octets).preview == "p"


def test_search_text_is_bounded() -> None:
    octets = message("text/plain", b"x" * 1000)
    assert sum(map(len, search_text(octets, limit=100))) <= 110
