"""Simulates policies on one workload, and compares them."""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from demo.engines import PREFILL_TOKENS_PER_SECOND, TPOT_MS, engine_roles
from demo.workload import (
    CONVERSATION_BLOCK_SIZE,
    TRACE_BLOCK_SIZE,
    PlannedRequest,
    at_speed,
    generate,
    read_trace,
)
from hermes_router.policies import DEFAULT_POLICY, POLICIES, PREDICTION
from hermes_router.predictor import Predictor
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from otel_lifecycle.analysis.page.facts import Targets
from otel_lifecycle.analysis.policies.comparison import compare
from otel_lifecycle.analysis.policies.measures import Measures, measure
from otel_lifecycle.analysis.policies.printing import print_comparison, write_json
from otel_lifecycle.analysis.tables import Records
from otel_lifecycle.cli.errors import CommandError, require
from otel_lifecycle.cli.terminal import open_console
from simulation.fleet import Routing, engine_configs
from simulation.scenario import Scenario

DEFAULT_REQUESTS = 1_000  # of the bundled workload
TOKENS_PER_CHUNK = 32  # each chunk is an event; the time of the first token does not depend on it


@dataclass(frozen=True)
class SimulationOptions:
    """The options; `otel_lifecycle.cli.policies.arguments` documents them."""

    policy: Sequence[str]
    mode: str
    engines: int
    requests: int | None
    skip: int
    trace: Path | None
    speed: float | None
    rate: float | None
    explore: float
    model: Path | None
    ttft: float | None
    tpot: float | None
    output: Path | None
    json: Path | None
    seed: int
    seeds: int


def run(options: SimulationOptions) -> int:
    """Run the command; return the exit code."""
    policies = list(dict.fromkeys(options.policy or [DEFAULT_POLICY]))
    for policy in policies:
        if policy not in POLICIES:
            raise CommandError(f"--policy {policy!r}: must be one of {', '.join(sorted(POLICIES))}")
    _check_outputs(options)
    seeds = range(options.seed, options.seed + options.seeds)
    workloads = {seed: _workload(options, seed) for seed in seeds}
    block_size = CONVERSATION_BLOCK_SIZE if options.trace is None else TRACE_BLOCK_SIZE
    engines = engine_configs(
        engine_roles(options.mode, options.engines),
        block_size,
        tpot_ms=TPOT_MS,
        prefill_tokens_per_second=PREFILL_TOKENS_PER_SECOND[block_size],
        tokens_per_chunk=TOKENS_PER_CHUNK,
    )
    scenarios = [
        Scenario(workloads[seed], engines, Routing(policy, options.explore, seed, predictor))
        for policy, predictor in _predicting(policies, options.model)
        for seed in seeds
    ]
    targets = Targets(options.ttft, options.tpot)
    runs: defaultdict[str, list[Measures]] = defaultdict(list)
    with _files(options.output, scenarios) as files, _progress(scenarios) as on_answer:
        for scenario, file in zip(scenarios, files, strict=True):
            scenario.run(file, on_answer)
            with Records(file) as records:
                runs[scenario.routing.name].append(measure(records, targets))
    comparison = compare(runs)
    if options.json is not None:
        write_json(comparison, options.json)
    print_comparison(comparison, options.seeds, open_console())
    return 0


def _predicting(
    policies: Sequence[str], model: Path | None
) -> Iterator[tuple[str, Predictor | None]]:
    """Yield each policy, and once more with the model if the policy looks at predictions."""
    trained: Predictor | None = None
    if model is not None:
        if not any(PREDICTION in POLICIES[policy].weights for policy in policies):
            raise CommandError(f"--model {model}: no --policy looks at predictions")
        require("simulate --model", "ml", "lightgbm", "numpy")
        from simulation.trained import load

        trained = load(model)
    for policy in policies:
        yield policy, None
        if trained is not None and PREDICTION in POLICIES[policy].weights:
            yield policy, trained


def _check_outputs(options: SimulationOptions) -> None:
    for name, path in (("output", options.output), ("json", options.json)):
        if path is not None and not path.absolute().parent.is_dir():
            raise CommandError(f"--{name} {path}: No such file or directory: {path.parent}")
    if options.output is not None and options.output.exists():
        raise CommandError(f"--output {options.output}: exists already")


def _workload(options: SimulationOptions, seed: int) -> list[PlannedRequest]:
    skip, count = options.skip, options.requests
    if options.trace is None:
        if skip:
            raise CommandError(f"--skip {skip}: only requests of a --trace can be left out")
        requests = generate(count or DEFAULT_REQUESTS, seed)
    else:
        requests = read_trace(options.trace, None if count is None else skip + count, skip)
        if not requests:
            raise CommandError(f"--skip {skip}: leaves no request of {options.trace}")
    if options.rate is None:
        return at_speed(requests, options.speed or 1.0)
    chance, at = random.Random(seed), 0.0
    arrivals: list[PlannedRequest] = []
    for request in requests:
        arrivals.append(replace(request, at=at))
        at += chance.expovariate(options.rate)
    return arrivals


@contextmanager
def _files(output: Path | None, scenarios: Sequence[Scenario]) -> Generator[list[Path]]:
    """Yield a record file for each run: the output, files in that folder, or temporary ones."""
    names = [f"{one.routing.name}-{one.routing.seed}.jsonl" for one in scenarios]
    try:
        if output is None:
            with tempfile.TemporaryDirectory(prefix="otel-lifecycle-simulation-") as folder:
                yield [Path(folder) / name for name in names]
        elif len(scenarios) == 1:
            yield [output]
        else:
            output.mkdir()
            yield [output / name for name in names]
    except OSError as error:
        raise CommandError(f"--output {output}: {error.strerror or error}") from error


@contextmanager
def _progress(scenarios: Sequence[Scenario]) -> Generator[Callable[[], None]]:
    console = open_console()
    with Progress(
        TextColumn("requests"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=sum(len(one.requests) for one in scenarios))
        yield lambda: progress.advance(task)
