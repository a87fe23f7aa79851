"""Where mail for an address goes: aliases, catch-alls, details, roles; and which hosts to try for other domains."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.mail.desk import MxHost
from pillarbox.mail.hops import HopFinder
from pillarbox.mail.route import MAX_PLACES, Router, find_route
from pillarbox.model.address import Address
from pillarbox.model.outcome import Deferred, Failed
from pillarbox.model.settings import Listener, Outbound, Route
from pillarbox.store.api import Alias

from .fakes import Resolver, seeded
from .world import SETTINGS, World, address


async def ends(world: World, text: str) -> list[str]:
    """The addresses that an address comes to, or the status it is refused with."""
    found = await Router(world.store.directory, world.settings).resolve(address(text))
    return sorted(str(place.address) for place in found.places) or [str(found.status)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ada@us.example", ["ada@us.example"]),
        ("ADA@US.example", ["ADA@us.example"]),
        ("ada+anything@us.example", ["ada+anything@us.example"]),
        ("team@us.example", ["ada@us.example", "far@away.example"]),
        ("team+x@us.example", ["ada@us.example", "far@away.example"]),
        ("special+x@us.example", ["bob@us.example"]),
        ("nested@us.example", ["ada@us.example", "bob@us.example", "far@away.example"]),
        ("dangling@us.example", ["5.1.1"]),
        ("half@us.example", ["bob@us.example"]),
        ("nobody@us.example", ["5.1.1"]),
        ("anyone@caught.example", ["bob@us.example"]),
        ("known@caught.example", ["ada@us.example"]),
        ("x@away.example", ["x@away.example"]),
        ("+x@us.example", ["5.1.1"]),
    ],
)
def test_expansion(text, expected):
    async def scenario():
        world = await World().furnish()
        await world.store.directory.add_domain("caught.example")
        await world.alias("team@us.example", "ada@us.example", "far@away.example")
        await world.alias("special+x@us.example", "bob@us.example")
        await world.alias("nested@us.example", "team@us.example", "bob@us.example")
        await world.alias("dangling@us.example", "nobody@us.example")
        await world.alias("half@us.example", "nobody@us.example", "bob@us.example")
        await world.alias("@caught.example", "bob@us.example")
        await world.alias("known@caught.example", "ada@us.example")
        assert await ends(world, text) == expected

    asyncio.run(scenario())


def test_case_101_an_alias_bomb_is_capped():
    async def scenario():
        world = await World().furnish()
        for level in range(10):
            targets = tuple(Address(f"l{level + 1}x{i}", "us.example") for i in range(10))
            for i in range(10):
                await world.store.directory.add_alias(Alias(Address(f"l{level}x{i}", "us.example"), targets))
        wide = tuple(Address(f"u{i}", "away.example") for i in range(MAX_PLACES + 1))
        await world.store.directory.add_alias(Alias(Address("wide", "us.example"), wide))
        for i in range(12):
            await world.alias(f"deep{i}@us.example", f"deep{i + 1}@us.example")
        await world.alias("deep12@us.example", "ada@us.example")
        assert await ends(world, "deep0@us.example") == ["5.4.6"]
        assert await ends(world, "deep3@us.example") == ["ada@us.example"]
        assert await ends(world, "wide@us.example") == ["5.4.6"]
        world.store.directory.looked_up = 0
        await ends(world, "l0x0@us.example")
        assert world.store.directory.looked_up <= 2 * 101

    asyncio.run(scenario())


@given(edges=st.dictionaries(st.integers(0, 9), st.lists(st.integers(0, 12), min_size=1, max_size=4), max_size=10))
def test_case_100_any_graph_of_aliases_ends_with_one_copy_each(edges):
    async def scenario():
        world = await World().furnish([f"n{i}@us.example" for i in range(13) if i not in edges])
        for own, targets in edges.items():
            await world.alias(f"n{own}@us.example", *(f"n{target}@us.example" for target in targets))
        for start in range(13):
            reached, work = set(), [start]
            while work:
                if (node := work.pop()) not in reached:
                    reached.add(node)
                    work += edges.get(node, [])
            users = sorted(f"n{node}@us.example" for node in reached if node not in edges)
            assert await ends(world, f"n{start}@us.example") == (users or ["5.4.6"])

    asyncio.run(scenario())


def test_an_answer_is_kept_until_the_directory_changes():
    async def scenario():
        world = await World().furnish()
        router = Router(world.store.directory, world.settings)
        first = await router.resolve(address("ada@us.example"))
        assert await router.resolve(address("ada@us.example")) is first
        assert (await router.resolve(address("cy@us.example"))).places == ()
        await world.add_user("cy@us.example")
        assert len((await router.resolve(address("cy@us.example"))).places) == 1

    asyncio.run(scenario())


def test_removed_accounts_are_unknown_disabled_ones_get_mail():
    async def scenario():
        world = await World().furnish()
        account = await world.account("bob")
        await world.store.directory.set_state(account.id, "disabled", 0)
        assert await ends(world, "bob@us.example") == ["bob@us.example"]
        await world.store.directory.set_state(account.id, "removed", 0)
        assert await ends(world, "bob@us.example") == ["5.1.1"]

    asyncio.run(scenario())


ROUTES = (Route("one.example", "192.0.2.1"), Route("*.two.example", "192.0.2.2"), Route("*", "192.0.2.3"))


@pytest.mark.parametrize(
    ("domain", "host"),
    [("one.example", 1), ("a.one.example", 3), ("two.example", 3), ("a.two.example", 2), ("a.b.two.example", 2)],
)
def test_the_first_static_route_that_matches(domain, host):
    route = find_route(ROUTES, domain)
    assert route is not None and route.host == f"192.0.2.{host}"
    assert find_route((), domain) is None


def finder(resolver: Resolver, outbound: Outbound = Outbound(), **kwargs: object) -> HopFinder:  # noqa: B008
    settings = replace(SETTINGS, outbound=outbound, listeners=(Listener("smtp", "203.0.113.1", 25),))
    return HopFinder(resolver, settings, seeded(3), **kwargs)  # type: ignore[arg-type]


def hops(found: HopFinder, name: str) -> object:
    """Addresses in order, or the status."""
    result = asyncio.run(found.hops_for(name))
    return [hop.address for hop in result] if isinstance(result, list) else f"{type(result).__name__} {result.status}"


def world_of_names() -> Resolver:
    return Resolver(
        mxs={
            "a.example": [MxHost(20, "mx2.a.example"), MxHost(10, "mx1.a.example")],
            "null.example": [MxHost(0, "")],
            "many.example": [MxHost(i, f"h{i}.example") for i in range(1000)],
            "backup.example": [MxHost(10, "mx1.a.example"), MxHost(20, "MX.us.example"), MxHost(30, "mx2.a.example")],
            "ours.example": [MxHost(10, "mx.us.example"), MxHost(20, "mx2.a.example")],
            "self.example": [MxHost(10, "alias-of-us.example")],
            "inside.example": [MxHost(10, "inside-host.example")],
            "empty.example": [MxHost(10, "nowhere.example")],
            "half.example": [MxHost(10, "dark.example"), MxHost(20, "mx2.a.example")],
            "darkhosts.example": [MxHost(10, "dark.example"), MxHost(20, "nowhere.example")],
            "equal.example": [MxHost(10, f"h{i}.example") for i in range(6)],
        },
        hosts={
            "mx1.a.example": ["8.8.1.1", "2a00::1"],
            "mx2.a.example": ["8.8.1.2"],
            "plain.example": ["8.8.1.3"],
            "alias-of-us.example": ["203.0.113.1"],
            "inside-host.example": [
                "127.0.0.1",
                "10.1.2.3",
                "0.0.0.0",
                "169.254.1.1",
                "::1",
                "fe80::1",
                "::ffff:10.0.0.1",
            ],
            "relay.example": ["10.0.0.25"],
            **{f"h{i}.example": [f"8.8.{i // 250}.{i % 250}"] for i in range(1000)},
        },
        broken={"dark.example", "servfail.example"},
    )


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("a.example", ["8.8.1.1", "2a00::1", "8.8.1.2"]),
        ("plain.example", ["8.8.1.3"]),  # implicit MX
        ("nosuch.example", "Failed 5.1.2"),
        ("null.example", "Failed 5.1.10"),  # case 103
        ("backup.example", ["8.8.1.1", "2a00::1"]),
        ("ours.example", "Failed 5.4.6"),  # case 102
        ("self.example", "Failed 5.4.6"),
        ("inside.example", "Failed 5.4.4"),
        ("empty.example", "Failed 5.4.4"),
        ("servfail.example", "Deferred 4.4.3"),  # case 105
        ("half.example", ["8.8.1.2"]),
        ("darkhosts.example", "Deferred 4.4.3"),
        ("[8.8.4.4]", ["8.8.4.4"]),
        ("[IPv6:2a00::5]", ["2a00::5"]),
        ("[127.0.0.1]", "Failed 5.4.4"),
        ("[203.0.113.1]", "Failed 5.4.6"),
        ("[nonsense]", "Failed 5.1.2"),
    ],
)
def test_hosts_for_a_domain(domain, expected):
    assert hops(finder(world_of_names()), domain) == expected


def test_case_104_at_most_ten_hosts():
    assert hops(finder(world_of_names()), "many.example") == [f"8.8.0.{i}" for i in range(10)]


def test_equal_preferences_are_shuffled():
    found = finder(world_of_names())
    orders = {tuple(hops(found, "equal.example")) for _ in range(20)}  # type: ignore[arg-type]
    assert len(orders) > 5 and all(len(order) == 6 for order in orders)


def test_networks_that_are_allowed_and_our_own_addresses():
    allowed = Outbound(allow_networks=("10.0.0.0/8", "127.0.0.0/8"), port=2500)
    assert hops(finder(world_of_names(), allowed), "inside.example") == ["127.0.0.1", "10.1.2.3", "::ffff:10.0.0.1"]
    own = finder(world_of_names(), own_addresses=["8.8.1.3"])
    assert hops(own, "plain.example") == "Failed 5.4.6"


def test_a_static_route_may_lead_inside():
    outbound = Outbound(routes=(Route("*", "relay.example", 2525, tls="verify", username="u", password="p"),))
    [hop] = asyncio.run(finder(world_of_names(), outbound).hops_for("*"))  # type: ignore[misc]
    assert (hop.address, hop.port, hop.tls, hop.username) == ("10.0.0.25", 2525, "verify", "u")
    gone = finder(Resolver(), outbound)
    assert isinstance(asyncio.run(gone.hops_for("*")), Deferred)
    assert not isinstance(asyncio.run(gone.hops_for("*")), Failed)
