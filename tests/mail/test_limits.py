"""Who gets in: sessions and connects per host, network and account. Cases 86 to 88."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.desk import Session
from pillarbox.mail.limits import DoorGate
from pillarbox.mail.networks import Networks, is_public, network_keys
from pillarbox.mail.rates import RateTable, share_of
from pillarbox.model.address import Address
from pillarbox.model.clock import FakeClock
from pillarbox.model.errors import Refused
from pillarbox.model.ids import AccountId
from pillarbox.model.mailbox import Account
from pillarbox.model.settings import Limits, Settings

from .world import session


def gate(clock: FakeClock | None = None, **limits: int) -> DoorGate:
    return DoorGate(Settings(limits=replace(Limits(), **limits)), clock or FakeClock())


def enter(door: DoorGate, peer: str, protocol: str = "smtp") -> Session | str:
    at = session(protocol, peer=peer)
    try:
        door.admit(at)
    except Refused as refused:
        return f"{refused.status} {refused.rule}"
    return at


def test_sessions_of_a_host_and_of_its_networks():
    door = gate(sessions_per_ip=2)
    inside = [enter(door, "192.0.2.1") for _ in range(2)]
    assert enter(door, "192.0.2.1") == "4.7.0 sessions-per-ip"
    assert all(isinstance(enter(door, f"192.0.2.{i}"), Session) for i in (2, 3, 4, 5))
    assert enter(door, "192.0.2.6") == "4.7.0 sessions-per-ip"  # the /26 has three times two
    assert isinstance(enter(door, "192.0.2.65"), Session)  # another /26
    first = inside[0]
    assert isinstance(first, Session)
    door.leave(first)
    door.leave(first)
    assert isinstance(enter(door, "192.0.2.1"), Session)
    assert enter(door, "192.0.2.1") == "4.7.0 sessions-per-ip"


def test_case_086_connects_in_a_minute():
    clock = FakeClock()
    door = gate(clock, sessions_per_ip=1000)
    for number in range(301):
        at = enter(door, "192.0.2.1")
        if number == 300:
            assert at == "4.7.0 connects-per-minute"
        else:
            assert isinstance(at, Session)
            door.leave(at)
    clock.advance(120)
    assert isinstance(enter(door, "192.0.2.1"), Session)


def test_case_087_a_flood_from_one_network_leaves_another_alone():
    door = gate(connects_per_minute=10, sessions_per_ip=10_000)
    let_in = sum(isinstance(enter(door, f"127.0.1.{i}"), Session) for i in range(256) for _ in range(2))
    assert let_in <= 10 * 9
    assert isinstance(enter(door, "127.0.99.1"), Session)


def test_case_088_a_v6_network_is_one_host_and_the_table_is_bounded():
    door = gate(sessions_per_ip=5)
    let_in = sum(isinstance(enter(door, f"2001:db8::{i:x}"), Session) for i in range(1, 10_000))
    assert let_in == 5
    table = RateTable(60.0, capacity=1000)
    for number in range(50_000):
        table.add(number, 0.0)
    assert len(table) == 1000


def test_totals_hold_for_everyone_and_submission_has_its_own():
    door = DoorGate(Settings(limits=Limits(sessions_smtp=2), trusted_networks=("10.0.0.0/8",)), FakeClock())
    assert all(isinstance(enter(door, "10.0.0.1"), Session) for _ in range(2))
    assert enter(door, "10.0.0.1") == "4.3.2 sessions-total"
    assert isinstance(enter(door, "10.0.0.1", "submission"), Session)


def test_who_comes_when_four_fifths_of_the_places_are_taken_comes_under_stress():
    door = gate(sessions_smtp=10, sessions_per_ip=10)
    came = [enter(door, "192.0.2.7") for _ in range(10)]
    assert [s.stressed for s in came if isinstance(s, Session)] == [False] * 8 + [True] * 2
    submission = enter(door, "192.0.2.8", "submission")
    assert isinstance(submission, Session) and not submission.stressed


def test_trusted_and_relaying_networks():
    settings = Settings(
        limits=Limits(sessions_per_ip=1), trusted_networks=("10.0.0.0/8",), relay_networks=("10.1.0.0/16", "::1")
    )
    door = DoorGate(settings, FakeClock())
    many = [enter(door, "10.1.2.3") for _ in range(5)]
    assert all(isinstance(at, Session) and at.trusted and at.may_relay for at in many)
    other = enter(door, "192.0.2.1")
    assert isinstance(other, Session) and not other.trusted and not other.may_relay


def test_a_login_leaves_the_host_s_count_and_enters_the_account_s():
    door = gate(sessions_per_ip=1, sessions_per_account_and_ip=2)
    account = Account(AccountId("a"), Address("ada", "us.example"), "active")
    sessions = []
    for _ in range(2):
        at = enter(door, "192.0.2.1", "imap")
        assert isinstance(at, Session)
        at.account = account
        door.login(at)
        door.login(at)
        sessions.append(at)
    third = enter(door, "192.0.2.1", "imap")
    assert isinstance(third, Session)
    third.account = account
    with pytest.raises(Refused):
        door.login(third)
    door.leave(sessions[0])
    door.login(third)
    for at in (*sessions, third):
        door.leave(at)
    assert door._sessions == {} and door._places == {}


def test_networks_and_public_addresses():
    networks = Networks(["192.0.2.0/24", "2001:db8::/32"])
    assert "192.0.2.9" in networks and "::ffff:192.0.2.9" in networks and "2001:db8::9" in networks
    assert "192.0.3.9" not in networks and "local" not in networks and "junk" not in networks
    assert is_public("8.8.8.8") and is_public("2a00::1")
    for inner in (
        "127.0.0.1",
        "10.0.0.1",
        "0.0.0.0",
        "169.254.0.1",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "::ffff:10.0.0.1",
        "x",
    ):
        assert not is_public(inner)
    assert network_keys("192.0.2.1")[1:] == network_keys("192.0.2.62")[1:]
    assert network_keys("192.0.2.1")[1] != network_keys("192.0.2.65")[1]
    assert network_keys("::ffff:192.0.2.1") == network_keys("192.0.2.1")


@given(steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), max_size=40), limit=st.integers(1, 20))
def test_never_more_than_the_limit_in_a_window_from_its_start(steps, limit):
    table, now_s, taken = RateTable(60.0), 0.0, []
    for gap_s, amount in steps:
        now_s += gap_s
        if table.take("k", now_s, limit, amount):
            taken.append((now_s, amount))
    for start in range(int(now_s // 60) + 1):
        assert sum(amount for at, amount in taken if start * 60 <= at < start * 60 + 60) <= limit


def test_shares_of_workers():
    assert share_of(30, 1) == 30
    assert share_of(30, 2) == 19
    assert share_of(1, 8) == 1
