"""POP3 RETR and TOP per second, beside Dovecot with the same messages.

Two ways, for each command: one after the other (a client that waits for each answer), and pipelined (RFC 2449 §6.6).
Each session runs the whole mailbox twice and the second counts; interleaved pairs (A B A B), medians.

    python -m bench.pop3 [--messages 3000] [--pairs 5]
"""

from __future__ import annotations

import time

from tests.neighbours.mailhost import MailHost, User
from tests.neighbours.wire import PopWire

from bench.figures import Row, arguments, finish, in_pairs
from bench.filling import fill_dovecot, fill_pillarbox
from bench.hosts import both, make_users

END = b"\r\n.\r\n"


def rows(messages: int, pairs: int) -> list[Row]:
    """Fill both mailboxes and measure every command."""
    [user] = make_users(["reader"])
    found = []
    with both((user,)) as hosts:
        ours, theirs = hosts.ours.mailhost, hosts.theirs.mailhost
        fill_pillarbox(hosts.ours, user, messages)
        fill_dovecot(hosts.theirs.dovecot, user, messages)
        for name, command, ahead in [
            ("POP3 RETR", "RETR %d", 1),
            ("POP3 TOP n 0", "TOP %d 0", 1),
            ("POP3 RETR, pipelined", "RETR %d", 16),
            ("POP3 TOP n 0, pipelined", "TOP %d 0", 16),
        ]:
            rates = in_pairs(
                pairs,
                lambda command=command, ahead=ahead: a_second(ours, user, command, messages, ahead),
                lambda command=command, ahead=ahead: a_second(theirs, user, command, messages, ahead),
            )
            found.append(Row(name, "messages/s", *rates, "≥ 1"))
    return found


def a_second(mailhost: MailHost, user: User, command: str, messages: int, ahead: int) -> float:
    """Return how many answers a second `command` gets, `ahead` of them sent before the first answer."""
    with PopWire(mailhost.pop3, user, timeout_s=120) as pop:
        assert pop.say("STAT").split()[1] == b"%d" % messages
        _all(pop, command, messages, ahead)
        begun = time.perf_counter()
        _all(pop, command, messages, ahead)
        took = time.perf_counter() - begun
        pop.quit()
    return messages / took


def _all(pop: PopWire, command: str, messages: int, ahead: int) -> None:
    """Run `command` for all messages; answers are only searched for their ends."""
    sock = pop.sock
    for start in range(1, messages + 1, ahead):
        numbers = range(start, min(start + ahead, messages + 1))
        sock.sendall("".join(f"{command}\r\n" % number for number in numbers).encode())
        ends, carry = 0, b""
        while ends < len(numbers):
            octets = sock.recv(262144)
            if not octets:
                raise ConnectionError("the server closed the connection")
            octets = carry + octets
            ends += octets.count(END)
            # enough to see an end that is cut, but never a whole one twice
            carry = b"" if octets.endswith(END) else octets[-(len(END) - 1) :]
        assert octets.endswith(END)


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, messages=3000, pairs=5)
    finish(rows(options.messages, options.pairs), as_json=options.json)


if __name__ == "__main__":
    main()
