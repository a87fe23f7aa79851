from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.net.networks import Networks


def test_members() -> None:
    networks = Networks(["127.0.0.0/8", "192.0.2.7", "fd00::/8", "::1"])
    for inside in ("127.0.0.1", "127.255.255.255", "192.0.2.7", "fd12::1", "::1", "::ffff:127.0.0.1"):
        assert inside in networks
    for outside in ("128.0.0.1", "192.0.2.8", "fe80::1%lo", "::2", "local", "", "127.1", "1.2.3.4.5", "\0", "x:y"):
        assert outside not in networks
    assert not Networks([]) and "127.0.0.1" not in Networks([])
    assert "203.0.113.9" in Networks(["0.0.0.0/0"])
    with pytest.raises(ValueError):
        Networks(["10.0.0.0/33"])


@given(
    st.lists(st.ip_addresses(v=4).flatmap(lambda a: st.integers(0, 32).map(lambda n: f"{a}/{n}"))), st.ip_addresses()
)
def test_as_the_standard_library_says(texts: list[str], address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    expected = any(address.version == 4 and address in ipaddress.ip_network(text, strict=False) for text in texts)
    assert (str(address) in Networks(texts)) == expected


@given(st.text())
def test_no_text_raises(text: str) -> None:
    assert text not in Networks(["192.0.2.0/24"]) or text.startswith(("192.0.2.", "::ffff:"))
