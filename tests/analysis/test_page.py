"""The report as a page: each number against one that is computed here, record by record."""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from otel_lifecycle import EndpointMetrics, LatencyPrediction, Load, NPUState
from otel_lifecycle.cli import main
from otel_lifecycle.model.decision import Decision, Pick, RecordedCandidate
from otel_lifecycle.model.latency import ActualLatency
from otel_lifecycle.model.record import ErrorInfo, LifecycleRecord, Reroute
from otel_lifecycle.model.request import Outcome
from otel_lifecycle.model.route import EndpointSnapshot, RouteSnapshot
from otel_lifecycle.model.timestamps import parse_timestamp
from tests.analysis.pages import Page
from tests.analysis.test_tables import MOMENT
from tests.cli.records import START_NS, aggregated, disaggregated, record, timestamp, write


def nearest_rank(values: Iterable[float], part: float) -> float:
    """The smallest value with at least that part of all at or below it."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def traffic(count: int = 400) -> list[LifecycleRecord]:
    """Requests over four endpoints, the second prefill endpoint being slow."""
    rng = random.Random(1)
    records: list[LifecycleRecord] = []
    for number in range(count):
        at_ms = number * 50 + rng.randrange(20)
        slow = rng.random() < 0.4
        tokens = rng.choice([300, 1_500, 6_000])
        inflight = rng.choice([0, 2_000, 9_000])
        cached = rng.choice([0, tokens // 2])
        ttft = round((tokens - cached) / 50 + inflight / 100 + 5 + rng.random(), 3)
        ttft = round(ttft * (1.8 if slow else 1.0), 3)
        tpot, output = round(2 + rng.random(), 3), rng.randrange(2, 60)
        route = RouteSnapshot(
            leader=EndpointSnapshot(id="pod://llm/leader"),
            prefill=EndpointSnapshot(
                id=f"pod://llm/prefill-{10 if slow else 9}",
                metrics=EndpointMetrics(
                    waiting_requests=1,
                    kv_cache_usage=0.5,
                    update_time=MOMENT + timedelta(milliseconds=at_ms // 400 * 400 - 1_000),
                ),
                inflight=Load(tokens=inflight, requests=inflight // 1_000),
                npu=NPUState(data_status="fresh", ai_core_utilization_avg=40.0),
            ),
            decode=EndpointSnapshot(id=f"pod://llm/decode-{number % 2}"),
        )
        more: dict[str, Any] = {}
        if number % 20 == 7:
            more = {"outcome": Outcome.CLIENT_DISCONNECT}
        elif number % 20 == 13:
            more = {"outcome": Outcome.ERROR, "error": ErrorInfo("http_503")}
        elif number % 20 == 17:
            more = {"rerouted": [Reroute(timestamp(at_ms + 1), "pod://llm/a", "pod://llm/b", "x")]}
        if number % 3:
            more["prediction"] = LatencyPrediction(ttft * rng.choice([0.3, 0.9, 1.2]), tpot * 1.1)
        completed = more.get("outcome", Outcome.COMPLETED) is Outcome.COMPLETED
        e2e = ttft + tpot * (output - 1)
        queue = rng.choice([None, 3.0, 25.0])
        more["actual"] = ActualLatency(
            ttft if completed else None, tpot if completed else None, e2e, None, queue
        )
        records.append(
            record(
                f"request-{number}",
                route,
                at_ms,
                ttft_ms=int(ttft),
                e2e_ms=int(e2e),
                model="qwen",
                policy="prefix",
                input_token_length=tokens,
                output_length=output,
                cached_tokens=cached,
                prefix_cache_score=0.5 if rng.random() < 0.5 else 0.0,
                **more,
            )
        )
    return records


RECORDS = traffic()
COMPLETED = [one for one in RECORDS if one.outcome is Outcome.COMPLETED]
TTFT, TPOT = 150.0, 2.8


def waited(one: LifecycleRecord) -> float:
    """TTFT from the arrival where it is known."""
    assert one.actual.ttft_ms is not None
    return one.actual.ttft_ms + (one.actual.queue_ms or 0)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of the traffic above."""
    folder = tmp_path_factory.mktemp("page")
    write(folder / "records.jsonl", *RECORDS)
    output = folder / "report.html"
    arguments = ["--ttft", f"{TTFT}ms", "--tpot", f"{TPOT}ms", "--link", "http://j/{trace_id}"]
    assert main(["report", str(folder / "records.jsonl"), "-o", str(output), *arguments]) == 0
    return Page(output)


