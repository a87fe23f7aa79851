"""Sets of UIDs stay intervals. Source: RFC 3501 §9."""

import itertools
from array import array

from hypothesis import given
from hypothesis import strategies as st

from pillarbox.model.uids import ALL, UidSet, normalise

numbers = st.integers(1, 60)


@given(st.lists(st.tuples(numbers, numbers)))
def test_normalised_ranges_hold_the_same_numbers(ranges):
    made = normalise(ranges)
    assert {n for a, b in ranges for n in range(min(a, b), max(a, b) + 1)} == {
        n for a, b in made for n in range(a, b + 1)
    }
    assert all(high + 1 < low for (_, high), (low, _) in itertools.pairwise(made))


@given(st.sets(numbers), st.sets(numbers))
def test_among_is_the_intersection(wanted, there):
    chosen = UidSet.of(wanted)
    ordered = array("I", sorted(there))
    assert chosen.among(ordered) == sorted(wanted & there)
    assert ALL.among(ordered) == sorted(there)
    assert all((n in chosen) == (n in wanted) for n in range(62))


def test_written_as_imap_does():
    assert str(UidSet.of([5, 1, 2, 3, 9])) == "1:3,5,9"
    assert not UidSet.of([])
