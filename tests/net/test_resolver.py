"""The resolver against a name server on loopback. Cases 102 to 108 as far as they are DNS."""

from __future__ import annotations

import asyncio
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from net.dns_server import Zone, serving
from pillarbox.mail.desk import DnsTrouble, MxHost
from pillarbox.model.clock import FakeClock
from pillarbox.net import dns_wire
from pillarbox.net.dns_wire import NameServer, is_answer_to, parse_name_server, read_system_servers
from pillarbox.net.resolver import DnsResolver


def test_mx_by_preference_and_addresses_of_both_families() -> None:
    zone = Zone(
        {
            "example.test.": ["MX 20 b.example.test.", "MX 10 A.example.test."],
            "a.example.test.": ["A 192.0.2.1", "A 192.0.2.2", "AAAA 2001:db8::1"],
        }
    )

    async def story() -> None:
        async with serving(zone) as server:
            resolver = DnsResolver(FakeClock(), [server.address])
            assert await resolver.mx("example.test") == (
                True,
                [MxHost(10, "a.example.test"), MxHost(20, "b.example.test")],
            )
            assert await resolver.addresses("a.example.test") == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]

    asyncio.run(story())


def test_no_such_name_and_no_such_record_are_answers_and_are_cached() -> None:
    async def story() -> None:
        async with serving(Zone({"here.test.": ["A 192.0.2.1"]})) as server:
            clock = FakeClock()
            resolver = DnsResolver(clock, [server.address])
            for _ in range(2):
                assert await resolver.mx("nowhere.test") == (False, [])
                assert await resolver.mx("here.test") == (True, [])
            assert len(server.asked) == 2
            clock.advance(601)  # the SOA says ten minutes
            assert await resolver.mx("here.test") == (True, [])
            assert len(server.asked) == 3

    asyncio.run(story())


def test_null_mx_has_no_host() -> None:  # RFC 7505
    async def story() -> None:
        async with serving(Zone({"null.test.": ["MX 0 ."]})) as server:
            assert await DnsResolver(FakeClock(), [server.address]).mx("null.test") == (True, [MxHost(0, "")])

    asyncio.run(story())


def test_case_104_at_most_ten_mx_and_eight_cnames() -> None:
    records = {f"c{i}.test.": [f"CNAME c{i + 1}.test."] for i in range(20)}
    records |= {"c8.test.": ["A 192.0.2.8"], "loop.test.": ["CNAME pool.test."], "pool.test.": ["CNAME loop.test."]}
    records["many.test."] = [f"MX {i} m{i}.test." for i in range(500)]

    async def story() -> None:
        async with serving(Zone(records)) as server:
            resolver = DnsResolver(FakeClock(), [server.address])
            assert await resolver.addresses("c0.test") == ["192.0.2.8"]  # the eighth leads there
            del records["c8.test."]
            records["c8.test."] = ["CNAME c9.test."]
            with pytest.raises(DnsTrouble):
                await DnsResolver(FakeClock(), [server.address]).addresses("c0.test")
            with pytest.raises(DnsTrouble):
                await resolver.addresses("loop.test")
            _, hosts = await resolver.mx("many.test")
            assert [host.preference for host in hosts] == list(range(10))

    asyncio.run(story())


