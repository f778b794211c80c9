"""Hanging name resolutions delay neither the router's end nor its records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from otel_lifecycle import read_records
from tests.examples.cluster import Cluster
from tests.instrumentation.test_zero_code import ROUTER, answers
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS, eventually

ROOT = Path(__file__).parents[2]
# Far longer than any test waits: a test that waits for a name fails by its timeout.
_HANG = """
import socket, time

resolve = socket.getaddrinfo

def hang(host, *arguments, **options):
    if isinstance(host, str) and host.endswith(".hangs.example"):
        open(f"{LOG}-{host}", "w").close()
        time.sleep(600)
    return resolve(host, *arguments, **options)

socket.getaddrinfo = hang
"""
_TRACKER = """
import os, sys, time
from pathlib import Path
from otel_lifecycle import RequestLifecycleTracker, TrackerConfig
from tests.records.helpers import numbered, serve

tracker = RequestLifecycleTracker(TrackerConfig.from_environment())
serve(tracker, *numbered("request", 5))
while not Path(f"{LOG}-engine.hangs.example").exists():
    time.sleep(0.01)
"""


def environment(folder: Path, records: Path) -> dict[str, str]:
    """Variables for everything that may have a name, with a name that hangs."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT, ROOT / "examples"))),
        "OTEL_LIFECYCLE_CLOSE_TIMEOUT": "2s",
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(records),
        "OTEL_LIFECYCLE_PERSISTENCE_FLUSH_THRESHOLD": "1000",
        "OTEL_LIFECYCLE_PREDICTION_URL": "http://predict.hangs.example",
        "OTEL_LIFECYCLE_PREDICTION_TRAINING_URL": "http://train.hangs.example",
        "OTEL_LIFECYCLE_COLLECTION_ENABLED": "true",
        "OTEL_LIFECYCLE_COLLECTION_TARGETS": "engine=http://engine.hangs.example/metrics",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.hangs.example:4318",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_LOGS_EXPORTER": "none",
    }


def hanging(folder: Path, script: str) -> str:
    """A script in a process where name resolution hangs."""
    return f"LOG = {str(folder / 'asked')!r}\n{_HANG}\n{script}"


def test_end_of_the_interpreter(tmp_path: Path) -> None:
    """A process with a tracker ends while all its threads still resolve names."""
    records = tmp_path / "records.jsonl"
    process = subprocess.run(
        [sys.executable, "-c", hanging(tmp_path, _TRACKER)],
        env=environment(tmp_path, records),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert process.returncode == 0
    assert "Traceback" not in process.stderr
    assert [f"request-{number}" for number in range(5)] == [
        record.request_id for record in read_records(records)
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end_of_a_router(tmp_path: Path, number: signal.Signals) -> None:
    """A router without our code ends too, with the exporters that were set up for it."""
    records, port = tmp_path / "records.jsonl", free_port()
    cluster = Cluster()
    script = tmp_path / "router.py"
    script.write_text(hanging(tmp_path, ROUTER))
    variables = {
        **environment(tmp_path, records),
        "PORT": str(port),
        "ENGINE": cluster.add_engine("engine").url,
    }
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    with subprocess.Popen([instrument, sys.executable, str(script)], env=variables) as router:
        try:
            eventually(lambda: answers(port))
            body = {"model": "m", "prompt": "hello", "max_tokens": 4, "stream": True}
            for _ in range(5):
                url = f"http://127.0.0.1:{port}/v1/completions"
                assert httpx.post(url, json=body, timeout=30).status_code == 200
            eventually((tmp_path / "asked-collector.hangs.example").exists)
            router.send_signal(number)
            router.wait(PATIENCE_SECONDS)
        finally:
            router.kill()
            cluster.stop()
    assert len(list(read_records(records))) == 5
