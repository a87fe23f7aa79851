"""Parameters of Content-Type and Content-Disposition. RFC 2045 §5.1, RFC 2231; cases 143, 147, 148."""

from __future__ import annotations

import pytest

from pillarbox.message.defects import Defect
from pillarbox.message.parameters import decode_extended, parse_parameters, without_comments
from pillarbox.message.scan import scan
from pillarbox.message.structure import filenames


@pytest.mark.parametrize(
    ("value", "head", "parameters"),
    [
        (b"text/plain", b"text/plain", ()),
        (b"Text/PLAIN; Charset=UTF-8", b"text/plain", ((b"charset", b"UTF-8"),)),
        (b'text/plain; charset="utf-8"; x=""', b"text/plain", ((b"charset", b"utf-8"), (b"x", b""))),
        (b"text/plain ;charset = us-ascii (plain (old) text) ", b"text/plain", ((b"charset", b"us-ascii"),)),
        (b'(c) text/plain; name="a (b) \\"c\\" ; d=e"', b"text/plain", ((b"name", b'a (b) "c" ; d=e'),)),
        (b"text/plain;; ;x=y;", b"text/plain", ((b"x", b"y"),)),
        (b"text/plain; broken; x=y", b"text/plain", ((b"x", b"y"),)),
        (b'text/plain; x="open', b"text/plain", ((b"x", b"open"),)),
        (b"text/plain; name=two words; x=y", b"text/plain", ((b"name", b"two"), (b"x", b"y"))),
        (b"a/b; x=1; x=2", b"a/b", ((b"x", b"1"),)),
        (b"a/b; n*1=b; n*0=a; n*2=c", b"a/b", ((b"n", b"abc"),)),
        (b"a/b; n*0=a; n*2=c", b"a/b", ((b"n", b"a"),)),
        (b"a/b; n*0*=utf-8''%61; n*1=%b", b"a/b", ((b"n*", b"utf-8''%61%25b"),)),
        (b"a/b; n*=utf-8''%c3%a4; n=a", b"a/b", ((b"n*", b"utf-8''%c3%a4"), (b"n", b"a"))),
        (b"", b"", ()),
    ],
)
def test_reading(value: bytes, head: bytes, parameters: tuple[tuple[bytes, bytes], ...]) -> None:
    found = parse_parameters(value)
    assert (found.value, found.parameters) == (head, parameters)


def test_rfc_2231_section_4_1() -> None:
    found = parse_parameters(
        b"application/x-stuff; title*0*=us-ascii'en'This%20is%20even%20more%20;"
        b' title*1*=%2A%2A%2Afun%2A%2A%2A%20; title*2="isn\'t it!"'
    )
    assert found.text(b"title") == "This is even more ***fun*** isn't it!"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"utf-8'de'%C3%9C", "Ü"),
        (b"''%C3%9C", "Ü"),
        (b"no quotes %C3%9C", "no quotes Ü"),
        (b"x-unknown''%FC", "ü"),
        (b"utf-8''%zz%4", "%zz%4"),
    ],
)
def test_extended_values(value: bytes, text: str) -> None:
    assert decode_extended(value) == text


def test_comments_are_left_out() -> None:
    assert without_comments(b'a (b (c) \\) d) e "(f)" \\( (g').split() == [b"a", b"e", b'"(f)"', b"\\("]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (b"Content-Disposition: attachment; filename=a.txt", ["a.txt"]),
        (b"Content-Disposition: attachment; filename*0=a; filename*1=.exe", ["a.exe"]),
        (b'Content-Disposition: attachment; filename="=?utf-8?b?w6QuZXhl?="', ["ä.exe", "=?utf-8?b?w6QuZXhl?="]),
        (b"Content-Disposition: attachment; filename*=utf-8''a.exe; filename=a.txt", ["a.exe", "a.txt"]),
        (b'Content-Disposition: attachment; filename=a.txt\r\nContent-Type: a/b; name="a.exe. "', ["a.txt", "a.exe. "]),
        (b"Content-Disposition: attachment; filename*=utf-8''a%00%E2%80%AEtxt.exe", ["a\0\u202etxt.exe"]),
        (b"Content-Type: text/plain", []),
    ],
)
def test_case_147_all_names_are_candidates(header: bytes, names: list[str]) -> None:
    assert filenames(scan(header + b"\r\n\r\n").root) == names


def test_case_143_two_boundaries() -> None:
    octets = b"Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\n--a\r\n\r\nx\r\n--b\r\n\r\ny\r\n--a--\r\n"
    message = scan(octets)
    assert Defect.AMBIGUOUS_BOUNDARY in message.defects
    assert len(message.parts) == 2
