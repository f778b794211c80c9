"""`simulate` and `judge`: what they write, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from otel_lifecycle.cli import main
from tests.cli.test_report import on_a_terminal

TRACE_LINE = '{"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}\n'


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--policy fastest", "--policy 'fastest': must be one of "),
        ("--engines 0", "must be a whole number >= 1, got '0'"),
        ("--engines 1 --mode pd", "pd mode needs at least one prefill and one decode engine"),
        ("--rate -1", "must be a number > 0, got '-1'"),
        ("--explore 1.5", "must be a number from 0 to 1, got '1.5'"),
        ("--rate 1 --speed 2", "not allowed with"),
        ("--trace {folder}/empty", "contains no request"),
        ("--trace {folder}/one --skip 1", "--skip 1: leaves no request of {folder}/one"),
        ("--skip 1", "--skip 1: only requests of a --trace can be left out"),
        ("--skip -1", "must be a whole number >= 0, got '-1'"),
        ("--model {folder}/one --policy random", "one: no --policy looks at predictions"),
        ("--model {folder}/one", "one: is no model of `otel-lifecycle train`: "),
        ("--model {folder}/missing", "--model {folder}/missing: No such file"),
        ("--trace {folder}/other", "other:1: "),
        ("--trace {folder}/missing", "No such file"),
        ("--output {folder}/other", "exists already"),
        ("--output {folder}/no/records", "No such file"),
        ("--json {folder}/no/table", "No such file"),
    ],
)
def test_bad_input(
    arguments: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is refused in one line that says why, with 2, and nothing is written."""
    (tmp_path / "empty").touch()
    (tmp_path / "one").write_text(TRACE_LINE)
    (tmp_path / "other").write_text('{"prompt": "hello"}\n')
    command = f"simulate --requests 1 --output {tmp_path}/records {arguments}"

    try:
        code = run(*command.format(folder=tmp_path).split())
    except SystemExit as error:
        code = error.code

    printed = capsys.readouterr()
    assert code == 2
    assert reason.format(folder=tmp_path) in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "one", "other"}


def test_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each policy has a row, an interval over seeds, and the records of each run."""
    code = run(
        *("simulate", "--requests", 40, "--rate", 20, "--seeds", 2, "--engines", 2),
        *("--policy", "random", "--policy", "least_load", "--ttft", "500ms", "--tpot", "20ms"),
        *("--output", tmp_path / "runs", "--json", tmp_path / "table.json"),
    )

    assert (code, capsys.readouterr().err) == (0, "")
    table = json.loads((tmp_path / "table.json").read_text())
    assert sorted(table) == ["least_load", "random"]
    good, busiest = table["least_load"]["goodput"], table["random"]["busiest"]
    assert good["low"] <= good["value"] <= good["high"]
    assert 0 <= good["value"] <= 1
    assert 1 <= busiest["value"] <= 2
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == [f"{name}-{seed}.jsonl" for name in ("least_load", "random") for seed in (0, 1)]
    assert run("validate", tmp_path / "runs") == 0


def test_a_trace_and_its_judgement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The records of a simulated trace can be judged, but only those of one policy together."""
    trace, records = tmp_path / "trace.jsonl", tmp_path / "records.jsonl"
    trace.write_text(TRACE_LINE * 5)

    assert run("simulate", "--trace", trace, "--policy", "random", "--output", records) == 0
    assert run("judge", records, "--ttft", "1s", "--json", tmp_path / "judged.json") == 0
    judged = json.loads((tmp_path / "judged.json").read_text())
    assert judged["observed"]["requests"] == 5
    assert {one["method"] for one in judged.values()} == {"observed", "bounds"}  # too few

    assert run("simulate", "--trace", trace, "--output", tmp_path / "others.jsonl") == 0
    capsys.readouterr()
    assert run("judge", records, tmp_path / "others.jsonl") == 2
    assert "choose with --where" in capsys.readouterr().err
    assert run("judge", records, "--where", "policy = 'none'") == 2
    assert "no record tells" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [40, 20])
def test_narrow_terminal(tmp_path: Path, columns: int) -> None:
    """No line is longer than the terminal is wide, and no policy and no number is cut."""
    runs = tmp_path / "runs"
    options = ("--requests", "30", "--seeds", "2", "--ttft", "10s", "--output", str(runs))
    simulated = on_a_terminal(columns, "simulate", "--policy", "random", *options)
    lines = [line.rstrip() for line in simulated.splitlines()]
    table = lines[lines.index("random") :]
    judged = on_a_terminal(columns, "judge", str(runs), "--ttft", "10s").splitlines()

    assert max(len(line.rstrip()) for line in [*table, *judged]) <= columns
    assert "…" not in "".join([*table, *judged])
    assert re.match(r"  good %  [0-9.]+ ±", table[1])
    assert judged[:2] == ["observed", "  method  observed"]
