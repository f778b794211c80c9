"""`otel-lifecycle report`: its complete output for records written by hand."""

from __future__ import annotations

import fcntl
import gzip
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from otel_lifecycle import LatencyPrediction, Outcome
from otel_lifecycle.analysis.formatting import shortened
from otel_lifecycle.cli import main
from otel_lifecycle.model.latency import ActualLatency
from otel_lifecycle.model.record import ErrorInfo, LifecycleRecord, Reroute
from tests.cli.records import aggregated, disaggregated, record, timestamp, write
from tests.wording import NOT_AN_OBJECT

PAIR = disaggregated("prefill-0", "decode-0")

RECORDS = [
    record(
        "plain-1",
        aggregated("solo-0"),
        0,
        ttft_ms=200,
        e2e_ms=820,
        tpot_ms=20.0,
        predicted=(190.0, 22.0),
        prefix_cache_score=0.25,
        input_token_length=1000,
        output_length=32,
    ),
    record(
        "pair-1",
        PAIR,
        100,
        ttft_ms=100,
        e2e_ms=500,
        tpot_ms=10.0,
        predicted=(140.0, None),
        prefix_cache_score=0.0,
        input_token_length=2000,
        output_length=41,
    ),
    record(
        "hit-1",
        PAIR,
        150,
        ttft_ms=50,
        e2e_ms=350,
        tpot_ms=12.0,
        predicted=(40.0, 11.0),
        prefix_cache_score=0.75,
        input_token_length=4000,
        output_length=26,
    ),
    record(
        "again-1",
        aggregated("solo-0"),
        300,
        e2e_ms=600,
        streaming=False,
        input_token_length=500,
        output_length=30,
        rerouted=[Reroute(timestamp(500), "pod://llm/solo-1", "pod://llm/solo-0", "http_500")],
    ),
    record(
        "gone-1",
        PAIR,
        350,
        e2e_ms=100,
        outcome=Outcome.CLIENT_DISCONNECT,
        predicted=(90.0, 11.0),
        input_token_length=10,
    ),
    record(
        "broken-\x1b[31m1",
        PAIR,
        900,
        ttft_ms=30,
        e2e_ms=90,
        outcome=Outcome.ERROR,
        predicted=(20.0, None),
        error=ErrorInfo("stream_truncated"),
    ),
    record("refused-1", None, 950, e2e_ms=10, outcome=Outcome.REJECTED),
]

REPORT = """\
7 requests · 86 % streaming · 1 rerouted
  completed               4  ███████████████████████
  client_disconnect       1  ██████
  error                   1  ██████
  rejected                1  ██████
  errors: stream_truncated 1

Requests, aligned at dispatch
░ to the first chunk  █ to the end  ▒ no first chunk
                  0 ms                                     410                                820 ms
plain             ░░░░░░░░░░░░░░░░░░░░██████████████████████████████████████████████████████████████
                  plain-1 · llm/solo-0 · cached 25 %
                  1,000 → 32 tokens · TTFT 200 ms (predicted 190) · TPOT 20.0 ms (predicted 22.0)
prefill/decode    ░░░░░░░░░░████████████████████████████████████████
                  pair-1 · llm/prefill-0 → llm/decode-0 · cached 0 %
                  2,000 → 41 tokens · TTFT 100 ms (predicted 140) · TPOT 10.0 ms (predicted -)
prefix-cache hit  ░░░░░██████████████████████████████
                  hit-1 · llm/prefill-0 → llm/decode-0 · cached 75 %
                  4,000 → 26 tokens · TTFT 50.0 ms (predicted 40.0) · TPOT 12.0 ms (predicted 11.0)
rerouted          ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒
                  again-1 · llm/solo-0
                  500 → 30 tokens · TTFT - (predicted -) · TPOT - (predicted -)
                  sent again: http_500
client disconnect ▒▒▒▒▒▒▒▒▒▒
                  gone-1 · llm/prefill-0 → llm/decode-0
                  10 → - tokens · TTFT - (predicted 90.0) · TPOT - (predicted 11.0)
error             ░░░██████
                  broken-\\u001b[31m1 · llm/prefill-0 → llm/decode-0
                  - → - tokens · TTFT 30.0 ms (predicted 20.0) · TPOT - (predicted -)
                  error: stream_truncated
rejected          ▒
                  refused-1 · no endpoint
                  - → - tokens · TTFT - (predicted -) · TPOT - (predicted -)

Predicted against actual latency, in ms
n: requests that were predicted; medians of these, and the mean absolute error
                           TTFT                                TPOT
endpoint        requests      n   predicted   actual   error      n   predicted   actual   error
────────────────────────────────────────────────────────────────────────────────────────────────
llm/decode-0           4      -           -        -       -      1        11.0     12.0    1.00
llm/prefill-0          4      3        40.0     50.0    20.0      -           -        -       -
llm/solo-0             2      1         190      200    10.0      1        22.0     20.0    2.00

In-flight load over time
endpoint            peak     peak   requests, 0 to 3
                requests   tokens   0 s                                                1.0 s
────────────────────────────────────────────────────────────────────────────────────────────
llm/decode-0           3    6,010        ▃▃▃▆▆▆▆▆▆▆▆▆▆▆███████▆▆▆▃▃▃▃▃                ▃▃▃▃▃▃
llm/prefill-0          2    6,000        ▃▃▃▆▆▆▆       ▃▃▃▃▃▃▃                        ▃▃▃
llm/solo-0             2    1,500   ▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▆▃▃▃▃

"""


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The report of `RECORDS`, without trailing blanks."""
    code = main(["report", str(write(tmp_path / "records.jsonl", *RECORDS))])

    assert code == 0
    return "\n".join(line.rstrip() for line in capsys.readouterr().out.split("\n"))


def test_whole_text(report: str) -> None:
    """Outcomes, one request of each kind, accuracy and load; what is unknown is a dash."""
    assert report == REPORT


def test_fits_a_page(report: str) -> None:
    """Nothing is wider than 100 columns."""
    assert max(map(len, report.split("\n"))) <= 100


def test_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file gives a report of nothing."""
    path = write(tmp_path / "records.jsonl")

    assert (main(["report", str(path)]), capsys.readouterr().out) == (0, "0 requests\n\n")