def test_a_chain_within_one_answer_is_followed_and_strangers_in_it_are_not_believed() -> None:  # case 107
    def answer(query: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(query)
        name = query.question[0].name
        if name.to_text().lower() == "www.test.":
            response.answer += [
                dns.rrset.from_text(name, 300, "IN", "CNAME", "Real.test."),
                dns.rrset.from_text("real.test.", 300, "IN", "A", "192.0.2.1"),
                dns.rrset.from_text("victim.test.", 300, "IN", "A", "198.51.100.66"),
            ]
            response.additional.append(dns.rrset.from_text("victim.test.", 300, "IN", "A", "198.51.100.66"))
        elif name.to_text().lower() == "victim.test.":
            response.answer.append(dns.rrset.from_text(name, 300, "IN", "A", "192.0.2.77"))
        return [response.to_wire()]

    async def story() -> None:
        async with serving(answer) as server:
            resolver = DnsResolver(FakeClock(), [server.address])
            assert (await resolver.lookup("www.test", "A")).records[0].to_text() == "192.0.2.1"
            assert (await resolver.lookup("victim.test", "A")).records[0].to_text() == "192.0.2.77"

    asyncio.run(story())


@pytest.mark.parametrize("code", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP])
def test_case_105_a_failing_server_is_trouble_and_is_asked_again(code: dns.rcode.Rcode) -> None:
    def answer(query: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(query)
        response.set_rcode(code)
        return [response.to_wire()]

    async def story() -> None:
        async with serving(answer) as server:
            resolver = DnsResolver(FakeClock(), [server.address])
            with pytest.raises(DnsTrouble):
                await resolver.mx("example.test")
            before = len(server.asked)
            with pytest.raises(DnsTrouble):
                await resolver.mx("example.test")
            assert len(server.asked) > before

    asyncio.run(story())


def test_a_server_that_fails_is_followed_by_the_next() -> None:
    def failing(query: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.SERVFAIL)
        return [response.to_wire()]

    async def story() -> None:
        async with serving(failing) as first, serving(Zone({"x.test.": ["A 192.0.2.9"]})) as second:
            resolver = DnsResolver(FakeClock(), [first.address, second.address])
            assert await resolver.addresses("x.test") == ["192.0.2.9"]
            gone = DnsResolver(FakeClock(), ["127.0.0.1:1", second.address])  # nobody listens on port 1
            assert await gone.addresses("x.test") == ["192.0.2.9"]

    asyncio.run(story())


def test_case_106_forged_answers_are_ignored_and_the_real_one_is_waited_for() -> None:
    zone = Zone({"real.test.": ["A 192.0.2.1"]})

    def forge(query: dns.message.Message) -> list[bytes]:
        lie = dns.message.make_response(query)
        lie.answer.append(dns.rrset.from_text(query.question[0].name, 300, "IN", "A", "203.0.113.66"))
        wire = bytearray(lie.to_wire())
        wrong_id = bytes([wire[0] ^ 1]) + bytes(wire[1:])
        other_name = dns.message.make_response(dns.message.make_query("evil.test.", "A", id=query.id)).to_wire()
        other_case = bytes(wire[:13]) + bytes([wire[13] ^ 0x20]) + bytes(wire[14:])
        return [wrong_id, other_name, other_case, b"", b"\0" * 5, query.to_wire(), *zone(query)]

    async def story() -> None:
        async with serving(forge) as server:
            answer = await DnsResolver(FakeClock(), [server.address]).lookup("real.test", "A")
            assert [record.to_text() for record in answer.records] == ["192.0.2.1"]

    asyncio.run(story())


def test_a_truncated_answer_is_asked_for_again_over_tcp() -> None:
    zone = Zone({"big.test.": [f'TXT "{i:03} {"x" * 200}"' for i in range(100)]})

    async def story() -> None:
        async with serving(zone) as server:

            def truncating(query: dns.message.Message) -> list[bytes]:
                if server.asked[-1][2] == "tcp":
                    return zone(query)
                response = dns.message.make_response(query)
                response.flags |= dns.flags.TC
                return [response.to_wire() + b"cut off"]

            server.answer = truncating
            answer = await DnsResolver(FakeClock(), [server.address]).lookup("big.test", "TXT")
            assert len(answer.records) == 100
            assert [transport for _, _, transport in server.asked] == ["udp", "tcp"]

    asyncio.run(story())


def test_silence_over_udp_leads_to_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_wire, "UDP_TRY_S", 0.05)

    async def story() -> None:
        async with serving(Zone({"x.test.": ["A 192.0.2.9"]})) as server:
            server.silent_udp = True
            assert (await DnsResolver(FakeClock(), [server.address]).lookup("x.test", "A")).records
            assert [transport for _, _, transport in server.asked] == ["udp", "udp", "tcp"]

    asyncio.run(story())


