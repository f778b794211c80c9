"""The moments of a request, from the durations in its entries."""

from __future__ import annotations

from contextlib import suppress

from otel_lifecycle.observation.envoy.entry import Answer, Entry, known, unix_ns

_MICROSECOND, _MILLISECOND = 1_000, 1_000_000
_LONGEST = 1 << 50  # microseconds; beyond it a duration is none
_NOTHING_READ = Answer()


def sent_ns(entry: Entry, arrived_ns: int) -> int | None:
    """Return when the first byte was sent to the endpoint that answered; None is unknown."""
    elapsed = _elapsed_ns(entry.up_tx_us)
    return None if elapsed is None else arrived_ns + elapsed


def first_byte_ns(entry: Entry, arrived_ns: int) -> int | None:
    """Return when the first byte of the body came, in nanoseconds since the arrival."""
    elapsed = _elapsed_ns(entry.ttfb_body_us)
    if elapsed is not None:
        return elapsed
    first_us = (entry.llm or _NOTHING_READ).first_us
    if first_us is not None and first_us.isdecimal() and len(first_us) <= 16:
        return max(0, int(first_us) * _MICROSECOND - arrived_ns)
    return None


def end_ns(entry: Entry, began_ns: int) -> int | None:
    """Return when a request or an attempt ended; None is unknown."""
    sent = _elapsed_ns(entry.e2e_us)
    if sent is not None:
        return began_ns + sent
    duration = _elapsed_ns(entry.dur_ms, _MILLISECOND)
    if duration is None:
        return None
    ended_ns = began_ns + duration
    with suppress(ValueError):
        now_ns = unix_ns(known(entry.now))
        # More exact, unless the clock was set meanwhile.
        if abs(now_ns - ended_ns) <= 2 * _MILLISECOND:
            return max(began_ns, now_ns)
    return ended_ns


def _elapsed_ns(value: int | None, unit: int = _MICROSECOND) -> int | None:
    return value * unit if value is not None and 0 <= value < _LONGEST else None
