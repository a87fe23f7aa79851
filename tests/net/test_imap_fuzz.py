"""Commands put together at random, right and wrong: each is answered, none finds a mistake of ours."""

from __future__ import annotations

import random

import pytest

from .imap_world import World, play, sample

NUMBERS = ["1", "1:*", "*", "2,1:3", "9", "4294967295", "0", "*:1", "1:9,*"]
BOXES = [
    "INBOX",
    "inbox",
    "Archive",
    "Work",
    "Work/a",
    '""',
    '"a b"',
    "&U,BTFw-",
    "{4+}\r\nWork",
    "Nowhere",
    "%",
    '"x/"',
]
FLAGS = ["\\Seen", "\\Deleted", "(\\Flagged $a)", "()", "(\\Answered b c)", "\\Recent", "(\\Nope)", "key"]
ITEMS = [
    "FLAGS", "ALL", "FULL", "FAST", "(UID FLAGS)", "BODY[]", "BODY.PEEK[HEADER]<0.10>", "BODY[1.2]", "RFC822.SIZE",
    "(BODY.PEEK[HEADER.FIELDS (From X)] ENVELOPE)", "BODYSTRUCTURE", "(INTERNALDATE BODY[TEXT])", "BODY[",
    "RFC822.HEADER", "BODY.PEEK[HEADER.FIELDS (Received Subject)]",
]  # fmt: skip
KEYS = [
    "ALL", "UNSEEN", "NEW", "OLD", "RECENT", "KEYWORD $a", "SUBJECT message", "BODY hello", "TEXT {3+}\r\nada",
    "UID 1:*", "NOT SEEN", "OR DELETED 1", "SINCE 1-Jan-2000", "SENTON 2-Jan-2027", "LARGER 10",
    "HEADER Received x", "(1 2)",
]  # fmt: skip


def command(choice: random.Random) -> str:
    def pick(options: list[str]) -> str:
        return choice.choice(options)

    uid = pick(["", "UID "])
    return pick(
        [
            f"SELECT {pick(BOXES)}",
            "SELECT INBOX",
            f"EXAMINE {pick(BOXES)}",
            f"CREATE {pick(BOXES)}",
            f"DELETE {pick(BOXES[2:])}",
            f"RENAME {pick(BOXES[2:])} {pick(BOXES)}",
            f"SUBSCRIBE {pick(BOXES)}",
            f"UNSUBSCRIBE {pick(BOXES)}",
            f'LIST "" {pick([*BOXES, "*", "%/%", "W*"])}',
            f"LSUB {pick(BOXES)} {pick(['*', '%'])}",
            f"STATUS {pick(BOXES)} (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN)",
            f"APPEND {pick(BOXES)} {{10+}}\r\nA: b\r\n\r\nc\r",
            f"APPEND {pick(BOXES)} (\\Seen x) {{9+}}\r\nA: b\r\n\r\nc",
            *[f"{uid}FETCH {pick(NUMBERS)} {pick(ITEMS)}"] * 4,
            *[f"{uid}STORE {pick(NUMBERS)} {pick(['+', '-', ''])}FLAGS{pick(['', '.SILENT'])} {pick(FLAGS)}"] * 3,
            *[f"{uid}SEARCH {pick(KEYS)} {pick(KEYS)}"] * 3,
            f"{uid}COPY {pick(NUMBERS)} {pick(BOXES)}",
            f"{uid}MOVE {pick(NUMBERS)} {pick(BOXES)}",
            "EXPUNGE",
            f"UID EXPUNGE {pick(NUMBERS)}",
            pick(["NOOP", "CHECK", "CLOSE", "UNSELECT", "NAMESPACE", "CAPABILITY", "ID NIL", "ENABLE X"]),
        ]
    )


@pytest.mark.parametrize("seed", range(3))
def test_every_command_is_answered(tmp_path, seed):
    async def story(world: World) -> None:
        choice = random.Random(seed)
        await world.file(*map(sample, range(6)))
        clients = [await world.connect("ada") for _ in range(2)]
        for turn in range(300):
            client = choice.choice(clients)
            said = command(choice)
            answer = await client.command(said)
            assert answer, said
            if any(line.startswith("* BYE The selected mailbox was deleted") for line in answer):
                clients[clients.index(client)] = await world.connect("ada")
                continue
            assert answer[-1].split()[1] in ("OK", "NO", "BAD"), (said, answer)
            assert "SERVERBUG" not in answer[-1] and "UNAVAILABLE" not in answer[-1], (said, answer)
            if "BYE" in answer[-1] or client.reader.at_eof():
                clients[clients.index(client)] = await world.connect("ada")
            if turn % 20 == 10:
                await world.file(*map(sample, range(3)))
                await client.command("NOOP")

    play(tmp_path, story)