def test_bad_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid lines are skipped and counted, in one line that names the first."""
    path = write(tmp_path / "records.jsonl", RECORDS[0])
    path.write_bytes(b"[]\n" + path.read_bytes() + b"{\n")

    code = main(["report", str(path)])

    output = capsys.readouterr()
    assert (code, output.err) == (
        1,
        f"otel-lifecycle: 2 problems skipped, the first: {path}:1: {NOT_AN_OBJECT}\n",
    )
    assert output.out.startswith("1 request ")


def test_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files, their closed segments and whole folders are combined in one report."""
    folder = tmp_path / "folder"
    folder.mkdir()
    paths = [tmp_path / "records.jsonl", folder]
    write(tmp_path / "records.20261125T025428.123Z.000001.jsonl", RECORDS[0])
    write(tmp_path / "records.jsonl", RECORDS[1])
    write(folder / "a.jsonl", RECORDS[2])
    compressed = folder / "b.20261125T025428.123Z.000001.jsonl.gz"
    compressed.write_bytes(gzip.compress(write(tmp_path / "b", RECORDS[3]).read_bytes()))

    code = main(["report", *map(str, paths)])

    assert (code, capsys.readouterr().out.partition(" · ")[0]) == (0, "4 requests")


def test_one_bad_path_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing path is named and the others are reported; if all are missing, nothing is."""
    path = write(tmp_path / "records.jsonl", RECORDS[0])
    missing = tmp_path / "missing.jsonl"
    said = f"otel-lifecycle: {missing}: No such file or directory\n"

    assert main(["report", str(missing), str(path)]) == 2
    output = capsys.readouterr()
    assert (output.out.partition(" · ")[0], output.err) == ("1 request", said)
    assert (main(["report", str(missing)]), capsys.readouterr()) == (2, ("", said))


def test_unfinished_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A last line that is still being written is named but is not an error."""
    path = write(tmp_path / "records.jsonl", RECORDS[0])
    path.write_bytes(path.read_bytes() + b"{")

    assert main(["report", str(path)]) == 0
    said = f"otel-lifecycle: {path}:2: skipped, the line has no end yet\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    "fields",
    [
        {"completed_at": "1970-01-01T00:00:00.000000000Z"},
        {"completed_at": "2262-01-01T00:00:00.000000000Z"},
        {"first_chunk_at": "1970-01-01T00:00:00.000000000Z"},
        {"input_token_length": 2**53 - 1},
        {"rerouted": [Reroute("1970-01-01T00:00:00.000000000Z", "a", "b", "c")]},
        {"actual": ActualLatency(1e308, 1e308, 1e308)},
        {"actual": ActualLatency(1e308, 0.0, 5e-324)},
    ],
)
def test_unlikely_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any]
) -> None:
    """A record with implausible numbers is reported with the others."""
    odd = record("odd", disaggregated("a", "b"), 0, e2e_ms=1, predicted=(1e9, 1e9))
    odd = structs.replace(odd, **fields)
    path = write(tmp_path / "records.jsonl", odd, *RECORDS, odd)

    code = main(["report", str(path)])

    output = capsys.readouterr()
    expected = (0, "", f"{len(RECORDS) + 2} requests")
    assert (code, output.err, output.out.partition(" · ")[0]) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"input_token_length": 2**63},
        {"input_token_length": -1},
        {"prediction": LatencyPrediction(-1.0, None)},
        {"actual": ActualLatency(-1e308, None, -1.0)},
    ],
)
def test_impossible_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any]
) -> None:
    """A line with numbers beyond the schema's bounds is counted as invalid."""
    odd = structs.replace(record("odd", disaggregated("a", "b"), 0, e2e_ms=1), **fields)

    code = main(["report", str(write(tmp_path / "records.jsonl", odd, *RECORDS))])

    output = capsys.readouterr()
    assert (code, output.out.partition(" · ")[0]) == (1, f"{len(RECORDS)} requests")
    assert output.err.startswith("otel-lifecycle: 1 problem skipped, the first: ")


