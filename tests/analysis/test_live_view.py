"""The live view: whole frames as text, what keys change, and what the window counts."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from otel_lifecycle import EndpointMetrics, LifecycleRecord, Load, NPUState, Outcome
from otel_lifecycle.analysis.live.frame import draw
from otel_lifecycle.analysis.live.gauges import Gauges, State
from otel_lifecycle.analysis.live.snapshot import Snapshot, take_snapshot
from otel_lifecycle.analysis.live.tally import Distribution, step_of
from otel_lifecycle.analysis.live.view import View
from otel_lifecycle.analysis.live.window import OTHER_MODELS, LiveWindow
from otel_lifecycle.model.decision import Decision, Pick, RecordedCandidate
from otel_lifecycle.model.latency import ActualLatency
from otel_lifecycle.model.record import ErrorInfo, RecordedLeg, Reroute
from otel_lifecycle.model.request import LegOutcome, LegRole
from otel_lifecycle.model.route import EndpointSnapshot, LatencyPrediction, RouteSnapshot
from otel_lifecycle.model.timestamps import datetime_from_ns
from tests.cli.records import START_NS, aggregated, disaggregated, record, timestamp

SECOND_NS = 1_000_000_000
NOW_NS = START_NS + 50 * SECOND_NS
CHOSEN = "pod://llm/prefill-0"
HOSTILE = "\x1b[2J\x9b31m\u202e\u2066\x7f\n"


def known(snapshot: EndpointSnapshot) -> EndpointSnapshot:
    """The endpoint, with load and state."""
    scraped = datetime_from_ns(START_NS + 29 * SECOND_NS)
    return structs.replace(
        snapshot,
        inflight=Load(41_000, 7),
        metrics=EndpointMetrics(
            running_requests=4, waiting_requests=2, kv_cache_usage=0.81, update_time=scraped
        ),
        npu=NPUState(scraped, "fresh", 2, ai_core_utilization_avg=63.0),
    )


def pair(prefill: str, decode: str) -> RouteSnapshot:
    """A route to a pair whose load and state are known."""
    route = disaggregated(prefill, decode)
    assert route.prefill is not None
    assert route.decode is not None
    return RouteSnapshot(route.leader, known(route.prefill), known(route.decode))


def pairs() -> list[LifecycleRecord]:
    """Thirty requests, one each second, of which one failed and one was left by its client."""
    records = [
        record(
            f"request-{number}",
            pair(f"prefill-{number % 2}", "decode-0"),
            number * 1000,
            ttft_ms=100 * (1 + number % 5),
            e2e_ms=900,
            tpot_ms=10.0,
            predicted=(100.0, 11.0),
            input_token_length=1_000,
            output_length=50,
            cached_tokens=200,
            prefix_cache_score=0.4,
            model="qwen" if number % 3 else "llama",
        )
        for number in range(30)
    ]
    records[3] = structs.replace(
        records[3], outcome=Outcome.ERROR, error=ErrorInfo("http_502"), attempt=2
    )
    records[4] = structs.replace(records[4], outcome=Outcome.CLIENT_DISCONNECT)
    return records


def opened() -> LifecycleRecord:
    """A request that waited, was called twice, and has its decision."""
    candidates = [
        RecordedCandidate(
            id=f"pod://llm/prefill-{number}",
            score=2.0 - number,
            prefix_cache_score=0.5 * number,
            prediction=LatencyPrediction(300.0 - number, 9.0),
            inflight=Load(41_000, 7),
            waiting=2,
            kv_cache_usage=0.81,
        )
        for number in range(2)
    ]
    legs = (
        RecordedLeg(
            LegRole.PREFILL,
            "pod://llm/prefill-1",
            timestamp(0),
            timestamp(100),
            LegOutcome.ERROR,
        ),
        RecordedLeg(LegRole.DECODE, "pod://llm/decode-0", timestamp(100), timestamp(800)),
    )
    return record(
        "opened",
        pair("prefill-0", "decode-0"),
        0,
        ttft_ms=400,
        e2e_ms=800,
        tpot_ms=10.0,
        predicted=(300.0, 9.0),
        received_at=timestamp(-200),
        actual=ActualLatency(400.0, 10.0, 800.0, None, 200.0),
        input_token_length=1_000,
        output_length=41,
        model="qwen",
        finish_reason="stop",
        policy="kv-aware",
        candidates=2,
        legs=legs,
        rerouted=[
            Reroute(timestamp(100), "pod://llm/prefill-1", "pod://llm/prefill-0", "http_502")
        ],
        decision=Decision(picks=[Pick("prefill", 1, 1.0, 1.0, candidates)]),
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    )


def window_of(records: Sequence[LifecycleRecord], now_ns: int = NOW_NS) -> LiveWindow:
    """A window of 60 seconds with these requests."""
    window = LiveWindow(60 * SECOND_NS)
    for one in records:
        window.add(one, now_ns)
    window.advance(now_ns)
    return window


def snapshot_of(
    records: Sequence[LifecycleRecord], gauges: Gauges | None = None, **options: Any
) -> Snapshot:
    """What is shown of these requests."""
    return take_snapshot(window_of(records), gauges, source="records/", now_ns=NOW_NS, **options)


def text(snapshot: Snapshot, view: View, width: int, height: int | None = None) -> str:
    """A frame without trailing blanks, and with a fixed clock."""
    clock = time.strftime("%H:%M:%S", time.localtime(NOW_NS // SECOND_NS))
    lines = [line.plain.replace(clock, "12:03:41") for line in draw(snapshot, view, width, height)]
    return "\n".join(line.rstrip() for line in lines)


FRAME = """\
otel-lifecycle top  records/ · last 60 s · 30 requests             12:03:41 LIVE
Requests  0.6/s  ok 93 %  left 3.3 %  failed 3.3 %  sent again 1 ███████▆
TTFT ms   p50    300  p95    502  p99    502  predicted ×2 40 %  █▅█▇██▅█
TPOT ms   p50   9.95  p95   9.95  p99   9.95  predicted ×2 100 % ████████
Tokens    in 611/s  out 30.5/s  cached 20 %  expected 40 %
────────────────────────────────────────────────────────────────────────────────
 ENDPOINT           REQ/S TTFT50 TTFT95 TPOT50 TPOT95  INFL WAIT  KV% NPU% FAIL
 PREFILL
