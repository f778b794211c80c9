"""One line of a log."""

from __future__ import annotations

import pytest

from otel_lifecycle.observation.envoy.entry import Answer, parse_entry, unix_ns
from tests.observation.entries import end, line


def test_numbers_as_text() -> None:
    """A text format writes numbers as text; `-` is unknown."""
    entry = parse_entry(end(code="200", attempts="3", up_tx_us="-", flags="-"))

    assert (entry.code, entry.attempts, entry.up_tx_us) == (200, 3, None)


def test_wrong_types_are_unknown() -> None:
    """A field that is not what it should be leaves the others as they are."""
    entry = parse_entry(
        end(code={}, ep=["x"], llm={"prompt_tokens": "many", "model": "m", "stream": 7}, lb="-")
    )

    assert (entry.code, entry.ep, entry.lb, entry.attempts) == (None, None, None, 1)
    assert entry.llm == Answer(model="m")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", None),
        (b'{"type":"Down', None),
        (b"[1]", "is not a JSON object"),
        (b"127.0.0.1 - - [24/Nov/2026] GET /", None),
        (b'{"level":"info"}', "has no type and t"),
        (line("TcpConnectionEnd"), "type is not one of"),
        (line("DownstreamEnd", v="9"), "v is '9'"),
        (b"[" * 100_000, None),
    ],
)
def test_no_entries(text: bytes, reason: str | None) -> None:
    """A line that is no entry is refused for one reason; None: in the words of msgspec."""
    with pytest.raises(ValueError, match=reason):
        parse_entry(text)


def test_times() -> None:
    """Seconds with three, six or nine digits; nothing else."""
    assert unix_ns("1795970684.260860") == 1_795_970_684_260_860_000
    assert unix_ns("1795970684.260860123") == 1_795_970_684_260_860_123
    assert unix_ns("1795970684.260") == 1_795_970_684_260_000_000
    for text in ("", "-", "1795970684", "1795970684.26", "-1.000000", "1e3.000000", "9" * 30):
        with pytest.raises(ValueError, match="is not a time"):
            unix_ns(text)
