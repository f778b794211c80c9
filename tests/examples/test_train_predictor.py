"""The example that trains a predictor on a trace and loads it into the router."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from otel_lifecycle.prediction.trained import TrainedModel

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_predictor.py"
REQUESTS = 500


def write_trace(path: Path) -> None:
    """Prompts of up to 8,000 tokens; every other one shares its first block."""
    chance = random.Random(4)
    with path.open("w") as file:
        for number in range(REQUESTS):
            length = chance.randint(100, 8_000)
            blocks = [number * 16 + block for block in range(-(-length // 512))]
            blocks[0] *= number % 2
            request = {"timestamp": number, "input_length": length, "output_length": 8}
            file.write(json.dumps({**request, "hash_ids": blocks}) + "\n")


def run(trace: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    options = ["--output", str(folder), "--rate", "25", "--seeds", "2"]
    return subprocess.run(
        [sys.executable, str(EXAMPLE), str(trace), *options],
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_a_trace_to_a_comparison(tmp_path: Path) -> None:
    """It prints what it runs; the model is trained on the first part and tried on the rest."""
    write_trace(tmp_path / "trace.jsonl")
    done = run(tmp_path / "trace.jsonl", tmp_path / "folder")

    assert (done.returncode, done.stderr) == (0, "")
    commands = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("$")]
    assert commands == ["simulate", "train", "simulate"]
    assert f"--skip {REQUESTS * 7 // 10} " in done.stdout
    learnt = (tmp_path / "folder" / "records.jsonl").read_text().count("\n")
    card = TrainedModel.load(tmp_path / "folder" / "model.json").card["targets"]["ttft"]
    assert learnt == REQUESTS * 7 // 10
    assert card["errors"]["trained"] < card["errors"]["median"]
    table = json.loads((tmp_path / "folder" / "comparison.json").read_text())
    assert sorted(table) == ["prediction", "prediction-trained"]
    before, after = (table[name]["ttft_p95_ms"] for name in sorted(table))
    assert before != after
    assert all(one["low"] <= one["value"] <= one["high"] for one in (before, after))


def test_a_trace_that_is_none(tmp_path: Path) -> None:
    """The first command that fails ends it, with its reason and exit code."""
    (tmp_path / "trace.jsonl").write_text('{"prompt": "hello"}\n' * 2)
    done = run(tmp_path / "trace.jsonl", tmp_path / "folder")

    assert done.returncode == 2
    assert "trace.jsonl:1: " in done.stderr
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_trace_that_is_missing(tmp_path: Path) -> None:
    """No folder is made, which would be in the way of the next try."""
    done = run(tmp_path / "missing.jsonl", tmp_path / "folder")

    assert done.returncode == 2
    assert "missing.jsonl" in done.stderr
    assert not (tmp_path / "folder").exists()