▸llm/prefill-0        0.3    300    502      -      -     7    2   81   63    0
 llm/prefill-1        0.3    300    502      -      -     7    2   81   63    1
 DECODE
 llm/decode-0         0.6      -      -   9.95   9.95     7    2   81   63    1
────────────────────────────────────────────────────────────────────────────────
 LONGEST TTFT            TTFT   PRED   TIME ROUTE                OUTCOME    AGO
 request-29               500    100    900 prefill-1 → decode-0 completed  20s
 request-24               500    100    900 prefill-0 → decode-0 completed  25s
 request-19               500    100    900 prefill-1 → decode-0 completed  30s
 request-14               500    100    900 prefill-0 → decode-0 completed  35s
 request-9                500    100    900 prefill-1 → decode-0 completed  40s
 request-28               400    100    900 prefill-0 → decode-0 completed  21s
 request-23               400    100    900 prefill-1 → decode-0 completed  26s
 Nothing has finished for 20s.
 Finished requests only: load, queue, KV and NPU as seen at the last dispatch.
 q quit  Tab pane  ↑↓ row  Enter open  ←→ sort  / filter  s list  p pause
"""

OPENED = """\
otel-lifecycle top  records/ · last 60 s · 1 request                                   12:03:41 LIVE
Requests  0.0/s  ok 100 %  left 0.0 %  failed 0.0 %  sent again 1                 █
TTFT ms   p50    600  p95    600  p99    600  predicted ×2 100 %                  █
TPOT ms   p50   9.95  p95   9.95  p99   9.95  predicted ×2 100 %                  █
Tokens    in 20.3/s  out 0.833/s  cached - %  expected - %
────────────────────────────────────────────────────────────────────────────────────────────────────
opened · llm/prefill-0 → llm/decode-0 · qwen
 1,000 → 41 tokens · TTFT 400 ms (predicted 300) · TPOT 10.0 ms (predicted 9.00)
 completed stop · dispatched at 14:13:20.000 UTC
                  0 ms                                    500                              1,000 ms
 request          ················░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░█████████████████████████████████
 pref…l prefill-1                 ━━━━━━━━
 decode decode-0                          ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
                  · in the router  ░ to the first chunk  █ to the end  ▒ no first chunk
 sent again: http_502, llm/prefill-1 → llm/prefill-0
 Decision  policy kv-aware · 2 candidates
  PREFILL CANDIDATE                              SCORE CACHED% PREDICTED  INFL TOKENS WAIT  KV%
 ▸llm/prefill-0                                      2     0.0       300     7    41k    2   81
  llm/prefill-1                                      1      50       299     7    41k    2   81
  rank of the chosen 1 · margin 1 · regret 1.00 ms
 trace 4bf92f3577b34da6a3ce929d0e0e4736
 Nothing has finished for 49s.
 Finished requests only: load, queue, KV and NPU as seen at the last dispatch.
 Esc back  ↑↓ next request  q quit
