"""Ids sort by time and are safe as names. Source: docs/store.md, "Ids"."""

import os

from pillarbox.model.ids import base32_id, email_id, id_time_s, make_id


def test_later_ids_sort_later_and_tell_their_time():
    ids = [make_id(1_800_000_000 + n / 1000, os.urandom) for n in range(5)]
    assert ids == sorted(ids)
    assert id_time_s(ids[3]) == 1_800_000_000.003


def test_base32_is_a_name_for_each_id():
    a, b = make_id(1.0, lambda n: b"\0" * n), make_id(1.0, lambda n: b"\0" * (n - 1) + b"\1")
    assert len(base32_id(a)) == 26
    assert base32_id(a) != base32_id(b)
    assert base32_id(a).isalnum() and base32_id(a).islower()


def test_an_email_id_depends_on_message_and_recipient_only():
    spool = make_id(5.0, os.urandom)
    assert email_id(spool, "ada@x") == email_id(spool, "ada@x")
    assert email_id(spool, "ada@x") != email_id(spool, "bob@x")
