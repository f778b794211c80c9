"""The setting for targets of latencies (service level objectives)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from pydantic import BeforeValidator

from otel_lifecycle.config.durations import parse_go_duration
from otel_lifecycle.config.entries import entries
from otel_lifecycle.config.labels import header_name

if TYPE_CHECKING:
    from otel_lifecycle.config.entries import Entries

TARGETS: Final = ("ttft", "tpot", "e2e")
PRESETS: Final[Mapping[str, tuple[str, ...]]] = {
    "llm-d": (
        "ttft=x-llm-d-slo-ttft-ms",
        "ttft=x-slo-ttft-ms",
        "tpot=x-llm-d-slo-tpot-ms",
        "tpot=x-slo-tpot-ms",
    ),
}
_EXPECTED = (
    "must be entries such as ttft=500ms, tpot=50ms, e2e=30s, a header with milliseconds such as "
    f"ttft=x-slo-ttft-ms, or {', '.join(PRESETS)}"
)


class Target(NamedTuple):
    """The target of one latency.

    Attributes:
        headers: Headers with milliseconds, in lower case; the first with a value counts.
        default_ms: The target of requests without one; None: they have none.
    """

    headers: tuple[str, ...] = ()
    default_ms: float | None = None


def parse_slo(texts: Iterable[str]) -> dict[str, Target]:
    """Return the targets of the setting, by latency.

    Raises:
        ValueError: An entry is invalid.
    """
    targets: dict[str, Target] = {}
    for text in texts:
        for entry in PRESETS.get(text.strip(), ()) or (text,):
            name, _, value = map(str.strip, entry.partition("="))
            if name not in TARGETS or not value:
                raise ValueError(_EXPECTED)
            targets[name] = _extended(name, targets.get(name, Target()), value)
    return targets


def _extended(name: str, target: Target, value: str) -> Target:
    if not value[0].isdigit():
        return target._replace(headers=(*target.headers, header_name(value)))
    if target.default_ms is not None:
        raise ValueError(f"must have one duration for {name}")
    milliseconds = parse_go_duration(value) / 1e6
    if milliseconds <= 0:
        raise ValueError(_EXPECTED)
    return target._replace(default_ms=milliseconds)


def _slo(value: object) -> tuple[str, ...]:
    texts = entries(value, _EXPECTED)
    parse_slo(texts)
    return texts


if TYPE_CHECKING:
    SLOTargets = Entries
else:
    SLOTargets = Annotated[tuple[str, ...], BeforeValidator(_slo)]
