"""Text from others, in a log or on a terminal: no control characters, no passwords."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.runtime.text import printable, shown, without_secrets

HOSTILE = "\x1b]0;owned\x07\x9b31m\u202e\u2066\u200e\u061c\u2028\r\n"
_logger = get_logger("otel_lifecycle.of_a_test")


@given(st.text())
def test_printable(text: str) -> None:
    """No terminal controls remain, and printable text is unchanged."""
    shown = printable(text)

    assert shown.isprintable()
    assert (shown == text) == text.isprintable()


@given(st.dictionaries(st.text(), st.text()))
def test_json_stays_the_same(values: dict[str, str]) -> None:
    """The escapes are JSON's, so JSON keeps its meaning."""
    assert json.loads(printable(json.dumps(values, ensure_ascii=False))) == values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://engine:8000/metrics", "http://engine:8000/metrics"),
        ("https://u:secret@engine/metrics", "https://***@engine/metrics"),
        ("https://u:se@cr/et@engine/metrics", "https://***@engine/metrics"),
        ("u:secret@engine:8000", "***@engine:8000"),
        ("http://engine/metrics?token=secret&a=b#c", "http://engine/metrics?***"),
        ("http://engine/metrics#secret", "http://engine/metrics#***"),
        ("http://u:sec?ret@engine", "http://***@engine"),
        ("http://engine/metrics?mail=secret@home", "http://engine/metrics?***"),
        ("http://engine/metrics?secret 'secret\" secret", "http://engine/metrics?***"),
        ("dcgm=http://x?secret, http://u:secret@y", "***@y"),
        ("status 500 from http://x/y?secret", "status 500 from http://x/y?***"),
        ("no URL at all, really", "no URL at all, really"),
    ],
)
def test_without_secrets(text: str, shown: str) -> None:
    """User info, query and fragment are hidden wherever they are; the rest is shown."""
    assert without_secrets(text) == shown


def test_shown() -> None:
    """Settings of any shape are shown without their secrets."""
    value = {"targets": [{"url": "http://a?it's \"secret", "endpoints": {"b": ()}}], "port": 7}

    assert (
        shown(value) == "{'targets': [{'url': 'http://a?***', 'endpoints': {'b': []}}], 'port': 7}"
    )


def test_deep_values() -> None:
    """Deeply nested values are shown too."""
    value: object = "http://u:secret@engine"
    for _ in range(5_000):
        value = [value]

    assert shown(value) == "[" * 8 + "Ellipsis" + "]" * 8


def test_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Message, arguments and traceback of the package's log lines are printable."""
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        _logger.exception("request %s of %d: %r", HOSTILE, 7, HOSTILE)
    (record,) = caplog.records
    formatted = logging.Formatter("%(message)s").format(record)

    assert all(map(str.isprintable, formatted.split("\n")))
    assert formatted.startswith("request \\u001b]0;owned\\u0007")
    assert "of 7: '\\x1b" in formatted


def test_ordinary_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    """Ordinary lines keep their template, by which tools group them."""
    _logger.warning("request %s of %d", "one", 7)

    assert [(record.msg, record.args) for record in caplog.records] == [
        ("request %s of %d", ("one", 7))
    ]


def test_log_lines_that_cannot_be_formatted() -> None:
    """A line that cannot be formatted is reported by the handlers; nothing raises."""

    class Raising:
        def __str__(self) -> str:
            raise RuntimeError("text")

    handler, raising = logging.NullHandler(), logging.raiseExceptions
    _logger.addHandler(handler)
    _logger.propagate = False
    try:
        _logger.warning("%s", Raising())
    finally:
        _logger.removeHandler(handler)
        _logger.propagate, logging.raiseExceptions = True, raising