"""

WITH_METRICS = """\
otel-lifecycle top  records/ · last 60 s · 30 requests                                 12:03:41 LIVE
Requests  0.6/s  ok 93 %  left 3.3 %  failed 3.3 %  sent again 1                  ▃█████████▆
TTFT ms   p50    300  p95    502  p99    502  predicted ×2 40 %                   ▂▅▄█▅█▇██▅█
TPOT ms   p50   9.95  p95   9.95  p99   9.95  predicted ×2 100 %                  ███████████
Tokens    in 611/s  out 30.5/s  cached 20 %  expected 40 %
────────────────────────────────────────────────────────────────────────────────────────────────────
 ENDPOINT        REQ/S TTFT50 TTFT95 TPOT50 TPOT95  INFL TOKENS WAIT  KV% NPU% CACHE% PRED/ACT FAIL
 PREFILL
▸llm/prefill-0     0.3    300    502      -      -     3      -    0   50   25     20     0.34    0
 llm/prefill-1     0.3    300    502      -      -     -      -    -    -    -     20     0.34    1
 DECODE
 llm/decode-0      0.6      -      -   9.95   9.95     -      -    -    -    -      -     1.10    1
 NO REQUESTS
 llm/spare         0.0      -      -      -      -     0      -    -    -    -      -        -    0
────────────────────────────────────────────────────────────────────────────────────────────────────
 LONGEST TTFT           TTFT   PRED   TPOT   TIME     IN CACHED ROUTE                OUTCOME    AGO
 request-29              500    100   10.0    900  1,000    200 prefill-1 → decode-0 completed  20s
 request-24              500    100   10.0    900  1,000    200 prefill-0 → decode-0 completed  25s
 request-19              500    100   10.0    900  1,000    200 prefill-1 → decode-0 completed  30s
 request-14              500    100   10.0    900  1,000    200 prefill-0 → decode-0 completed  35s
 request-9               500    100   10.0    900  1,000    200 prefill-1 → decode-0 completed  40s
 Nothing has finished for 20s.
 ! http://router:9464/metrics: HTTP 503
 q quit  Tab pane  ↑↓ row  Enter open  ←→ sort  / filter  s list  p pause  r reverse  ? help
