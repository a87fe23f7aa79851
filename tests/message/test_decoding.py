"""Transfer encodings, charsets and encoded words: all that is tolerable is read. Cases 146, 149."""

from __future__ import annotations

import base64
import binascii
import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.message import charset, encoded_word, transfer

EICAR_LIKE = b"X5O!P%@AP[4\\PZX54(P^)7CC)7} a harmless test pattern, long enough to be cut anywhere"


@given(st.binary(max_size=200), st.integers(1, 80))
def test_case_146_base64_in_lines_of_any_length(octets: bytes, width: int) -> None:
    digits = base64.b64encode(octets)
    lines = [digits[i : i + width] for i in range(0, len(digits), width)]
    for line_end in (b"\r\n", b"\n", b"\r", b" ", b"\r\n\t!*-\xff"):
        assert transfer.decode_base64(line_end.join(lines)) == octets


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5))
def test_case_146_base64_with_padding_in_the_middle(pieces: list[bytes]) -> None:
    padded = b"\r\n".join(base64.b64encode(piece + b"x" * (-len(piece) % 3 or 3))[:-1] + b"A=" for piece in pieces)
    assert transfer.decode_base64(padded).count(b"\0") >= 0  # never fails
    joined = b"".join(base64.b64encode(piece) for piece in pieces if len(piece) % 3)
    expected = b"".join(piece for piece in pieces if len(piece) % 3)
    assert transfer.decode_base64(joined) == expected


@pytest.mark.parametrize("cut", range(1, 8))
def test_case_146_base64_without_its_end(cut: int) -> None:
    digits = base64.b64encode(EICAR_LIKE).rstrip(b"=")
    assert EICAR_LIKE.startswith(transfer.decode_base64(digits[:-cut]))


@pytest.mark.parametrize(
    ("encoded", "octets"),
    [
        (b"a=3D=\r\nb", b"a=b"),
        (b"a=3d= \t\r\nb", b"a=b"),
        (b"=C3=A4", "ä".encode()),
        (b"=", b""),
        (b"=zz", b"=zz"),
        (b"a_b", b"a_b"),
        (b"soft=\nbreak", b"softbreak"),
    ],
)
def test_case_146_quoted_printable(encoded: bytes, octets: bytes) -> None:
    assert transfer.decode_quoted_printable(encoded) == octets


@given(st.binary(max_size=120))
def test_case_146_uuencode(octets: bytes) -> None:
    lines = b"".join(binascii.b2a_uu(octets[i : i + 45]).replace(b"\n", b"\r\n") for i in range(0, len(octets), 45))
    text = b"words before\r\nbegin 644 name of file\r\n" + lines + b"`\r\nend\r\nwords after\r\n"
    assert transfer.decode_uuencode(text) == octets


def test_unknown_encodings_leave_the_octets() -> None:
    assert transfer.decode(b"x=41", b"rot13") == b"x=41"


@pytest.mark.parametrize("codec", sorted(set(charset.CODECS.values())))
def test_every_codec_in_the_table_exists(codec: str) -> None:
    assert codecs.lookup(codec)


@given(st.binary(max_size=60), st.sampled_from(sorted(charset.CODECS)) | st.text(max_size=12))
def test_case_149_no_label_and_no_octets_fail(octets: bytes, label: str) -> None:
    assert isinstance(charset.decode(octets, label), str)


@pytest.mark.parametrize(
    ("octets", "label", "text"),
    [
        (b"\x80\xe9", "ISO-8859-1", "€é"),
        (b"\xe9", "us-ascii", "é"),
        ("é".encode(), "us-ascii", "é"),
        (b"\xa4", "iso-8859-15", "€"),
        (b"\xd5\xc5", "GB2312", "张"),
        ("한글".encode("euc-kr"), "ks_c_5601-1987", "한글"),
        ("日本".encode("iso2022-jp"), "ISO-2022-JP", "日本"),
        ("日本".encode("cp932"), "shift_jis", "日本"),
        (b"+Jjo-", "UTF-7", "☺"),
        ("ä".encode("utf-16"), "utf-16", "ä"),
        (b"\xff", "utf-8", "\ufffd"),
        (b"abc", "rot13", "abc"),
        (b"abc", "idna", "abc"),
        (b"\xc4", " 'Windows-1252' ", "Ä"),
    ],
)
def test_case_149_labels(octets: bytes, label: str, text: str) -> None:
    assert charset.decode(octets, label) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"(=?ISO-8859-1?Q?a?=)", "(a)"),
        (b"=?ISO-8859-1?Q?a?= b", "a b"),
        (b"=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
        (b"=?ISO-8859-1?Q?a?=  \t =?ISO-8859-1?Q?b?=", "ab"),
        (b"=?ISO-8859-1?Q?a_b?=", "a b"),
        (b"=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=", "a b"),
        (b"=?utf-8*en?B?w6Q=?=", "ä"),
        (b"=?utf-8?q?=C3?= =?utf-8?q?=A4?=", "ä"),
        (b"=?utf-8?B?w6Q?=", "ä"),
        (b"=?utf-8?Q?with space?=", "with space"),
        (b"x=?utf-8?Q?a?=y", "xay"),
        (b"=?utf-8?X?a?=", "=?utf-8?X?a?="),
        (b"=?nobody?Q?=E4?=", "ä"),
        (b"plain", "plain"),
        (b"caf\xe9", "café"),
        ("café =?utf-8?q?=C3=A4?=".encode(), "café ä"),
        (b"=?utf-8?q?a=0D=0AEvil:_b?=", "a  Evil: b"),
    ],
)
def test_encoded_words(value: bytes, text: str) -> None:
    assert encoded_word.decode(value) == text


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=120))
def test_encoded_words_that_we_write_are_read(text: str) -> None:
    written = encoded_word.encode(text)
    assert written.isascii()
    assert all(len(word) <= 75 for word in written.split(" ") if word.startswith("=?"))
    assert encoded_word.decode(written.encode()) == text