def shown(value: float) -> str:
    """Milliseconds as the page shows them."""
    return f"{value:,.0f} ms" if value >= 1_000 else f"{float(f'{value:.3g}'):g} ms"


def test_tiles(page: Page) -> None:
    """The big numbers."""
    good = [one for one in COMPLETED if waited(one) <= TTFT and (one.actual.tpot_ms or 0) <= TPOT]
    asked = [one for one in RECORDS if one.outcome is not Outcome.CLIENT_DISCONNECT]
    cached = sum(one.cached_tokens or 0 for one in RECORDS)
    prompts = sum(one.input_token_length or 0 for one in RECORDS)

    assert page.tiles == {
        "Completed": f"{100 * len(COMPLETED) / len(RECORDS):.2f} %",
        "Good (targets met)": f"{100 * len(good) / len(asked):.1f} %",
        "TTFT p50": shown(nearest_rank(map(waited, COMPLETED), 0.5)),
        "TPOT p50": shown(nearest_rank([one.actual.tpot_ms or 0 for one in COMPLETED], 0.5)),
        "In the router, p50": shown(
            nearest_rank(
                [one.actual.queue_ms for one in RECORDS if one.actual.queue_ms is not None], 0.5
            )
        ),
        "Tokens in": page.tiles["Tokens in"],
        "Input from cache": f"{100 * cached / prompts:.1f} %",
    }