"""


def test_frame() -> None:
    """At 80x24: rates, quantiles, endpoints by role, longest requests, notes and keys."""
    assert text(snapshot_of(pairs()), View(), 80, 24) == FRAME[:-1]


@pytest.mark.parametrize("width", [1, 20, 80, 160])
def test_every_size(width: int) -> None:
    """A frame has the lines of the terminal, none wider than it, whatever is shown."""
    request = opened()
    snapshot = snapshot_of([*pairs(), request], problems=["broken " * 40])
    views = [
        View(),
        View(on_requests=True),
        View(is_open=True, request=request),
        View(helps=True),
        View(is_typing=True, filter="名前" * 40),
    ]
    for height in (1, 5, 24, 50):
        for view in views:
            lines = draw(snapshot, view, width, height)
            assert (len(lines), max(line.cell_len for line in lines) <= width) == (height, True)


@pytest.mark.parametrize(
    ("width", "title"),
    [
        (100, "otel-lifecycle top  /var/lib/routers/records.jsonl · last 60 s · 3 requests"),
        (80, "otel-lifecycle top  /var/l…records.jsonl · last 60 s · 3 requests"),
        (60, "otel-lifecycle top  /var…ds.jsonl · last 60 s"),
        (44, "otel-lifecycle top  /v….jsonl"),
    ],
)
def test_title_that_does_not_fit(width: int, title: str) -> None:
    """The name is shortened and facts are left out: no number is cut."""
    snapshot = replace(snapshot_of(pairs()[:3]), source="/var/lib/routers/records.jsonl")

    line = text(snapshot, View(), width, 24).split("\n")[0]

    assert line[: width - len("  12:03:41 LIVE")].rstrip() == title


def test_narrow_summary() -> None:
    """Facts that do not fit are left out; a note that is cut says so."""
    lines = text(snapshot_of(pairs()), View(), 40, 24).split("\n")

    assert lines[1:4] == [
        "Requests  0.6/s  ok 93 %  left 3.3 %",
        "TTFT ms   p50    300  p95    502",
        "TPOT ms   p50   9.95  p95   9.95",
    ]
    assert lines[-2] == " Finished requests only: load, queue, K…"


def test_opened_request() -> None:
    """One request: its time in the router, its calls, its decision with the chosen endpoint."""
    view = View(on_requests=True)
    snapshot = snapshot_of([opened()])
    view.press("c-m", snapshot)

    assert text(snapshot, view, 100, 24) == OPENED[:-1]


def test_tall_terminal() -> None:
    """With room for it, the selected request is shown below the tables."""
    frame = text(snapshot_of([opened()]), View(), 160, 50)

    assert "\n".join(OPENED.split("\n")[8:10]) not in frame  # bars are as wide as the terminal
    assert "▸llm/prefill-0" in frame.partition("PREFILL CANDIDATE")[2]


def test_metrics() -> None:
    """With metrics, load and state are those of now, also of endpoints without requests."""
    gauges = Gauges(
        {
            "llm/prefill-0": State(requests=3, waiting=0, kv_cache=0.5, busy=0.25),
            "llm/spare": State(requests=0),
        },
        ["http://router:9464/metrics: HTTP 503"],
    )

    assert text(snapshot_of(pairs(), gauges), View(), 100, 24) == WITH_METRICS[:-1]


def press(view: View, snapshot: Snapshot, *keys: str) -> View:
    """Press keys."""
    for key in keys:
        view.press(key, snapshot)
    return view


def names(view: View, snapshot: Snapshot) -> list[str]:
    """The endpoints in the order shown."""
    return [row.name for row in view.rows(snapshot)]


def test_keys_for_endpoints() -> None:
    """Keys sort, reverse and select endpoints, and Enter filters by the selected one."""
    records = [record(str(n), aggregated(f"pod-{n % 3 % 2}"), 0, e2e_ms=1) for n in range(6)]
    snapshot = snapshot_of(records)
    view = View()

    assert names(view, snapshot) == ["llm/pod-0", "llm/pod-1"]  # by requests a second
    assert names(press(view, snapshot, "r"), snapshot) == ["llm/pod-1", "llm/pod-0"]
    assert press(view, snapshot, "left").sort == "ENDPOINT"
    assert names(view, snapshot) == ["llm/pod-0", "llm/pod-1"]
    press(view, snapshot, "down", "down", "c-m")
    assert view.filter == "llm/pod-1"
    assert names(view, snapshot_of(records, text=view.filter)) == ["llm/pod-1"]
    assert press(view, snapshot, "escape").filter == ""


def test_keys_for_requests() -> None:
    """Keys go to the other table, choose a list, select and open a request, and come back."""
    snapshot = snapshot_of(pairs())
    view = press(View(), snapshot, "c-i", "down", "c-m")

    assert (view.is_open, view.request) == (True, snapshot.requests["ttft"][1])
    press(view, snapshot, "escape", "s", "s", "c-m")
    assert (view.is_open, view.request) == (True, snapshot.requests["failed"][0])
    press(view, snapshot, "escape", "p", "?", "q")
    assert (view.is_open, view.is_paused, view.helps, view.quits) == (False, True, True, True)


def test_typing_a_filter() -> None:
    """While a filter is typed, all keys belong to it; Escape removes it."""
    snapshot = snapshot_of(pairs())
    view = press(View(), snapshot, "/", *"Qx", "c-h", *"wen", "left", "c-m")

    assert (view.filter, view.quits, view.is_typing) == ("Qwen", False, False)
    assert press(view, snapshot, "/", "q", "escape").filter == ""


def test_filter_by_model() -> None:
    """A filter that names a model counts only its requests, everywhere."""
    snapshot = snapshot_of(pairs(), text="LLAMA")

    assert snapshot.tally.counts["requests"] == 10
    assert {row.name: row.tally.counts["requests"] for row in snapshot.rows} == {
        "llm/prefill-0": 5,
        "llm/prefill-1": 5,
        "llm/decode-0": 10,
    }
    assert {one.model for one in snapshot.requests["ttft"]} == {"llama"}


def test_hostile_text() -> None:
    """Names from clients and engines are shown without terminal controls."""
    hostile = structs.replace(
        opened(),
        request_id=HOSTILE,
        model=HOSTILE,
        policy=HOSTILE,
        finish_reason=HOSTILE,
        error=ErrorInfo(HOSTILE),
        outcome=Outcome.ERROR,
        selected_route=aggregated(HOSTILE),
    )
    snapshot = snapshot_of([hostile], problems=[HOSTILE])

    for view in (View(list="failed"), View(is_open=True, request=hostile), View(filter=HOSTILE)):
        frame = draw(snapshot, view, 160, 50)
        assert all(line.plain.isprintable() for line in frame)


def counted(window: LiveWindow) -> int:
    """The requests in a window."""
    return take_snapshot(window, None, source="", now_ns=window.end_ns).tally.counts["requests"]


def test_window_slides() -> None:
    """Requests leave with time, in any order of arrival; an endpoint stays without requests."""
    times = [0, 40, 20, 59, 10, 30, 50]
    requests = [record(str(at), aggregated("pod"), at * 1000, e2e_ms=1) for at in times]
    window = window_of(requests, START_NS + 60 * SECOND_NS)
    left = []
    for seconds in (61, 75, 95, 115, 130):
        window.advance(START_NS + seconds * SECOND_NS)
        left.append(counted(window))

    assert left == [6, 5, 3, 1, 0]
    (row,) = take_snapshot(window, None, source="", now_ns=window.end_ns).rows
    assert (row.name, row.tally.counts["requests"], sum(row.history)) == ("llm/pod", 0, 0)


def test_window_ends_with_the_newest_of_old_requests() -> None:
    """Where all is old, the end of it is shown, and the frame says so; new requests end that."""
    old = [record("a", aggregated("pod"), 0, e2e_ms=1)]
    later = START_NS + 7_201 * SECOND_NS
    window = window_of(old, later)
    snapshot = take_snapshot(window, None, source="", now_ns=later)

    assert (snapshot.is_live, counted(window)) == (False, 1)
    assert "Nothing has finished for 2h: these are the 60 s before." in text(snapshot, View(), 80)
    window.add(record("b", aggregated("pod"), 7_199_000, e2e_ms=1), later)
    window.advance(later)
    assert (window.is_live, counted(window)) == (True, 1)
    window.advance(later + 3_600 * SECOND_NS)
    assert counted(window) == 0


def test_clock_ahead() -> None:
    """A request from a machine whose clock is ahead does not move the window."""
    window = window_of([record("a", aggregated("pod"), 3_600_000, e2e_ms=1)])

    assert (window.end_ns, counted(window)) == (NOW_NS, 1)


def test_names_of_clients_are_bounded() -> None:
    """Models beyond fifty are counted together."""
    requests = [record(str(n), None, n, e2e_ms=1, model=f"model-{n}") for n in range(60)]
    snapshot = snapshot_of(requests)

    assert (len(snapshot.models), OTHER_MODELS in snapshot.models) == (51, True)
    assert snapshot.tally.counts["requests"] == 60


def test_distribution() -> None:
    """Quantiles are within 1 % of the nearest rank, also after other values were taken away."""
    chance = random.Random(1)
    values = [chance.lognormvariate(4, 2) for _ in range(999)]
    kept, other = Distribution(), Distribution()
    for value in values:
        kept.add(step_of(value))
    for value in (0.0, 1e300, *values[:100]):
        other.add(step_of(value))
    kept.merge(other)
    kept.merge(other, -1)
    ranks = sorted(values)

    assert kept.quantile(0.5) == pytest.approx(ranks[499], rel=0.0101)
    assert kept.quantile(0.95) == pytest.approx(ranks[949], rel=0.0101)
    assert (other.quantile(0.0), other.quantile(1.0)) == (0.0, pytest.approx(1e12, rel=0.0101))
    assert Distribution().quantile(0.5) is None
