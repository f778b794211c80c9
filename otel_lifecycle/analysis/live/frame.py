"""Draws one frame of the live view as lines of text."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.cells import cell_len
from rich.text import Text

from otel_lifecycle.analysis.formatting import UNKNOWN, compact, latency, plural, printable
from otel_lifecycle.analysis.live.endpoints import (
    ROLE_TITLES,
    endpoint_columns,
    percentage,
    rate,
)
from otel_lifecycle.analysis.live.opened import opened_lines
from otel_lifecycle.analysis.live.requests import ago, request_columns, span
from otel_lifecycle.analysis.live.snapshot import Snapshot
from otel_lifecycle.analysis.live.table import fitting, head, row_line, shorten, spark
from otel_lifecycle.analysis.live.tally import (
    CACHED,
    CACHED_OF,
    EXPECTED,
    EXPECTED_OF,
    INPUT,
    OUTPUT,
    REQUESTS,
    RESENT,
    Distribution,
)
from otel_lifecycle.analysis.live.view import View
from otel_lifecycle.analysis.live.window import SLICES
from otel_lifecycle.model import Outcome

_LOW = 16  # below, most of summary and notes make room for the tables
_TALL_LISTS = 20  # from here on, the selected request is shown below them
_MIN_REQUESTS = 3
_PRINTED_REQUESTS = 10
_LABEL = 10
_NAME = "otel-lifecycle top  "
_SHORTEST_SOURCE = 8
_FEWEST_BARS = 6
_FACTOR_TWO = (0.5, 2.0)
_KEYS = (
    "q quit", "Tab pane", "↑↓ row", "Enter open", "←→ sort", "/ filter", "s list", "p pause",
    "r reverse", "? help",
)  # fmt: skip
_HELP = (
    ("Tab", "move between endpoints and requests"),
    ("↑ ↓ PgUp PgDn", "select a row"),
    ("Enter", "requests: open one (waterfall, decision); endpoints: filter by this one"),
    ("Esc", "back; in the tables: no filter"),
    ("← →", "sort endpoints by another column"),
    ("r", "reverse the order"),
    ("s", "other requests: longest TTFT, longest, failed, sent again, last"),
    ("/", "show only models and endpoints whose name contains a text"),
    ("p, Space", "pause the screen; reading goes on"),
    ("q, Ctrl-C", "quit"),
)


def draw(snapshot: Snapshot, view: View, width: int, height: int | None) -> list[Text]:
    """Return the lines of a frame, none of which is wider than the terminal.

    Args:
        snapshot: What to show.
        view: What the user chose to see.
        width: Columns of the terminal.
        height: Its lines; None: as many as it takes.
    """
    summary, notes = list(_summary(snapshot, view, width)), list(_notes(snapshot, view))
    if height is not None and height < _LOW:
        del summary[2:], notes[1:]
    lines = [*summary, _rule(width)]
    end = [_keys(view, width)] if view.has_keys else []
    room = None if height is None else max(0, height - len(lines) - len(notes) - len(end))
    lines += _cut(_middle(snapshot, view, width, room), room)
    lines += notes
    if height is not None:
        lines = lines[: max(0, height - len(end))]
    lines += end
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _summary(snapshot: Snapshot, view: View, width: int) -> Iterator[Text]:
    tally, seconds = snapshot.tally, snapshot.seconds
    counts = tally.counts
    total = counts[REQUESTS]
    clock = time.strftime("%H:%M:%S", time.localtime(snapshot.now_ns // 1_000_000_000))
    state = _state(snapshot, view)
    end = f"{clock} {state}"
    about = [f"last {span(snapshot.window)}", plural(total, "request")]
    models = [printable(name) for name in snapshot.models if name]
    if width > 120 and models:
        about.append(", ".join(models[:4]) + (", ..." if len(models) > 4 else ""))
    room = max(0, width - cell_len(end) - 2)
    title = Text.assemble((_NAME, "bold"), _about(snapshot.source, about, room - len(_NAME)))
    title.truncate(room, pad=True)
    yield title + Text.assemble("  ", (end, "bold green" if snapshot.is_live else "bold yellow"))
    left, completed = (
        counts[outcome.value] for outcome in (Outcome.CLIENT_DISCONNECT, Outcome.COMPLETED)
    )
    facts = (
        f"{rate(total / seconds)}/s",
        f"ok {_percent(completed, total)}",
        f"left {_percent(left, total)}",
        f"failed {_percent(tally.failed, total)}",
        f"sent again {counts[RESENT]:,}",
    )
    yield from _with_trends(
        {
            "requests": _line("Requests", facts, width),
            "ttft": _line("TTFT ms", _latencies(tally.ttft_ms, tally.ttft_ratio), width),
            "tpot": _line("TPOT ms", _latencies(tally.tpot_ms, tally.tpot_ratio), width),
        },
        snapshot.trend,
        width,
    )
    facts = (
        f"in {compact(counts[INPUT] / seconds)}/s",
        f"out {compact(counts[OUTPUT] / seconds)}/s",
        f"cached {percentage(tally.ratio(CACHED, CACHED_OF))} %",
        f"expected {percentage(tally.ratio(EXPECTED, EXPECTED_OF))} %",
    )
    yield _line("Tokens", facts, width)


def _about(source: str, facts: Sequence[str], room: int) -> str:
    """Return the source and what fits of the facts: a number that is cut is another number."""
    name = printable(source)
    kept = [f" · {fact}" for fact in facts]
    while kept and room - cell_len("".join(kept)) < min(_SHORTEST_SOURCE, cell_len(name)):
        kept.pop()
    return shorten(name, room - cell_len("".join(kept))) + "".join(kept)


def _state(snapshot: Snapshot, view: View) -> str:
    if view.is_paused:
        return "PAUSED"
    if not snapshot.newest_ns:
        return "WAITING"
    return "LIVE" if snapshot.is_live else "ENDED"


def _line(label: str, facts: Iterable[str], width: int) -> Text:
    kept = list(facts)
    while len(kept) > 1 and _LABEL + cell_len("  ".join(kept)) > width:
        kept.pop()
    return Text.assemble((label.ljust(_LABEL), "bold"), "  ".join(kept))


def _with_trends(
    lines: Mapping[str, Text], trends: Mapping[str, Sequence[float]], width: int
) -> Iterator[Text]:
    bars = min(SLICES, width - 1 - max(line.cell_len for line in lines.values()))
    for name, line in lines.items():
        if bars >= _FEWEST_BARS:
            line.truncate(width - bars, pad=True)
            line.append(spark(trends[name], bars), "cyan")
        yield line


def _latencies(values: Distribution, ratios: Distribution) -> Iterator[str]:
    for percent in (50, 95, 99):
        yield f"p{percent} {latency(values.quantile(percent / 100)):>6}"
    share = ratios.share(*_FACTOR_TWO)
    yield f"predicted ×2 {UNKNOWN if share is None else f'{percentage(share)} %'}"


def _percent(part: int, whole: int) -> str:
    return f"{percentage(part / whole)} %" if whole else UNKNOWN


def _middle(snapshot: Snapshot, view: View, width: int, room: int | None) -> list[Text]:
    if view.helps:
        return [Text.assemble((f" {key:<15}", "bold"), meaning) for key, meaning in _HELP]
    if view.is_open and view.request is not None:
        return list(opened_lines(view.request, width))
    if not snapshot.newest_ns and not snapshot.rows:
        return [Text(" Waiting for the first finished request.", style="yellow")]
    endpoints, selected = _endpoints(snapshot, view, width)
    if room is None:
        return [*endpoints, _rule(width), *_requests(snapshot, view, width, _PRINTED_REQUESTS)]
    below = max(_MIN_REQUESTS + 1, room - len(endpoints)) if room > 2 * _MIN_REQUESTS else 0
    if view.on_requests and room <= 2 * _MIN_REQUESTS:
        return _requests(snapshot, view, width, room - 1)
    above = _around(endpoints, selected, room - below)
    if below < 2:
        return above
    is_tall = below >= _TALL_LISTS
    lines = [*above, _rule(width)]
    lines += _requests(snapshot, view, width, below // 2 if is_tall else below - 2)
    if is_tall:
        requests = snapshot.requests[view.list]
        if requests:
            one = requests[view.request_at(requests)]
            lines += [_rule(width), *opened_lines(one, width)]
    return lines


def _endpoints(snapshot: Snapshot, view: View, width: int) -> tuple[list[Text], int]:
    """Return the table of endpoints, and the line of the selected one."""
    columns = endpoint_columns(snapshot)
    fitted = fitting(columns, width)
    rows = view.rows(snapshot)
    chosen = view.endpoint_at(rows)
    lines = [head(fitted, view.sort)]
    selected, role = 0, None
    for at, row in enumerate(rows):
        if row.role != role:
            role = row.role
            lines.append(Text(f" {ROLE_TITLES[role]}", style="dim"))
        if at == chosen:
            selected = len(lines)
        is_selected = at == chosen and view.has_keys and not view.on_requests
        lines.append(row_line(fitted, row, selected=is_selected))
    if not rows:
        lines.append(Text(f" No endpoint or model matches {view.filter!r}.", style="yellow"))
    return lines, selected


def _requests(snapshot: Snapshot, view: View, width: int, number: int) -> list[Text]:
    columns = fitting(request_columns(snapshot, view.list), width)
    requests = snapshot.requests[view.list]
    chosen = view.request_at(requests)
    lines = [head(columns)]
    start = min(max(0, chosen - number + 1), max(0, len(requests) - number))
    for at, request in enumerate(requests[start : start + number], start):
        lines.append(row_line(columns, request, selected=at == chosen and view.on_requests))
    if not requests:
        lines.append(Text(" none", style="dim"))
    return lines


def _notes(snapshot: Snapshot, view: View) -> Iterator[Text]:
    if snapshot.newest_ns and not snapshot.is_live:
        since = ago(snapshot.now_ns - snapshot.newest_ns)
        yield Text(
            f" Nothing has finished for {since}: these are the {span(snapshot.window)} before.",
            style="yellow",
        )
    elif snapshot.newest_ns and snapshot.end_ns - snapshot.newest_ns > 10_000_000_000:
        since = ago(snapshot.now_ns - snapshot.newest_ns)
        yield Text(f" Nothing has finished for {since}.", style="yellow")
    if snapshot.newest_ns and not snapshot.gauges:
        yield Text(
            " Finished requests only: load, queue, KV and NPU as seen at the last dispatch.",
            style="dim",
        )
    for problem in snapshot.problems:
        yield Text(f" ! {printable(problem)}", style="red")
    if view.filter and not view.is_typing:
        yield Text(f" Only names with {view.filter!r}; Esc shows all.", style="yellow")


def _keys(view: View, width: int) -> Text:
    if view.is_typing:
        return Text(f" Show only names with: {view.filter}_", style="bold")
    if view.is_open:
        return Text(" Esc back  ↑↓ next request  q quit", style="dim")
    line = ""
    for key in _KEYS:
        if cell_len(f"{line} {key} ") > width:
            break
        line += f" {key} "
    return Text(line, style="dim")


def _around(lines: list[Text], selected: int, room: int) -> list[Text]:
    """Return the head and as many lines as fit, with the selected one among them."""
    if len(lines) <= room:
        return lines
    start = max(1, min(selected - room // 2, len(lines) - room + 1))
    return [lines[0], *lines[start : start + room - 1]]


def _cut(lines: list[Text], room: int | None) -> list[Text]:
    if room is None:
        return lines
    return [*lines[:room], *(Text() for _ in range(room - len(lines)))]


def _rule(width: int) -> Text:
    return Text("─" * width, style="dim")