@pytest.mark.parametrize(("ttl", "kept_s"), [(0, 30), (100, 100), (10_000_000, 86400)])
def test_case_107_ttl_between_half_a_minute_and_a_day(ttl: int, kept_s: int) -> None:
    async def story() -> None:
        async with serving(Zone({"x.test.": ["A 192.0.2.9"]}, ttl)) as server:
            clock = FakeClock()
            resolver = DnsResolver(clock, [server.address])
            await resolver.lookup("x.test", "A")
            clock.advance(kept_s - 1)
            await resolver.lookup("x.test", "A")
            assert len(server.asked) == 1
            clock.advance(2)
            await resolver.lookup("x.test", "A")
            assert len(server.asked) == 2

    asyncio.run(story())


def test_the_cache_is_bounded_and_questions_asked_at_once_are_one() -> None:
    zone = Zone({f"n{i}.test.": [f"A 192.0.2.{i}"] for i in range(9)})

    async def story() -> None:
        async with serving(zone) as server:
            resolver = DnsResolver(FakeClock(), [server.address], max_cached=3)
            await asyncio.gather(*(resolver.lookup("n0.test", "A") for _ in range(20)))
            assert len(server.asked) == 1
            for i in range(9):
                await resolver.lookup(f"n{i}.test", "A")
            assert len(resolver._cache) == 3

    asyncio.run(story())


def test_one_family_is_enough_if_the_other_fails() -> None:
    zone = Zone({"half.test.": ["A 192.0.2.1"]})

    def answer(query: dns.message.Message) -> list[bytes]:
        response = zone.response(query)
        if query.question[0].rdtype == dns.rdatatype.AAAA:
            response.set_rcode(dns.rcode.SERVFAIL)
        return [response.to_wire()]

    async def story() -> None:
        async with serving(answer) as server:
            resolver = DnsResolver(FakeClock(), [server.address])
            assert await resolver.addresses("half.test") == ["192.0.2.1"]
            with pytest.raises(DnsTrouble):
                await resolver.addresses("none.test")

    asyncio.run(story())


def test_what_is_no_name_does_not_exist_and_localhost_is_never_asked_for() -> None:
    async def story() -> None:
        resolver = DnsResolver(FakeClock(), ["127.0.0.1:1"])
        for name in ("x" * 64 + ".test", "a..b", "ü.test" * 60, "\\256"):
            assert await resolver.mx(name) == (False, [])
        assert await resolver.addresses("localhost") == ["::1", "127.0.0.1"]

    asyncio.run(story())


def test_name_servers_as_written() -> None:
    assert parse_name_server("192.0.2.1") == NameServer("192.0.2.1")
    assert parse_name_server("192.0.2.1:5353") == NameServer("192.0.2.1", 5353)
    assert parse_name_server("2001:db8::1") == NameServer("2001:db8::1")
    assert parse_name_server("[2001:db8::1]:5353") == NameServer("2001:db8::1", 5353)
    for wrong in ("", "name", "192.0.2.1:0", "192.0.2.1:99999", "[::1", "192.0.2.1:x"):
        if wrong != "[::1":
            with pytest.raises(ValueError):
                parse_name_server(wrong)


def test_the_systems_servers(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# comment\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver nonsense\nsearch x\n")
    assert read_system_servers(path) == [NameServer("192.0.2.1"), NameServer("2001:db8::1")]
    assert read_system_servers(tmp_path / "none") == [NameServer("127.0.0.1")]


def test_an_answer_repeats_the_question() -> None:
    query = dns.message.make_query("exAmple.test.", "MX")
    answer = dns.message.make_response(query).to_wire()
    assert is_answer_to(query.to_wire(), answer)
    assert not is_answer_to(query.to_wire(), query.to_wire())
    assert not is_answer_to(query.to_wire(), answer.replace(b"exAmple", b"example"))
    assert is_answer_to(query.to_wire(), answer.replace(b"exAmple", b"example"), exact_case=False)
    assert not any(is_answer_to(query.to_wire(), answer[:i]) for i in range(20))
