"""Shipping, while the shipper, the collector or the router is killed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from otel_lifecycle.records.shipping.shipper import BATCH
from tests.cli.command import Command
from tests.faults import workers
from tests.faults.processes import Worker, read
from tests.faults.table import Result
from tests.instrumentation.instrumented_process import free_port
from tests.records.shipping.collectors import ACCEPT, HTTP_PROTOBUF, Collector, Reply

pytestmark = pytest.mark.faults

Report = Callable[[Result], None]
StartWorker = Callable[..., Worker]
Ship = Callable[..., Command]

_KILLS = 15


@pytest.fixture
def ship(folder: Path) -> Iterator[Ship]:
    """Starts shippers of the folder; none is left when the test ends."""
    with ExitStack() as stack:

        def ship(collector: Collector, *arguments: str) -> Command:
            checkpoint = ["--checkpoint", folder.parent / "checkpoint.json"]
            environment = collector.environment
            command = Command("ship", *arguments, *checkpoint, folder, environment=environment)
            stack.callback(command.close)
            return command

        yield ship


def finish(ship: Ship, collector: Collector) -> None:
    """Ships what is left."""
    code, _, error = ship(collector, "--once").wait()
    assert code == 0, error


def judge(
    report: Report, folder: Path, arrived: list[str], fault: str, promise: str, most_twice: int
) -> None:
    """Everything that is in the files has arrived, and hardly anything twice."""
    files = read(folder)
    counts = Counter(arrived)
    twice = counts.total() - len(counts)
    assert counts.keys() == set(files.ids)
    assert twice <= most_twice
    report(
        Result(
            fault,
            f"{promise} Sent more than once: {twice:,}, at most {most_twice:,}.",
            _KILLS,
            len(files.ids),
            len(counts),
            len(files.problems),
        )
    )


def test_shipper_killed(
    start_worker: StartWorker, ship: Ship, report: Report, folder: Path
) -> None:
    """Behind a shipper that is killed the next one sends the rest, and one batch again at most."""
    rng = random.Random(0)

    def slowly(request_ids: list[str]) -> Reply:
        time.sleep(rng.uniform(0, 0.05))
        return ACCEPT

    with Collector(HTTP_PROTOBUF, slowly) as collector:
        router = start_worker(workers.serve_traced, folder / "records.jsonl", "request")
        router.next()
        for _ in range(_KILLS):
            asked = len(collector.asked)
            shipper = ship(collector)
            while len(collector.asked) == asked:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
            shipper.process.kill()
            shipper.wait()
        router.kill()
        finish(ship, collector)
        judge(
            report,
            folder,
            collector.request_ids,
            "`kill -9` of `ship` at a random moment, under load, with segments and gzip",
            "Every request arrives.",
            _KILLS * BATCH,
        )


def test_collector_killed(
    start_worker: StartWorker, ship: Ship, report: Report, folder: Path
) -> None:
    """Whenever a collector is killed, what it has not answered is sent again."""
    rng = random.Random(0)
    taken = folder.parent / "taken"
    port = free_port()
    address = Collector(HTTP_PROTOBUF, port=port)
    router = start_worker(workers.serve_traced, folder / "records.jsonl", "request")
    router.next()
    ship(address)
    for _ in range(_KILLS):
        collector = start_worker(workers.receive, port, taken)
        collector.next()
        size = taken.stat().st_size
        while taken.stat().st_size == size:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        collector.kill()
    router.kill()
    collector = start_worker(workers.receive, port, taken)
    collector.next()
    while set(taken.read_text().split()) != set(read(folder).ids):
        time.sleep(0.1)
    judge(
        report,
        folder,
        taken.read_text().split(),
        "`kill -9` of the collector that `ship` sends to, at a random moment, under load",
        "Every request arrives.",
        _KILLS * BATCH,
    )


def test_router_killed(start_worker: StartWorker, ship: Ship, report: Report, folder: Path) -> None:
    """Whenever a router is killed, what is in its files is sent, once."""
    rng = random.Random(0)
    flushed = 0
    with Collector(HTTP_PROTOBUF) as collector:
        shipper = ship(collector)
        for run in range(_KILLS):
            router = start_worker(workers.serve_traced, folder / "records.jsonl", f"run {run}")
            router.next()
            time.sleep(rng.uniform(0, 0.5))
            flushed += router.kill()
        shipper.process.terminate()
        assert shipper.wait()[0] == 0
        finish(ship, collector)
        assert len(collector.request_ids) >= flushed
        judge(
            report,
            folder,
            collector.request_ids,
            "`kill -9` of the router whose files `ship` follows, at a random moment",
            "Every request that is in the files arrives.",
            0,
        )
