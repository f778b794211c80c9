"""`otel-lifecycle judge`: judges other policies by the records of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from otel_lifecycle.analysis.page.facts import Facts, Targets
from otel_lifecycle.analysis.policies.judgement import Judgement, judge
from otel_lifecycle.analysis.policies.printing import print_judgements, write_json
from otel_lifecycle.analysis.tables import Records, is_parquet
from otel_lifecycle.cli.errors import USAGE, CommandError
from otel_lifecycle.cli.record_paths import warn_of_missing
from otel_lifecycle.cli.selection import condition, load, warn_of_problems
from otel_lifecycle.cli.terminal import open_console

_POLICIES = "SELECT DISTINCT policy FROM requests WHERE len(decision_role) > 0 ORDER BY 1"


@dataclass(frozen=True)
class JudgeOptions:
    """The options; `otel_lifecycle.cli.policies.arguments` documents them."""

    paths: Sequence[Path]
    ttft: float | None
    tpot: float | None
    json: Path | None
    where: str
    since: str


def run(options: JudgeOptions) -> int:
    """Print the judgements; return the exit code."""
    missing = warn_of_missing(options.paths, is_parquet)
    if missing == len(options.paths):
        return USAGE
    with load(options.paths, condition(options.where, options.since)) as records:
        judgements = _judge(records, Targets(options.ttft, options.tpot))
    if options.json is not None:
        write_json(judgements, options.json)
    print_judgements(judgements, open_console())
    exit_code = warn_of_problems(records)
    return USAGE if missing else exit_code


def _judge(records: Records, targets: Targets) -> dict[str, Judgement]:
    policies = [name or "" for (name,) in records.connection.execute(_POLICIES).fetchall()]
    if len(policies) > 1:
        names = ", ".join(map(repr, policies))
        raise CommandError(f"the records are of several policies, {names}: choose with --where")
    judgements = judge(Facts(records, targets)) if policies else {}
    if not judgements:
        raise CommandError("no record tells all endpoints that were considered")
    return judgements
