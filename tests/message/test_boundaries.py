"""How a multipart is cut into parts. RFC 2046 §5.1; cases 143, 144, 145."""

from __future__ import annotations

import pytest

from pillarbox.message.defects import Defect
from pillarbox.message.scan import Kind, Message, scan
from pillarbox.message.structure import decoded_body


def bodies(message: Message) -> list[bytes]:
    return [message.octets[p.body_start : p.body_end] for p in message.parts if p.kind is Kind.LEAF]


def multipart(boundary: bytes, body: bytes) -> Message:
    return scan(b'From: a@b\r\nContent-Type: multipart/mixed; boundary="%b"\r\n\r\n%b' % (boundary, body))


def test_lines_that_only_look_alike() -> None:
    message = multipart(b"b", b"--b\r\n\r\none\r\n-b\r\n--\r\n b\r\n --b\r\nx--b\r\n--b--\r\n")
    assert bodies(message) == [b"one\r\n-b\r\n--\r\n b\r\n --b\r\nx--b"]
    assert not message.defects


def test_white_space_may_follow() -> None:
    assert bodies(multipart(b"b", b"--b \t\r\n\r\none\r\n--b--  \r\n")) == [b"one"]


@pytest.mark.parametrize("boundary", [b"with space", b"(a+b)'?=_:/.,", b"x" * 1000, b"a--"])
def test_case_143_odd_boundaries(boundary: bytes) -> None:
    message = multipart(boundary, b"--%b\r\n\r\none\r\n--%b--\r\n" % (boundary, boundary))
    assert bodies(message) == [b"one"]
    assert (Defect.AMBIGUOUS_BOUNDARY in message.defects) == (len(boundary) > 70)


@pytest.mark.parametrize("header", [b'boundary=""', b'boundary="  "', b"x=y", b"boundary"])
def test_case_143_no_boundary_means_text(header: bytes) -> None:
    message = scan(b"From: a@b\r\nContent-Type: multipart/mixed; %b\r\n\r\n--\r\n\r\nx\r\n----\r\n" % header)
    assert message.defects == {Defect.NO_BOUNDARY}
    assert message.root.content_type.value == b"text/plain"


def test_case_143_one_boundary_begins_another() -> None:
    octets = (
        b"From: a@b\r\nContent-Type: multipart/mixed; boundary=bb\r\n\r\n--bb\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--bb\r\n\r\ntwo\r\n--bb--\r\n"
    )
    message = scan(octets)
    assert bodies(message) == [b"one", b"two"]
    assert message.defects == {Defect.UNCLOSED_MULTIPART}


def test_case_143_the_same_boundary_twice() -> None:
    octets = (
        b"From: a@b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b--\r\n--b\r\n\r\ntwo\r\n--b--\r\n"
    )
    message = scan(octets)
    assert Defect.AMBIGUOUS_BOUNDARY in message.defects
    assert bodies(message) == [b"one", b"two"]


def test_case_143_a_line_that_begins_like_the_innermost_boundary() -> None:
    message = multipart(b"b", b"--b\r\n\r\none\r\n--b and more\r\n\r\ntwo\r\n--b-- and more")
    assert bodies(message) == [b"one", b"two"]
    assert message.defects == {Defect.AMBIGUOUS_BOUNDARY}


def test_case_144_text_around_the_parts_is_within_the_multipart() -> None:
    body = b"preamble\r\n--b\r\n\r\none\r\n--b--\r\nepilogue\r\n"
    message = multipart(b"b", body)
    assert message.octets[message.root.body_start : message.root.body_end] == body
    assert bodies(message) == [b"one"]


def test_case_144_missing_end() -> None:
    message = multipart(b"b", b"--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n")
    assert bodies(message) == [b"one", b"two\r\n"]
    assert message.defects == {Defect.UNCLOSED_MULTIPART}


def test_parts_without_body_or_header() -> None:
    message = multipart(b"b", b"--b\r\nX: y\r\n--b\r\n--b\r\n\r\n--b\r\n\r\n\r\n--b--")
    assert bodies(message) == [b"", b"", b"", b""]
    assert [part.header.names for part in message.parts[1:]] == [[b"x"], [], [], []]


def test_a_multipart_without_parts() -> None:
    assert multipart(b"b", b"nothing here\r\n").defects == {Defect.UNCLOSED_MULTIPART, Defect.EMPTY_MULTIPART}
    assert multipart(b"b", b"--b--\r\n").defects == {Defect.EMPTY_MULTIPART}


@pytest.mark.parametrize(
    ("fields", "decoded", "defect"),
    [
        (b"Content-Transfer-Encoding: base64 (really)", b"hello", None),
        (b"Content-Transfer-Encoding: BASE64", b"hello", None),
        (b"Content-Transfer-Encoding:base64 ;", b"hello", None),
        (
            b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64",
            b"aGVsbG8=",
            Defect.DUPLICATE_ENCODING,
        ),
        (b"Content-Transfer-Encoding: rot13", b"aGVsbG8=", Defect.UNKNOWN_ENCODING),
        (b"Content-Transfer-Encoding:", b"aGVsbG8=", None),
    ],
)
def test_case_145_transfer_encodings(fields: bytes, decoded: bytes, defect: Defect | None) -> None:
    message = scan(b"From: a@b\r\n" + fields + b"\r\n\r\naGVsbG8=")
    assert decoded_body(message, message.root) == decoded
    assert message.defects == ({defect} if defect else set())


def test_case_145_encoding_of_a_multipart() -> None:
    octets = (
        b"From: a@b\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        b"--b\r\n\r\nx\r\n--b--"
    )
    message = scan(octets)
    assert message.defects == {Defect.ENCODED_CONTAINER}
    assert bodies(message) == [b"x"]