def test_prefers_a_predicted_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For each kind the first request with predictions is shown, if there is one."""

    def plain(name: str, predicted: tuple[float | None, float | None]) -> LifecycleRecord:
        return record(name, aggregated("solo-0"), 0, ttft_ms=1, e2e_ms=2, predicted=predicted)

    records = [plain("a", (None, None)), plain("b", (1.0, 2.0)), plain("c", (1.0, 2.0))]
    main(["report", str(write(tmp_path / "records.jsonl", *records))])

    shown = [line.split(" · ")[0].strip() for line in capsys.readouterr().out.split("\n")]
    assert [line for line in shown if line in ("a", "b", "c")] == ["b"]


def test_long_names() -> None:
    """A long pod name is shortened in the middle: its end distinguishes pods."""
    assert shortened("production/vllm-qwen3-8b-6c9f7d5b8d-x2v4q") == "produ…d5b8d-x2v4q"
    assert shortened("demo/qwen-0") == "demo/qwen-0"


@pytest.mark.parametrize("columns", [100, 80, 60])
def test_narrow_terminal(tmp_path: Path, columns: int) -> None:
    """No line is longer than the terminal is wide, and no column loses its name or a number."""
    path = write(tmp_path / "records.jsonl", *RECORDS)
    shown = on_a_terminal(columns, "report", str(path))

    assert max(len(line.rstrip()) for line in shown.splitlines()) <= columns
    for word in ("endpoint", "requests", "predicted", "actual", "error", "TTFT", "TPOT"):
        assert word in shown
    assert "…" not in shown.partition("Predicted against")[2].partition("In-flight load")[0]


@pytest.mark.parametrize("columns", [40, 20])
def test_very_narrow_terminal(tmp_path: Path, columns: int) -> None:
    """Without room for tables, each endpoint has a list: no name and no number is cut."""
    path = write(tmp_path / "records.jsonl", *RECORDS)
    shown = on_a_terminal(columns, "report", str(path))
    lines = [line.rstrip() for line in shown.splitlines()]

    assert max(map(len, lines)) <= columns
    assert "…" not in shown
    at = lines.index("llm/solo-0", lines.index("llm/prefill-0"))
    assert lines[at + 1 : at + 6] == [
        "  requests  2",
        "  TTFT n  1",
        "  predicted  190",
        "  actual  200",
        "  error  10.0",
    ]
    assert "  peak tokens  6,010" in lines


def test_no_colour(tmp_path: Path) -> None:
    """A terminal whose user wants no colours gets none."""
    path = str(write(tmp_path / "records.jsonl", *RECORDS))
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9]")

    assert colour.search(raw_on_a_terminal(100, "report", path))
    assert not colour.search(raw_on_a_terminal(100, "report", path, NO_COLOR="1"))


def on_a_terminal(columns: int, *arguments: str) -> str:
    """Run the command on a terminal of that width; return what it shows, without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", raw_on_a_terminal(columns, *arguments))


def raw_on_a_terminal(columns: int, *arguments: str, **variables: str) -> str:
    """The same with colours, and with more environment variables."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    code = "import sys; from otel_lifecycle.cli import main; sys.exit(main())"
    others = ("COLUMNS", "NO_COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=child,
        stderr=child,
        stdin=child,
        env={**environment, "TERM": "xterm", **variables},
    )
    os.close(child)
    shown = b""
    with suppress(OSError):  # the end of a terminal
        while piece := os.read(parent, 65_536):
            shown += piece
    os.close(parent)
    assert process.wait(60) == 0
    return shown.decode()
