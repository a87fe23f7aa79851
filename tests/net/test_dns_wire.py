"""Packets and name servers: whatever comes, an answer is ours only if it repeats our question. Case 106."""

from __future__ import annotations

import contextlib
import ipaddress

import dns.message
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.net.dns_wire import NameServer, is_answer_to, parse_name_server

NAMES = st.lists(st.from_regex(r"[A-Za-z0-9-]{1,12}", fullmatch=True), min_size=1, max_size=4).map(".".join)


def packet(name: str, number: int, kind: str = "MX") -> bytes:
    return dns.message.make_query(name, kind, id=number, use_edns=0).to_wire()


@settings(max_examples=200, deadline=None)
@given(name=NAMES, number=st.integers(0, 65535), octets=st.binary(max_size=80))
def test_any_octets_answer_or_do_not(name: str, number: int, octets: bytes) -> None:
    query = packet(name, number)
    assert not is_answer_to(query, query)  # a question is no answer
    answer = dns.message.make_response(dns.message.from_wire(query)).to_wire()
    assert is_answer_to(query, answer)
    assert is_answer_to(query, answer + octets)  # trailing octets are not the question's
    for cut in range(len(query) - 11):
        assert not is_answer_to(query, answer[:cut])
    is_answer_to(query, octets)
    is_answer_to(query, answer[:12] + octets)


@settings(max_examples=200, deadline=None)
@given(name=NAMES, number=st.integers(0, 65535), other=NAMES, wrong=st.integers(1, 65535))
def test_case_106_another_id_question_or_spelling_is_none(name: str, number: int, other: str, wrong: int) -> None:
    query = packet(name, number)

    def answer(name: str, number: int, kind: str = "MX") -> bytes:
        return dns.message.make_response(dns.message.from_wire(packet(name, number, kind))).to_wire()

    assert not is_answer_to(query, answer(name, number ^ wrong))
    assert not is_answer_to(query, answer(name, number, "TXT"))
    assert is_answer_to(query, answer(other, number)) == (other == name)
    assert is_answer_to(query, answer(other, number), exact_case=False) == (other.lower() == name.lower())


@settings(max_examples=200, deadline=None)
@given(address=st.ip_addresses().map(str), port=st.integers(1, 65535))
def test_name_servers_are_read_as_they_are_written(address: str, port: int) -> None:
    assert parse_name_server(address) == NameServer(address)
    assert parse_name_server(f"[{address}]:{port}" if ":" in address else f"{address}:{port}") == NameServer(
        address, port
    )


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30) | st.text("0123456789.:[]%", max_size=20))
def test_any_text_is_a_name_server_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(parse_name_server(text).address)
