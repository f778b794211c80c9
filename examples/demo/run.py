"""Runs the demo: engines, a router under `opentelemetry-instrument`, requests, a report."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Coroutine, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rich.console import Console

from demo.engines import engine_roles
from demo.environment import chosen_endpoint, router_environment
from demo.evidence import Evidence, gather_evidence
from demo.fleet import Fleet
from demo.otlp_receiver import OTLPReceiver
from demo.processes import Processes
from demo.traffic import Traffic
from demo.workload import Workload, bundled_workload, trace_workload
from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.analysis.page import ReportOptions, write_page
from otel_lifecycle.analysis.report import print_report
from otel_lifecycle.analysis.tables import Records
from otel_lifecycle.cli.errors import FAILED, CommandError
from otel_lifecycle.cli.terminal import open_console
from otel_lifecycle.records import read_records

RECORDS = "records.jsonl"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_T = TypeVar("_T")


@dataclass(frozen=True)
class DemoOptions:
    """The options; `otel_lifecycle.cli.arguments` documents them."""

    mode: str
    engines: int
    requests: int
    trace: Path | None
    speed: float | None
    output: Path | None
    seed: int


def run(options: DemoOptions) -> int:
    """Run the demo; return the exit code."""
    if options.trace is None:
        workload = bundled_workload(options.requests, options.seed, options.speed)
    else:
        workload = trace_workload(options.trace, options.requests, options.speed)
    roles = engine_roles(options.mode, options.engines)
    output = _output_folder(options.output)
    code = asyncio.run(_run(workload, roles, output, kept=options.output is not None))
    if options.output is None:  # a demo that failed has raised: its logs stay
        shutil.rmtree(output)
    return code


async def _run(workload: Workload, roles: Sequence[str], output: Path, *, kept: bool) -> int:
    console = open_console()
    where = f"; records and logs: {output}" if kept else ""
    console.print(f"starting {plural(len(roles), 'engine')} and a router{where}")
    if kept:
        command = f"otel-lifecycle top {shlex.quote(str(output))}"
        console.print(f"to watch it: {command}", soft_wrap=True)  # to be copied
    with _cancelled_by_signals() as caught:
        try:
            evidence = await _play(workload, roles, output, console)
        except asyncio.CancelledError:
            if not caught:
                raise
            name, code = caught[0].name, 128 + caught[0]
            raise CommandError(f"stopped by {name}; records and logs: {output}", code) from None
    print_report(read_records(output / RECORDS), console)
    page = output / "report.html" if kept else _page_alone()
    with Records(evidence.records_path) as records:
        write_page(records, page, ReportOptions(source=RECORDS))
    evidence.print(console, page, kept=kept)
    if not evidence.agrees:
        raise CommandError("requests, records, spans and gauges do not agree, see above", FAILED)
    return 0


async def _play(
    workload: Workload, roles: Sequence[str], output: Path, console: Console
) -> Evidence:
    """Start everything, send the requests, stop everything."""
    processes = Processes(output / "logs")
    fleet = Fleet(processes, roles, workload.block_size, workload.speed)
    traffic = Traffic(fleet, workload)
    own_receiver = nullcontext() if chosen_endpoint(os.environ) else OTLPReceiver()
    with own_receiver as receiver:
        environment = router_environment(
            os.environ, output / RECORDS, None if receiver is None else receiver.endpoint
        )

        async def work() -> Evidence:
            await fleet.start(output, output / RECORDS, environment)
            answers = await traffic.run()
            return await gather_evidence(
                len(roles), answers, output / RECORDS, receiver, console.print
            )

        try:
            return await _unless(processes.watch(), work())
        finally:
            processes.stop()


async def _unless(watch: Coroutine[Any, Any, NoReturn], work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of `work`, unless `watch` raises first."""
    tasks = [asyncio.ensure_future(watch), asyncio.ensure_future(work)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _cancelled_by_signals() -> Generator[list[signal.Signals], None, None]:
    """Cancel the current task at the first signal; ignore later ones during cleanup."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    caught: list[signal.Signals] = []

    def catch(number: signal.Signals) -> None:
        caught.append(number)
        if len(caught) == 1 and task is not None:
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, catch, number)
    try:
        yield caught
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _page_alone() -> Path:
    with tempfile.NamedTemporaryFile(
        prefix="otel-lifecycle-demo-", suffix=".html", delete=False
    ) as file:
        return Path(file.name)


def _output_folder(chosen: Path | None) -> Path:
    try:
        if chosen is None:
            chosen = Path(tempfile.mkdtemp(prefix="otel-lifecycle-demo-"))
        output = chosen.expanduser().resolve()
        (output / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--output {chosen}: {error.strerror}") from error
    if (output / RECORDS).exists():
        raise CommandError(f"--output {chosen}: contains the {RECORDS} of an earlier run")
    return output
