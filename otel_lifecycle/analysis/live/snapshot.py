"""What the live view shows at one moment; it does not change while the window goes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from otel_lifecycle.analysis.live.gauges import Gauges, State
from otel_lifecycle.analysis.live.tally import REQUESTS, Tally
from otel_lifecycle.analysis.live.window import SLICES, LiveWindow, Series
from otel_lifecycle.analysis.routes import counted_endpoints, endpoint_name
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.route import EndpointSnapshot
from otel_lifecycle.model.timestamps import datetime_to_ns, parse_timestamp

ROLES = ("leader", "prefill", "decode", "")  # empty: known only from metrics
LISTS = ("ttft", "duration", "failed", "resent", "last")


@dataclass
class EndpointRow:
    """One endpoint in one role.

    Attributes:
        role: `leader`, `prefill` or `decode`; empty: no request named it.
        name: Its name.
        tally: Its requests within the window.
        share: Fraction of all requests of the role.
        state: Its load and state.
        age_ms: Age of the engine's metrics when the router last dispatched to it.
        history: Highest number of requests in flight there in each slice, seen at dispatch.
    """

    role: str
    name: str
    tally: Tally = field(default_factory=Tally)
    share: float | None = None
    state: State = field(default_factory=State)
    age_ms: float | None = None
    history: list[int] = field(default_factory=lambda: [0] * SLICES)


@dataclass(frozen=True)
class Snapshot:
    """What the live view shows.

    Attributes:
        source: Name of the files.
        window: Seconds of the window.
        seconds: Seconds that it covers so far.
        now_ns: When it was made, Unix nanoseconds.
        end_ns: The end of the window.
        newest_ns: When the newest request ended; 0: there was none.
        is_live: Whether the window ends now.
        tally: All requests within the window, of the models of the filter.
        trend: Requests, and the 95th percentiles of TTFT and TPOT, of each slice.
        rows: The endpoints.
        requests: Requests worth a look, by list.
        models: The models seen.
        gauges: Whether the state of endpoints comes from metrics.
        problems: What could not be read.
    """

    source: str
    window: float
    seconds: float
    now_ns: int
    end_ns: int
    newest_ns: int
    is_live: bool
    tally: Tally
    trend: dict[str, list[float]]
    rows: list[EndpointRow]
    requests: dict[str, list[LifecycleRecord]]
    models: list[str]
    gauges: bool
    problems: Sequence[str]


def take_snapshot(
    window: LiveWindow,
    gauges: Gauges | None,
    *,
    source: str,
    now_ns: int,
    problems: Sequence[str] = (),
    text: str = "",
) -> Snapshot:
    """Return what to show.

    Args:
        window: The requests.
        gauges: The state of endpoints from metrics; without it: as seen by the router at dispatch.
        source: Name of the files.
        now_ns: The present.
        problems: What could not be read.
        text: Show only endpoints and models whose name contains it, in any case.
    """
    matches = _matcher(text)
    models = sorted({key.model for key in window.series})
    chosen = {model for model in models if matches(model)} or set(models)
    everything = [s for key, s in window.series.items() if not key.role and key.model in chosen]
    current: Mapping[str, State] = gauges.endpoints if gauges is not None else {}
    rows = _rows(window, matches, current)
    return Snapshot(
        source=source,
        window=window.window_ns / 1e9,
        seconds=window.seconds,
        now_ns=now_ns,
        end_ns=window.end_ns,
        newest_ns=window.newest_ns,
        is_live=window.is_live,
        tally=_merged(one.total() for one in everything),
        trend=_trend(window, everything),
        rows=rows,
        requests={
            name: [one for one in window.kept(name) if _concerns(one, matches)] for name in LISTS
        },
        models=models,
        gauges=bool(current),
        problems=[*problems, *(gauges.problems if gauges else ())],
    )


def _matcher(text: str) -> Callable[[str], bool]:
    wanted = text.casefold()
    return lambda name: wanted in name.casefold()


def _concerns(record: LifecycleRecord, matches: Callable[[str], bool]) -> bool:
    return matches(record.model) or any(
        matches(endpoint_name(snapshot)) for _, snapshot in counted_endpoints(record)
    )


def _rows(
    window: LiveWindow, matches: Callable[[str], bool], gauges: Mapping[str, State]
) -> list[EndpointRow]:
    rows: dict[tuple[str, str], EndpointRow] = {}
    newest: dict[tuple[str, str], Series] = {}
    totals: defaultdict[str, int] = defaultdict(int)
    for key, series in window.series.items():
        if not key.role:
            continue
        total = series.total()
        totals[key.role] += total.counts[REQUESTS]
        if not (matches(key.endpoint) or matches(key.model)):
            continue
        place = key.role, key.endpoint
        row = rows.setdefault(place, EndpointRow(*place))
        row.tally.merge(total)
        for number, _, peak in series.slices():
            at = number - window.slices.start
            row.history[at] = max(row.history[at], peak)
        if place not in newest or series.dispatched_at > newest[place].dispatched_at:
            newest[place] = series
    for place, row in rows.items():
        if totals[row.role]:
            row.share = row.tally.counts[REQUESTS] / totals[row.role]
        seen = newest[place]
        if seen.snapshot is not None:
            row.age_ms = _age_ms(seen)
            if not gauges:
                row.state = _state(seen.snapshot)
    known = {name for _, name in rows}
    for name, state in gauges.items():
        if name not in known and matches(name):
            rows["", name] = EndpointRow("", name)
        for role in ROLES:
            if (role, name) in rows:
                rows[role, name].state = state
    return list(rows.values())


def _trend(window: LiveWindow, everything: Iterable[Series]) -> dict[str, list[float]]:
    tallies = [Tally() for _ in range(SLICES)]
    for series in everything:
        for number, tally, _ in series.slices():
            tallies[number - window.slices.start].merge(tally)
    return {
        "requests": [tally.counts[REQUESTS] for tally in tallies],
        "ttft": [tally.ttft_ms.quantile(0.95) or 0.0 for tally in tallies],
        "tpot": [tally.tpot_ms.quantile(0.95) or 0.0 for tally in tallies],
    }


def _merged(tallies: Iterable[Tally]) -> Tally:
    merged = Tally()
    for tally in tallies:
        merged.merge(tally)
    return merged


def _state(snapshot: EndpointSnapshot) -> State:
    """Return the state as the router saw it at a dispatch, without that request."""
    load, metrics, npu = snapshot.inflight, snapshot.metrics, snapshot.npu
    busy = None if npu is None else npu.ai_core_utilization_avg
    return State(
        requests=None if load is None else load.requests,
        tokens=None if load is None else load.tokens,
        running=None if metrics is None else metrics.running_requests,
        waiting=None if metrics is None else metrics.waiting_requests,
        kv_cache=None if metrics is None else metrics.kv_cache_usage,
        busy=None if busy is None else busy / 100,
    )


def _age_ms(series: Series) -> float | None:
    metrics = None if series.snapshot is None else series.snapshot.metrics
    if metrics is None or metrics.update_time is None:
        return None
    age_ns = parse_timestamp(series.dispatched_at) - datetime_to_ns(metrics.update_time)
    return max(0, age_ns) / 1e6  # their clocks may differ
