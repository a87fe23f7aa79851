"""When to try again, when to tell the sender, when to give up: pure functions of times and attempts.

The delay doubles with each attempt from `first_retry_s` to `max_retry_s`, with ±10 % of chance so that what failed
together does not come back together; no gap is longer than `max_retry_s`. It counts from the attempt, not from when the
message came, so that a clock that jumped changes no delay. Source: RFC 5321 §4.5.4.1; cases 20, 23, 24.
"""

from __future__ import annotations

from collections.abc import Callable

from pillarbox.model.settings import Queue


def retry_delay_s(attempts: int, queue: Queue, chance: float) -> float:
    """Seconds until the next attempt after `attempts` failed ones (1 and more); `chance` is in [0, 1)."""
    base_s = min(queue.first_retry_s * 2.0 ** min(attempts - 1, 40), queue.max_retry_s)
    return min(base_s * (0.9 + 0.2 * chance), queue.max_retry_s)


def chance_of(random: Callable[[int], bytes]) -> float:
    """A number in [0, 1) from a source of random octets."""
    return int.from_bytes(random(3), "big") / (1 << 24)


def next_attempt_s(now_s: float, attempts: int, expires_s: float, queue: Queue, chance: float) -> float:
    """When to try again: as the delay says, but not long past the end of the lifetime, so that the last attempt (there
    is always one after the end, see `is_expired`) comes soon after it."""
    due_s = now_s + retry_delay_s(attempts, queue, chance)
    return max(min(due_s, expires_s + 1.0), now_s + min(60.0, queue.first_retry_s))


def is_expired(attempted_s: float, expires_s: float) -> bool:
    """True if the attempt that just failed was made after the lifetime ended: only then is the message returned, so
    that a clock that jumps ahead never returns what was not tried (case 20)."""
    return attempted_s >= expires_s


def is_delay_due(now_s: float, queued_s: float, reported: bool, queue: Queue) -> bool:
    """True if the sender is to be told, once, that the message is still on its way."""
    return not reported and queue.delay_notice_s > 0 and now_s - queued_s >= queue.delay_notice_s
