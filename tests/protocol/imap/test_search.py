"""SEARCH: which messages match. Source: RFC 3501 §6.4.4."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.message.wire import wire_forms
from pillarbox.model.settings import Limits
from pillarbox.protocol.imap.commands import Search
from pillarbox.protocol.imap.grammar import When
from pillarbox.protocol.imap.search import Batch, Searcher
from pillarbox.protocol.imap.server import ImapServer

MESSAGES = [
    b"From: =?utf-8?q?Zo=C3=AB?= <zoe@a.test>\r\nSubject: =?utf-8?b?R3LDvMOfZQ==?= from here\r\n"
    b"Date: Mon, 01 Feb 2027 23:59:00 -0800\r\n\r\nplain words\r\n",
    b"From: bob@b.test\r\nTo: a@x.test\r\nCc: Carl <c@x.test>\r\nX-Odd: strange\r\nSubject: a\r\n folded line\r\n"
    b"Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"<p>caf=E9 <b>bo</b>ld</p>\r\n",
    b"Subject: parts\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\naGlkZGVuIHRyZWFzdXJl\r\n--b\r\nContent-Type: application/pdf\r\n"
    b"Content-Disposition: attachment; filename=map.pdf\r\n\r\nxtreasurex\r\n--b--\r\n",
]  # fmt: skip


def key(text):
    core = ImapServer(Limits())
    core.state = When.SELECTED
    core.receive(b"a SEARCH " + (text if isinstance(text, bytes) else text.encode()) + b"\r\n")
    command = core.next_event().command
    assert isinstance(command, Search)
    return command.key


BATCH = Batch(
    numbers=[1, 2, 3],
    uids=[10, 20, 30],
    flags=[0, 1 | 32, 8],
    received_s=[86400 * 20000 - 1, 86400 * 20000, 86400 * 20001],
    sizes=[len(m) for m in MESSAGES],
    headers=[wire_forms(m).headers for m in MESSAGES],
    octets=MESSAGES.__getitem__,
)


def found(text):
    return [i + 1 for i in Searcher(key(text), 3, 30, ("Work",)).matches(BATCH)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("ALL", [1, 2, 3]),
        ("UNSEEN", [1, 3]),
        ("KEYWORD work", [2]),
        ("KEYWORD none", []),
        ("UNKEYWORD work", [1, 3]),
        ("NOT (SEEN)", [1, 3]),
        ("OR DELETED SEEN", [2, 3]),
        ("1,3", [1, 3]),
        ("2:*", [2, 3]),
        ("*", [3]),
        ("UID 20:*", [2, 3]),
        ("UID 99:*", [3]),
        ('FROM "zoë"', [1]),
        ('SUBJECT "GRÜSSE"', [1]),
        ('SUBJECT "grüße FROM"', [1]),
        ('SUBJECT "a folded"', [2]),
        ("CC carl", [2]),
        ('TO ""', [2]),
        ("HEADER X-Odd STRANGE", [2]),
        ('HEADER X-Odd ""', [2]),
        ('BODY "café"', [2]),
        ("BODY bold", [2]),
        ("BODY TREASURE", [3]),
        ("BODY map.pdf", [3]),
        ("BODY from", []),
        ('TEXT "zoë"', [1]),
        ('TEXT ""', [1, 2, 3]),
        ("SENTON 1-Feb-2027", [1]),
        ("SENTSINCE 2-Feb-2027", []),
        ("SENTBEFORE 1-Jan-2030", [1]),
        ("BEFORE 4-Oct-2024", [1]),
        ("ON 4-Oct-2024", [2]),
        ("SINCE 4-Oct-2024", [2, 3]),
        ("SMALLER 1", []),
        ("BODY treasure SEEN", []),
        ("OR BODY treasure SEEN", [2, 3]),
        ('TEXT ".*"', []),
    ],
)
def test_keys(text, numbers):
    assert found(text) == numbers


LEAVES = ["SEEN", "DELETED", "1", "2:3", "SUBJECT a", "BODY plain", "LARGER 200", "UID 10"]
KEYS = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        inner.map(lambda a: f"NOT {a}"),
        st.tuples(inner, inner).map(lambda ab: f"OR {ab[0]} {ab[1]}"),
        st.lists(inner, min_size=1, max_size=3).map(lambda keys: f"({' '.join(keys)})"),
    ),
    max_leaves=8,
)


@given(KEYS, KEYS)
def test_keys_combine_as_sets(a, b):
    everything = {1, 2, 3}
    assert set(found(f"NOT ({a})")) == everything - set(found(a))
    assert set(found(f"OR ({a}) ({b})")) == set(found(a)) | set(found(b))
    assert set(found(f"{a} {b}")) == set(found(a)) & set(found(b))


@given(KEYS)
def test_the_first_pass_loses_nothing(text):
    searcher = Searcher(key(text), 3, 30, ("Work",))
    assert set(searcher.matches(BATCH)) <= set(searcher.first_pass().matches(BATCH))


def test_case_171_texts_are_not_expressions():
    for text in (".*", "(a+)+$", "[", "\\\\", "%", "_"):
        assert found(f'SUBJECT "{text}"') == []


def test_case_171_many_keys_read_each_message_once():
    """Messages out of the question are not read."""
    asked = []

    def octets(index):
        asked.append(index)
        return MESSAGES[index]

    batch = Batch(BATCH.numbers, BATCH.uids, BATCH.flags, BATCH.received_s, BATCH.sizes, BATCH.headers, octets)
    Searcher(key("BODY x SEEN"), 3, 30, ()).matches(batch)
    assert asked == [1]
    assert len(list(itertools.pairwise(asked))) == 0
