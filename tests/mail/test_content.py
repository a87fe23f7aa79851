"""Octets on their way in: line ends, NUL, size, length of lines. Cases 41 to 48."""

from __future__ import annotations

import asyncio
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.content import IncomingContent
from pillarbox.model.errors import Refused
from pillarbox.model.settings import Limits

from .fakes import Writer


def take(pieces: list[bytes], limits: Limits = Limits()) -> str:  # noqa: B008
    """What a content of these pieces is refused for; "" if it is taken as it is."""
    writer = Writer()
    content = IncomingContent(writer, limits)
    for piece in pieces:
        content.write(piece)
    try:
        stored = asyncio.run(content.finish())
    except Refused as refused:
        assert writer.aborted
        return f"{refused.status} {refused.rule}"
    assert stored.data == b"".join(pieces)
    return ""


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"a\r\nb\r\n", ""),
        (b"", ""),
        (b"a\n.\nb\r\n", "5.5.2 bare-lf"),  # 41
        (b"a\r.\rb\r\n", "5.5.2 bare-cr"),  # 42
        (b"a\r.\nb\r\n", "5.5.2"),  # 43
        (b"a\n.\rb\r\n", "5.5.2"),  # 44
        (b"a\n.\r\n", "5.5.2 bare-lf"),  # 45
        (b"a\r\n.\nb\r\n", "5.5.2 bare-lf"),  # 46
        (b"a\r.\r\n", "5.5.2 bare-cr"),  # 47
        (b"a\r\n.\rb", "5.5.2 bare-cr"),
        (b"a\r\n\0.\r\n", "5.6.0 nul"),  # 48
        (b"a\r\n.\0\r\n", "5.6.0 nul"),
        (b"a\r", "5.5.2 bare-cr"),
        (b"a\n\r\n", "5.5.2 bare-lf"),
        (b"a\r\r\n", "5.5.2 bare-cr"),
    ],
)
def test_cases_041_to_048(octets, said):
    assert take([octets]).startswith(said) and bool(take([octets])) == bool(said)


@given(
    octets=st.lists(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r", b"\n", b".", b"text"]), max_size=12).map(
        b"".join
    ),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_the_story_is_the_same_however_the_octets_are_cut(octets, cuts):
    places = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    pieces = [octets[a:b] for a, b in itertools.pairwise(places)]
    clean = re.fullmatch(rb"(?:[^\r\n]|\r\n)*", octets) is not None
    assert (take(pieces) == "") == clean == (take([octets]) == "")


@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8), step=st.integers(1, 70))
def test_long_lines_are_found_across_pieces(lengths, step):
    octets = b"".join(b"x" * length + b"\r\n" for length in lengths)
    pieces = [octets[start : start + step] for start in range(0, len(octets), step)]
    said = take(pieces, Limits(content_line_octets=40))
    # A line of 39 or 40 octets may be judged with its CRLF or without: the limit is 65,536 in earnest.
    if max(lengths) <= 38:
        assert said == ""
    if max(lengths) >= 41:
        assert said == "5.6.0 line-length"


def test_nothing_is_kept_once_something_is_wrong():
    writer = Writer()
    content = IncomingContent(writer, Limits(message_octets=100))
    for _ in range(50):
        content.write(b"0123456789" * 2)
    assert content.size == 1000 and writer.size <= 100
