"""Shipping while the shipper, the collector or the router is killed."""

from __future__ import annotations

import itertools
import random
import signal
import socket
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import pytest

from otel_lifecycle.records.shipping.shipper import BATCH
from tests.cli.command import Command
from tests.faults import workers
from tests.faults.processes import Worker, read
from tests.faults.table import Result
from tests.ports import free_port
from tests.records.helpers import numbered
from tests.records.segments import append
from tests.records.shipping.collectors import ACCEPT, HTTP_PROTOBUF, Collector, Reply
from tests.records.shipping.hostile import Server, head
from tests.records.shipping.records import traced
from tests.waiting import eventually

pytestmark = pytest.mark.faults

Report = Callable[[Result], None]
StartWorker = Callable[..., Worker]
Ship = Callable[..., Command]
Answer = Callable[[Server, socket.socket], object]

_KILLS = 15


@pytest.fixture
def ship(folder: Path) -> Iterator[Ship]:
    """Start shippers of the folder, which end with the test."""
    with ExitStack() as stack:

        def ship(collector: Collector, *arguments: str, timeout: str = "10") -> Command:
            checkpoint = ["--checkpoint", folder.parent / "checkpoint.json"]
            environment = {**collector.environment, "OTEL_EXPORTER_OTLP_TIMEOUT": timeout}
            command = Command("ship", *arguments, *checkpoint, folder, environment=environment)
            stack.callback(command.close)
            return command

        yield ship


def finish(ship: Ship, collector: Collector) -> None:
    """Ship the rest."""
    code, _, error = ship(collector, "--once").wait()
    assert code == 0, error


def judge(
    report: Report, folder: Path, arrived: list[str], fault: str, promise: str, most_twice: int
) -> None:
    """Everything in the files has arrived, and hardly anything twice."""
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
    """After a shipper is killed the next one sends the rest, and at most one batch again."""
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
    """When a collector is killed, spans that it has not answered are sent again."""
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
    """When a router is killed, everything in its files is sent once."""
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
            "Every request in the files arrives.",
            0,
        )


def serves_on(router: Worker, number: int) -> int:
    """Wait until a router has flushed more than this many requests."""
    while (served := router.next()) <= number:
        pass
    return served


def rename(live: Path, path: Path) -> None:
    """Rename a live file, which is missing while it is rotated."""
    while True:
        with suppress(FileNotFoundError):
            live.rename(path)
            return
        time.sleep(0.001)


def test_names_lost(ship: Ship, report: Report, folder: Path) -> None:
    """Records written between the last poll of a file and the loss of its name are sent."""
    live = folder / "records.jsonl"
    lose_name = itertools.cycle(
        [
            live.unlink,
            lambda: live.rename(folder.parent / "away"),
            lambda: live.rename(folder / "records.jsonl.1"),
        ]
    )
    ids: list[str] = []
    with Collector(HTTP_PROTOBUF) as collector:

        def write(number: int) -> None:
            ids.append(f"request-{number}")
            append(live, traced(ids[-1]))

        shipper = ship(collector)
        for run in range(_KILLS):
            for number in range(120):
                write(run * 240 + number)
            eventually(lambda: len(collector.request_ids) == len(ids))
            shipper.process.send_signal(signal.SIGSTOP)
            for number in range(120, 240):
                write(run * 240 + number)
            next(lose_name)()
            shipper.process.send_signal(signal.SIGCONT)
            if run % 2:  # writing pauses for a while
                eventually(lambda: len(collector.request_ids) == len(ids))
        write(_KILLS * 240)
        eventually(lambda: len(collector.request_ids) >= len(ids))
        shipper.process.terminate()
        code, _, error = shipper.wait()

    assert (code, error.count("\n")) == (0, 1), error
    assert collector.request_ids == ids
    report(
        Result(
            "A file that `ship` follows is deleted, moved away or renamed in a pause of traffic",
            "Records written after the last poll are sent once.",
            _KILLS,
            len(ids),
            len(collector.request_ids),
            0,
        )
    )


def test_renamed_under_load(
    start_worker: StartWorker, ship: Ship, report: Report, folder: Path
) -> None:
    """A live file that is renamed in its folder is sent once, and so is its successor."""
    rng = random.Random(0)
    live = folder / "records.jsonl"
    with Collector(HTTP_PROTOBUF) as collector:
        router = start_worker(workers.serve_traced, live, "request")
        served = serves_on(router, 0)
        shipper = ship(collector)
        for run in range(_KILLS):
            rename(live, folder / f"{rng.choice('az')}{run}.jsonl")
            served = serves_on(router, served)
            if run % 5 == 4:
                arrived = len(collector.request_ids)
                eventually(lambda arrived=arrived: len(collector.request_ids) > arrived)
                shipper.process.terminate()
                assert shipper.wait()[0] == 0
                shipper = ship(collector)
        router.kill()
        served_ids = set(read(folder).ids)
        eventually(lambda: served_ids == set(collector.request_ids))
        shipper.process.terminate()
        assert shipper.wait()[0] == 0
        judge(
            report,
            folder,
            collector.request_ids,
            "A file that `ship` follows is renamed within the folder, under load",
            "Every request arrives.",
            0,
        )


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        (
            "The collector answers with one byte every 50 ms",
            lambda server, connection: server.dribble(connection, bytes(9_000)),
        ),
        (
            "The collector's answer never ends",
            lambda server, connection: (
                connection.sendall(head("500 Oh", "connection: close")),
                server.flood(connection, bytes(1 << 20), 4_096),
            ),
        ),
        (
            "The collector answers with 1 MB of gzip that decompress to 1 GB",
            lambda server, connection: connection.sendall(
                head("500 Oh", "content-encoding: gzip", f"content-length: {len(bomb())}") + bomb()
            ),
        ),
    ],
    ids=["byte after byte", "endless", "bomb"],
)
def test_hostile_collector(
    ship: Ship, report: Report, folder: Path, fault: str, answer: Answer
) -> None:
    """However a collector answers, `ship` retries, grows little, and sends everything."""
    append(folder / "records.jsonl", traced("before"))
    with Collector(HTTP_PROTOBUF) as collector:
        shipper = ship(collector)
        eventually(lambda: collector.request_ids)
        usual = peak_memory(shipper)
        shipper.process.terminate()
        shipper.wait()
    ids = numbered("request", 100)
    append(folder / "records.jsonl", traced(*ids))
    with Server(answer) as server:
        shipper = ship(Collector(HTTP_PROTOBUF, port=server.port), timeout="1")
        eventually(lambda: server.connections >= 3)
        grown = peak_memory(shipper) - usual
        shipper.process.terminate()
        _, _, error = shipper.wait()
    assert grown < 32 << 10, f"{grown} KiB more"
    assert error.count("the collector accepts no spans") == 1
    with Collector(HTTP_PROTOBUF) as collector:
        finish(ship, collector)
    report(
        Result(
            f"{fault} (`ship`)",
            "It retries, with less than 32 MiB more memory; every request arrives once.",
            1,
            len(ids),
            len(collector.request_ids),
            0,
        )
    )


@cache
def bomb() -> bytes:
    """1 GB of zeros, compressed."""
    packer = zlib.compressobj(wbits=31)
    chunk = bytes(1 << 20)
    return b"".join(packer.compress(chunk) for _ in range(1 << 10)) + packer.flush()


def peak_memory(command: Command) -> int:
    """Return the peak memory of a process so far, in KiB."""
    status = Path(f"/proc/{command.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