def test_time(page: Page) -> None:
    """Each point of the charts over time."""
    step, start = (
        page.data["step"],
        START_NS + min(parse_timestamp(one.started_at) - START_NS for one in RECORDS),
    )
    points: defaultdict[int, list[LifecycleRecord]] = defaultdict(list)
    for one in RECORDS:
        points[(parse_timestamp(one.started_at) - start) // round(step * 1e9)].append(one)
    p95: list[float | None] = [None] * page.data["steps"]
    rates = [0.0] * page.data["steps"]
    for point, found in points.items():
        done = [one for one in found if one.outcome is Outcome.COMPLETED]
        rates[point] = len(done) / step
        p95[point] = nearest_rank(map(waited, done), 0.95) if done else None

    series = {one["name"]: one["values"] for one in page.chart("time-requests")["series"]}
    assert list(series) == ["completed", "client_disconnect", "error"]
    assert series["completed"] == pytest.approx(rates, rel=1e-4)
    (_, drawn) = page.chart("time-ttft")["series"]
    assert [None if each is None else pytest.approx(each, rel=1e-4) for each in p95] == drawn[
        "values"
    ]


def test_curves(page: Page) -> None:
    """The share of requests that were at least as fast."""
    points = page.chart("targets-ttft")["points"]

    assert page.chart("targets-ttft")["target"] == TTFT
    for value, part in points[::20]:
        assert value == pytest.approx(nearest_rank(map(waited, COMPLETED), part), rel=1e-4)


def test_endpoints(page: Page) -> None:
    """Shares, quantiles, and the endpoint that is slower than its peers with similar requests."""
    head, *rows = page.tables["Prefill endpoints"]
    assert [row[0] for row in rows] == ["llm/prefill-9", "llm/prefill-10"]
    groups: defaultdict[tuple[int, int], list[float]] = defaultdict(list)

    def group(one: LifecycleRecord) -> tuple[int, int]:
        assert one.selected_route is not None
        assert one.selected_route.prefill is not None
        load = one.selected_route.prefill.inflight
        assert load is not None
        size = (one.input_token_length or 0) - (one.cached_tokens or 0)
        return int(math.log2(max(size, 1))), int(math.log2(max(load.tokens, 1)))

    for one in COMPLETED:
        groups[group(one)].append(waited(one))
    for row in rows:
        mine = [one for one in RECORDS if f"pod://{row[0]}" == _prefill(one)]
        done = [one for one in mine if one.outcome is Outcome.COMPLETED]
        ratios = [
            waited(one) / nearest_rank(groups[group(one)], 0.5)
            for one in done
            if len(groups[group(one)]) >= 5
        ]
        told = dict(zip(head, row, strict=True))
        assert told["Against peers"] == f"{nearest_rank(ratios, 0.5):.2f}×"
        assert told["TTFT p95, ms"] == shown(nearest_rank(map(waited, done), 0.95))[:-3]
        assert told["Requests"] == str(len(mine))
        assert told["Share of requests"] == f"{100 * len(mine) / len(RECORDS):.1f} %"
        assert told["Failed"] == str(sum(one.outcome is Outcome.ERROR for one in mine))
        assert told["Busy, mean"] == "40 %"
        assert told["KV cache, max"] == "50 %"
    assert float(rows[1][1][:-1]) > 1.3
    assert (
        "problem",
        f"llm/prefill-10 takes {rows[1][1]} as long as its peers for similar requests",
    ) in page.verdicts


def test_idle_endpoints(tmp_path: Path) -> None:
    """An endpoint that was always a candidate and never chosen is the most unbalanced of all."""
    names = ["pod-0", "pod-1", "pod-2"]
    picks = {
        role: Pick(role, candidates=[RecordedCandidate(id=f"pod://llm/{name}") for name in names])
        for role in ("leader", "prefill", "decode")
    }
    aggregate, pair = aggregated("pod-0"), disaggregated("pod-0", "pod-1")
    records = [
        record(
            f"request-{number}",
            pair if number % 2 else aggregate,
            number,
            ttft_ms=5,
            e2e_ms=9,
            input_token_length=100,
            # Of a pair the leader is a proxy: its candidates are no engines.
            decision=Decision(picks=[*picks.values()] if number % 2 else [picks["leader"]]),
        )
        for number in range(12)
    ]

    page = report(tmp_path, *records)

    for role in ("Prefill", "Engine", "Decode"):
        head, *rows = page.tables[f"{role} endpoints"]
        told = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
        assert list(told) == [f"llm/{name}" for name in names]
        assert told["llm/pod-2"]["Requests"] == told["llm/pod-2"]["In flight, peak"] == "0"
        assert told["llm/pod-2"]["Share of input tokens"] == "0.0 %"
        assert told["llm/pod-2"]["Against peers"] == "–"
    assert page.answers["endpoints"].startswith(
        "Of 3 prefill endpoints the busiest got 3.00× an equal share of input tokens, "
        "and 2 got no request. "
    )
    assert [level for level, text in page.verdicts if "equal share" in text] == ["problem"]
    assert not [text for _, text in page.verdicts if "its peers" in text]


def _prefill(one: LifecycleRecord) -> str:
    assert one.selected_route is not None
    assert one.selected_route.prefill is not None
    return one.selected_route.prefill.id


def test_load(page: Page) -> None:
    """The area under the strips is the time that tokens were in flight."""
    for role in ("prefill", "decode"):
        expected = 0.0
        for one in RECORDS:
            begin = parse_timestamp(one.rerouted[-1].at if one.rerouted else one.started_at)
            end = one.first_chunk_at if role == "prefill" else one.completed_at
            assert end is not None
            seconds = max(0, parse_timestamp(end) - begin) / 1e9
            expected += seconds * (one.input_token_length or 0)
        cells = page.chart(f"endpoints-load-{role}")["cells"]
        assert sum(cell[2] for cell in cells) * page.data["step"] == pytest.approx(
            expected, rel=0.01
        )


def test_matrix(page: Page) -> None:
    """Every completed request is in one cell of the matrix."""
    cells = [
        cell for row in page.tables["Median TTFT in ms; small: requests"][1:] for cell in row[1:]
    ]
    # The number of requests stands right behind the median.
    assert sum(1 for cell in cells if cell) >= 6
    assert page.answers["prompt"].startswith("For prompts of one size, TTFT varies ")


def test_prefix_cache(page: Page) -> None:
    """Sums by tokens, and means of requests, which differ."""
    prompts = [
        (one.input_token_length or 0, one.cached_tokens or 0, one.prefix_cache_score or 0)
        for one in RECORDS
    ]
    total = sum(prompt for prompt, _, _ in prompts)
    delivered = sum(cached for _, cached, _ in prompts) / total
    expected = sum(prompt * score for prompt, _, score in prompts) / total
    wrong = sum(abs(score - cached / prompt) > 0.1 for prompt, cached, score in prompts)

    assert page.answers["prefix"].startswith(
        f"{100 * delivered:.1f} % of {total / 1e3:.3g}k input tokens came from the cache; the "
        f"router expected {100 * expected:.1f} %. It was wrong by more than 10 points in "
        f"{100 * wrong / len(prompts):.1f} % of 400 requests."
    )
    assert sum(cell[2] for cell in page.chart("prefix-density")["cells"]) == len(RECORDS)


def test_predictor(page: Page) -> None:
    """Ratios of predicted by actual, from the dispatch."""
    pairs = [
        (one.prediction.ttft_ms, one.actual.ttft_ms)
        for one in COMPLETED
        if one.prediction.ttft_ms is not None and one.actual.ttft_ms is not None
    ]
    ratios = [predicted / actual for predicted, actual in pairs]
    within = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    error = sum(abs(predicted - actual) for predicted, actual in pairs) / len(pairs)

    assert page.answers["predictor"].startswith(
        f"TTFT: {100 * within:.1f} % of {len(pairs)} predictions are within a factor of two "
        f"(median ratio {nearest_rank(ratios, 0.5):.2f}, mean error {shown(error)})."
    )
    assert sum(cell[2] for cell in page.chart("predictor-density")["cells"]) == len(pairs)


def test_fresh(page: Page) -> None:
    """The age of the metrics, and the requests they did not show."""
    ages: list[float] = []
    scrapes: Counter[tuple[str, Any]] = Counter()
    for one in RECORDS:
        assert one.selected_route is not None
        assert one.selected_route.prefill is not None
        metrics = one.selected_route.prefill.metrics
        assert metrics is not None
        assert metrics.update_time is not None
        chosen = parse_timestamp(one.rerouted[-1].at if one.rerouted else one.started_at)
        ages.append(chosen / 1e6 - metrics.update_time.timestamp() * 1e3)
        scrapes[_prefill(one), metrics.update_time] += 1
    first = len(scrapes)

    assert page.answers["fresh"].startswith(
        f"The metrics were {shown(nearest_rank(ages, 0.5))} old at the median, "
        f"{shown(nearest_rank(ages, 0.99))} at p99. In {100 * (1 - first / len(RECORDS)):.1f} % of "
    )
    assert sum(page.chart("fresh-age")["values"]) == len(RECORDS)
    assert page.chart("fresh-earlier")["values"][0] == first


def test_failures(page: Page) -> None:
    """What did not complete, and what changed its route."""
    assert page.answers["failures"].startswith("40 requests of 400 did not complete; 20 changed")
    assert page.tables["Changes of route"][1:] == [["llm/a", "llm/b", "x", "20"]]
    assert sum(int(row[3]) for row in page.tables["Requests that did not complete"][1:]) == 40


def test_longest(page: Page) -> None:
    """The requests that waited longest, in their order."""
    longest = sorted(COMPLETED, key=lambda one: -waited(one))[:12]
    rows = [row for row in page.tables["Longest waits"][1:] if len(row) > 1]

    assert [row[:2] for row in rows] == [[one.request_id, shown(waited(one))] for one in longest]


def test_not_seen(page: Page) -> None:
    """What is missing is counted."""
    unpredicted = sum(one.prediction.ttft_ms is None for one in RECORDS)

    assert page.answers["unseen"].startswith(f"{unpredicted} requests had no prediction")


def test_no_network(page: Page) -> None:
    """The page loads nothing: its policy forbids it, and it has no address outside itself."""
    assert page.policy.startswith("default-src 'none'; ")
    assert not [
        value
        for name, value in page.attributes
        if not value.startswith(("#", "data:", "http://j/")) or name == "src"
    ]


def report(tmp_path: Path, *records: LifecycleRecord, more: Iterable[str] = ()) -> Page:
    """The page of a few records."""
    path = write(tmp_path / "records.jsonl", *records)
    assert main(["report", str(path), "-o", str(tmp_path / "report.html"), *more]) == 0
    return Page(tmp_path / "report.html")


@pytest.mark.parametrize(
    "records",
    [
        [record("one", aggregated("solo"), 0, ttft_ms=5, e2e_ms=9)],
        [record("failed", None, 0, e2e_ms=1, outcome=Outcome.ERROR, error=ErrorInfo("Oh"))],
        [record("open", aggregated("solo"), 0, e2e_ms=1, completed_at=None)],
        [
            record(
                "zero",
                aggregated("solo"),
                0,
                ttft_ms=0,
                e2e_ms=0,
                tpot_ms=0.0,
                predicted=(0.0, 0.0),
                input_token_length=0,
                cached_tokens=0,
                prefix_cache_score=0.0,
            )
        ],
    ],
    ids=["one", "only an error", "without an end", "zeros"],
)
def test_few(tmp_path: Path, records: list[LifecycleRecord]) -> None:
    """However little there is, each section says what it can."""
    page = report(tmp_path, *records, more=["--ttft", "1s"])

    assert page.answers["time"]
    assert page.answers["unseen"]
    assert "nan" not in str(page.tables).lower()


def test_unknown_lengths(tmp_path: Path) -> None:
    """A prompt of unknown length is not one of no tokens."""
    route = RouteSnapshot(EndpointSnapshot(id="pod://llm/a", inflight=Load(tokens=9, requests=1)))
    other = RouteSnapshot(EndpointSnapshot(id="pod://llm/b", inflight=Load(tokens=9, requests=1)))
    page = report(
        tmp_path,
        *(
            record(f"r{number}", (route, other)[number % 2], number, ttft_ms=5, e2e_ms=9)
            for number in range(12)
        ),
    )

    shares = page.tables["Engine endpoints"]
    column = {name: at for at, name in enumerate(shares[0])}
    for row in shares[1:]:
        assert row[column["Share of input tokens"]] == "–"
        assert row[column["Against peers"]] == "–"
    assert not [caption for caption in page.tables if caption.startswith("Median TTFT")]
    assert page.answers["endpoints"] == "No request tells how long its prompt was."
    assert not [sentence for _, sentence in page.verdicts if "equal share" in sentence]


def test_bins_of_load(tmp_path: Path) -> None:
    """Requests that met an idle endpoint do not widen the bins of the others."""
    records: list[LifecycleRecord] = []
    for number in range(40):
        load = Load(tokens=(0, 5_000, 9_000, 17_000)[number % 4])
        route = RouteSnapshot(EndpointSnapshot(id="pod://llm/a", inflight=load))
        records.append(
            record(f"{number}", route, number, ttft_ms=5, e2e_ms=9, input_token_length=1_500)
        )
    page = report(tmp_path, *records)

    matrix = page.tables["Median TTFT in ms; small: requests"]
    assert [row[0] for row in matrix[1:]] == ["16k+", "8k–16k", "4k–8k", "0–4k"]


@pytest.mark.parametrize(
    ("seconds", "title", "point", "most"),
    [
        (12, "in 12 s", "0.2 s", 61),
        (60, "in 60 s", "1 s", 61),
        (7 * 86_400, "in 7 d", "2 h", 85),
        (400 * 86_400, "in 400 d", "4 d", 101),
    ],
)
def test_long_times(tmp_path: Path, seconds: int, title: str, point: str, most: int) -> None:
    """Charts have at most 120 points, and long times have a unit that is read at a glance."""
    page = report(
        tmp_path,
        record("first", None, 0, ttft_ms=5, e2e_ms=9),
        record("last", None, seconds * 1_000, ttft_ms=7, e2e_ms=0),
    )

    assert page.data["steps"] == most <= 120
    content = (tmp_path / "report.html").read_text("utf-8").replace("\u00a0", " ")
    assert f"2 requests {title}<" in content
    assert f"Each point: {point}.<" in content


def test_only_bad_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a record the first invalid line is named."""
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"oh\n{}\n")

    assert main(["report", str(path), "-o", str(tmp_path / "report.html")]) == 2
    error = capsys.readouterr().err
    start = (
        f"otel-lifecycle: {path}: there is no record to report; 2 problems, the first: {path}:1: "
    )
    assert error.startswith(start)
    assert error.count("\n") == 1


def test_hostile_names(tmp_path: Path) -> None:
    """A name from a client is text, whatever it looks like."""
    name = "</script><script>alert(1)</script>\x1b[31m\u202e&amp;"
    route = RouteSnapshot(EndpointSnapshot(id=f"pod://llm/{name}"))
    page = report(
        tmp_path,
        record(name, route, 0, ttft_ms=5, e2e_ms=9, model=name, policy=name),
        record("b", route, 0, e2e_ms=9, outcome=Outcome.ERROR, error=ErrorInfo(name)),
    )

    content = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"<script>alert|\x1b|\u202e", content)
    assert [row[0] for row in page.tables["Longest waits"][1:2]] != [name]
    assert "<script>alert(1)" in page.tables["Longest waits"][1][0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--ttft", "5"], "argument --ttft: "),
        (["--ttft", "0s"], "argument --ttft: must be longer than 0, got '0s'"),
        (["--where", "oh("], "'oh(': "),
        (["--where", "false"], "{path}: there is no record to report"),
        (["-o", "{folder}/missing/report.html"], "--output {folder}/missing/report.html: "),
    ],
)
def test_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    """One line says what is wrong, and nothing is written."""
    path = write(tmp_path / "records.jsonl", RECORDS[0])
    given = [each.format(folder=tmp_path) for each in arguments]
    try:
        code = main(["report", str(path), "-o", str(tmp_path / "report.html"), *given])
    except SystemExit as left:
        code = left.code

    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1), error
    assert reason.format(path=path, folder=tmp_path) in error
    assert [each.name for each in tmp_path.iterdir()] == ["records.jsonl"]


def test_decisions(tmp_path: Path) -> None:
    """Where candidates are recorded, the page tells what the choice cost, and the others."""

    def decided(number: int, rank: int, regret_ms: float) -> LifecycleRecord:
        candidates = [
            RecordedCandidate(id=f"pod://llm/pod-{one}", score=1.0 - one) for one in range(2)
        ]
        pick = Pick("leader", rank, 0.5 if rank == 1 else -1.0, regret_ms, candidates)
        return record(
            f"request-{number}",
            aggregated(f"pod-{rank - 1}"),
            number,
            ttft_ms=50,
            e2e_ms=60,
            policy="least-load",
            decision=Decision(picks=[pick]),
        )

    choices = [decided(0, 1, 0.0), decided(1, 1, 0.0), decided(2, 2, 30.0)]
    page = report(tmp_path, *choices, RECORDS[0])

    assert page.answers["decisions"] == (
        "3 choices of an endpoint for the prompt are recorded. 66.7 % took the best score. By the "
        "router's own predictions, 33.3 % could have been faster elsewhere, by 10 ms in the mean "
        "of all."
    )
    assert page.tables["Choices by policy and role"][1:] == [
        ["least-load", "leader", "3", "66.7 %", "0.5", "3", "0 ms", "30 ms", "10 ms"]
    ]
    details = str(page.tables["Longest waits"])
    assert "the best score first: llm/pod-0 (score 1, – of the prompt cached" in details
    assert "decisions" not in report(tmp_path, RECORDS[0]).answers


def test_options_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option of the page without the page is an error, and not ignored."""
    path = write(tmp_path / "records.jsonl", RECORDS[0])

    assert main(["report", str(path), "--ttft", "1s"]) == 2
    assert capsys.readouterr().err == (
        "otel-lifecycle: --ttft is for the page: --output FILE is missing\n"
    )
