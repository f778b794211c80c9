"""Shows one request of each kind as a bar on a common time axis."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from otel_lifecycle.analysis.formatting import count, milliseconds, percent, printable
from otel_lifecycle.analysis.routes import counted_endpoints, endpoint_name
from otel_lifecycle.model import Outcome
from otel_lifecycle.model.record import LifecycleRecord

CACHE_HIT_SCORE = 0.5

LABEL_WIDTH = 18
_ID_LENGTH = 40
_WAITING, _STREAMING, _UNDIVIDED = "░", "█", "▒"
_STYLES = {_WAITING: "yellow", _STREAMING: "green", _UNDIVIDED: "cyan"}
LEGEND = f"{_WAITING} to the first chunk  {_STREAMING} to the end  {_UNDIVIDED} no first chunk"

_PLAIN, _PD, _CACHE_HIT, _REROUTED = "plain", "prefill/decode", "prefix-cache hit", "rerouted"
_ORDER = (
    _PLAIN,
    _PD,
    _CACHE_HIT,
    _REROUTED,
    Outcome.CLIENT_DISCONNECT.value,
    Outcome.ERROR.value,
    Outcome.REJECTED.value,
)


class Waterfalls:
    """Keeps one request of each kind, preferably one that was predicted and streamed."""

    def __init__(self) -> None:
        self._kept: dict[str, LifecycleRecord] = {}

    def add(self, record: LifecycleRecord) -> None:
        """Take a record into account."""
        kind = _kind(record)
        kept = self._kept.get(kind)
        if kept is None or _preference(record) > _preference(kept):
            self._kept[kind] = record

    def print(self, console: Console) -> None:
        """Print axis, bars and facts."""
        shown = [(kind, self._kept[kind]) for kind in _ORDER if kind in self._kept]
        if not shown:
            return
        console.print(Text("Requests, aligned at dispatch", style="bold"))
        console.print(Text(LEGEND, style="dim"))
        # Beside its bar there is no room for a label on a narrow terminal.
        indent = LABEL_WIDTH if console.width >= 3 * LABEL_WIDTH else 0
        width = console.width - indent
        longest = max(0.0, *(record.actual.e2e_ms or 0.0 for _, record in shown)) or 1.0
        console.print(" " * indent + axis(longest, width), style="dim")
        for kind, record in shown:
            label = kind.replace("_", " ")
            label = label.ljust(indent) if indent else f"{label}\n"
            console.print(Text.assemble(label, *bar(record, longest, width)))
            details = Text(facts(record), style="dim", overflow="fold")
            console.print(Padding(details, (0, 0, 0, indent), expand=False))
        console.print()


def _kind(record: LifecycleRecord) -> str:
    if record.outcome is not Outcome.COMPLETED:
        return record.outcome.value
    if record.rerouted:
        return _REROUTED
    if (record.prefix_cache_score or 0.0) >= CACHE_HIT_SCORE:
        return _CACHE_HIT
    return _PD if len(counted_endpoints(record)) == 2 else _PLAIN


def _preference(record: LifecycleRecord) -> tuple[int, bool]:
    predicted = (record.prediction.ttft_ms, record.prediction.tpot_ms)
    return sum(value is not None for value in predicted), record.first_chunk_at is not None


def axis(longest_ms: float, width: int) -> str:
    """Return the line above bars of a width."""
    start, middle, end = "0 ms", milliseconds(longest_ms / 2), f"{milliseconds(longest_ms)} ms"
    half = width // 2
    room = width - half - len(end)
    if len(middle) >= room:
        middle = ""
    return start.ljust(half) + middle.ljust(room) + end


def bar(record: LifecycleRecord, longest_ms: float, width: int) -> list[tuple[str, str]]:
    """Return the bar of a request from its dispatch on, as pieces with their styles."""

    def cells(ms: float) -> float:
        return min(1.0, max(0.0, ms / longest_ms)) * width

    total = max(1, int(cells(record.actual.e2e_ms or 0.0)))
    if record.actual.ttft_ms is None:
        parts = [_UNDIVIDED * total]
    else:
        waiting = min(total, round(cells(record.actual.ttft_ms)))
        parts = [_WAITING * waiting, _STREAMING * (total - waiting)]
    return [(part, _STYLES[part[0]]) for part in parts if part]


def facts(record: LifecycleRecord) -> str:
    """Return what is known of a request, in a few lines."""
    endpoints = " → ".join(endpoint_name(endpoint) for _, endpoint in counted_endpoints(record))
    lines = [f"{printable(record.request_id, _ID_LENGTH)} · {endpoints or 'no endpoint'}"]
    if record.prefix_cache_score is not None:
        lines[0] += f" · cached {percent(record.prefix_cache_score)}"
    ttft = _latency("TTFT", record.actual.ttft_ms, record.prediction.ttft_ms)
    tpot = _latency("TPOT", record.actual.tpot_ms, record.prediction.tpot_ms)
    tokens = f"{count(record.input_token_length)} → {count(record.output_length)} tokens"
    lines.append(f"{tokens} · {ttft} · {tpot}")
    lines += [f"sent again: {printable(reroute.reason)}" for reroute in record.rerouted]
    if record.error is not None:
        lines.append(f"error: {printable(record.error.type)}")
    return "\n".join(lines)


def _latency(name: str, actual: float | None, predicted: float | None) -> str:
    unit = "" if actual is None else " ms"
    return f"{name} {milliseconds(actual)}{unit} (predicted {milliseconds(predicted)})"
