"""Sequence numbers of a session. Source: RFC 3501 §2.3.1.2, §7.4.1."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.model.uids import UidSet
from pillarbox.protocol.imap.view import NoSuchNumber, View


def view(*uids):
    return View(array("I", uids))


def test_numbers_stand_until_the_client_is_told():
    v = view(3, 5, 9, 12)
    v.remove(UidSet.of([5, 12, 77]))
    assert [v.number(uid) for uid in (3, 5, 9, 12)] == [1, 2, 3, 4]
    assert v.has_gone
    assert v.take_expunged() == [4, 2]
    assert [v.number(uid) for uid in (3, 5, 9, 12)] == [1, 0, 2, 0]
    assert not v.has_gone and v.take_expunged() == []


@pytest.mark.parametrize(
    ("ranges", "uids"),
    [
        (((1, 1),), "3"),
        (((1, 0),), "3:12"),
        (((0, 0),), "12"),
        (((4, 2),), "5:12"),
        (((9, 0),), "12"),
        (((1, 2), (2, 3), (4, 4)), "3:9,12"),
    ],
)
def test_sets_of_numbers_are_intervals_of_uids(ranges, uids):
    found = view(3, 5, 9, 12).uids_of_numbers(ranges)
    assert found.among(array("I", [3, 5, 9, 12])) == UidSet(
        tuple(tuple(map(int, (part.split(":") * 2)[:2])) for part in uids.split(","))
    ).among(array("I", [3, 5, 9, 12]))


def test_numbers_beyond_the_end_are_refused():
    with pytest.raises(NoSuchNumber):
        view(3, 5).uids_of_numbers(((3, 3),))
    with pytest.raises(NoSuchNumber):
        view().uids_of_numbers(((1, 1),))
    assert not view().uids_of_numbers(((1, 0),))


def test_uids_are_cut_to_the_view():
    """A message that the client was not told of has no number, so it cannot be fetched yet."""
    assert str(view(3, 5).uids_in(((4, 0xFFFFFFFF),))) == "4:5"
    assert str(view(3, 5).uids_in(((100, 0),))) == "5"  # RFC 3501 §6.4.8: "559:*" holds the last one always
    assert not view().uids_in(((1, 0),))


def test_case_170_sets_are_never_expanded():
    v = view(*range(1, 1001))
    ranges = tuple((n % 1000 + 1, 0) for n in range(50_000))
    assert v.uids_of_numbers(ranges).ranges == ((1, 1000),)
    assert v.uids_in(((1, 0xFFFFFFFF),)).ranges == ((1, 1000),)


def test_recent_messages_are_those_of_this_session():
    v = view(3, 5, 9)
    v.add_recent(5, 10)
    assert list(v.recent(array("I", [3, 5, 9]))) == [False, True, True]
    assert v.recent_count() == 2
    v.add([11, 12])
    assert v.recent(array("I", [11])) is None


@given(
    st.sets(st.integers(1, 200), max_size=60),
    st.lists(st.tuples(st.booleans(), st.sets(st.integers(1, 300), max_size=20)), max_size=10),
)
def test_what_the_client_counts_is_what_we_count(start, steps):
    """A client that applies our EXPUNGEs and EXISTS in order has the same list."""
    v = View(array("I", sorted(start)))
    client = sorted(start)
    for adds, uids in steps:
        if adds:
            fresh = sorted(uid for uid in uids if uid > v.last_uid)
            assert v.add(sorted(uids)) == len(fresh)
            client += fresh
        else:
            v.remove(UidSet.of(uids))
            for number in v.take_expunged():
                del client[number - 1]
        assert client == list(v.uids)
        assert list(v.numbers(v.uids)) == list(range(1, len(client) + 1))
