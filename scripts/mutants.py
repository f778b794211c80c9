#!/usr/bin/env python3
"""Makes random changes to the core, one at a time, and lists those that no test notices.

mutmut makes and runs the mutants; its settings are in pyproject.toml. Survivors that behave like
the original do not count; docs/mutants.md lists them with the reasons.

    make mutants
    make mutants MUTANTS_ARGS="--sample 300 --seed 7 --only '*.tracking.store.*'"
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = ROOT / "docs" / "mutants.md"
LOG = ROOT / "mutants" / "mutmut.log"
STATS = ROOT / "mutants" / "mutmut-stats.json"
MUTMUT = Path(sys.executable).with_name("mutmut")
# A name without mutants: mutmut then only generates the mutants and times the tests.
NO_MUTANT = "none-yet"
# Tests that compare whole spans, records, metrics and generated tables.
WHOLE = (
    "tests/model/",
    "tests/records/test_reader.py",
    "tests/documentation/test_pages.py",
    "tests/tracking/test_legs.py",
    "tests/tracking/test_metrics.py",
    "tests/tracking/test_phases.py",
    "tests/tracking/test_requests.py",
    "tests/tracking/test_round_trip.py",
)


def main() -> int:
    """Run the sample; return 0 if enough of it was killed."""
    args = arguments()
    print(f"generating mutants; mutmut's own output is in {LOG.relative_to(ROOT)}", flush=True)
    run([NO_MUTANT], args)
    judge_imports()
    every = [name for name in statuses() if fnmatch(name, args.only)]
    if not every:
        print("there are no mutants of that name")
        return 2
    sample = random.Random(args.seed).sample(sorted(every), min(args.sample, len(every)))
    print(f"seed {args.seed}: {len(sample)} of {len(every)} mutants", flush=True)
    run(sample, args)
    found = statuses()
    return report({name: found[name] for name in sample}, args.aim)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sample", type=int, default=100, help="number of mutants")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", default="*", help="pattern for their names")
    parser.add_argument("--minutes", type=float, default=15.0, help="time limit")
    parser.add_argument("--children", type=int, default=1, help="number run at a time")
    parser.add_argument("--aim", type=float, default=0.95, help="fraction that has to be killed")
    return parser.parse_args()


def run(names: list[str], args: argparse.Namespace) -> None:
    """Run mutmut, and stop it after its time; its results so far are kept."""
    LOG.parent.mkdir(exist_ok=True)
    command = [MUTMUT, "run", "--max-children", str(args.children), *names]
    with LOG.open("a") as log:
        mutmut = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            mutmut.wait(args.minutes * 60)
        except subprocess.TimeoutExpired:
            mutmut.send_signal(signal.SIGINT)
            mutmut.wait()


def judge_imports() -> None:
    """Has the tests of whole spans and records judge what runs as the package is imported.

    mutmut takes it for code of the first test alone.
    """
    stats = json.loads(STATS.read_text("utf-8"))
    every = list(stats["duration_by_test"])
    whole = {name for name in every if name.startswith(WHOLE)}
    for tests in stats["tests_by_mangled_function_name"].values():
        if every[0] in tests:
            tests[:] = sorted({*tests, *whole})
    STATS.write_text(json.dumps(stats), "utf-8")


def statuses() -> dict[str, str]:
    """Return the result of each mutant."""
    shown = subprocess.run(
        [MUTMUT, "results", "--all", "true"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    return dict(re.findall(r"^\s+(\S+): (.+)$", shown.stdout, re.MULTILINE))


def report(found: dict[str, str], aim: float) -> int:
    counts = Counter(found.values())
    unnoticed = [name for name, status in found.items() if status in ("survived", "no tests")]
    explained = equivalents()
    unexplained = []
    for name in unnoticed:
        diff = subprocess.run(
            [MUTMUT, "show", name], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ).stdout
        if (function(name), changed(diff)) not in explained:
            unexplained.append(name)
            print(f"\n{found[name]}: {diff}")
    for status, count in counts.most_common():
        print(f"{count:5} {status}")
    ran = len(found) - counts["not checked"]
    counted = ran - (len(unnoticed) - len(unexplained))
    if not counted:
        print("no mutant was run: check that the tests pass without mutants; see the log")
        return 2
    killed = counted - len(unexplained)
    part = killed / counted
    print(f"{killed} of {counted} noticed ({part:.0%}), {ran - counted} equivalent, aim {aim:.0%}")
    return int(part < aim)


def function(name: str) -> str:
    """Return `tracking.store.LifecycleStore.start` for mutmut's name of a mutant."""
    name = name.removeprefix("otel_lifecycle.").rpartition("__mutmut_")[0]
    return name.replace("xǁ", "").replace("ǁ", ".").replace(".x_", ".")


def changed(diff: str) -> str:
    """Return the changed line of a mutant; if lines are only removed, the first of them."""
    lines = diff.splitlines()
    for sign in "+-":
        for line in lines:
            if line.startswith(sign) and not line.startswith(sign * 3):
                return line[1:].strip()
    return ""


def equivalents() -> set[tuple[str, str]]:
    """Return function and changed line of the mutants known to be equivalent."""
    rows = re.findall(r"^\| `(\S+)` \| `(.+?)` \|", EQUIVALENT.read_text("utf-8"), re.MULTILINE)
    return {(where, line.replace("\\|", "|")) for where, line in rows}


if __name__ == "__main__":
    sys.exit(main())
