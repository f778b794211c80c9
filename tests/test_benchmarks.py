"""The benchmarks run and say what they found; the measured values are not tested."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.budget import Budget
from benchmarks.check.__main__ import report
from benchmarks.check.checkouts import base_of, check_out, git
from benchmarks.check.compare import Commit, Worse, compare
from benchmarks.peers import compare as peers
from benchmarks.results.chart import Bar, draw
from benchmarks.results.page import missed
from benchmarks.results.peers import section
from benchmarks.results.readme import README, with_cost
from benchmarks.results.zero_code import tables, takeaway
from benchmarks.zero_code.measure import Result, Rounds, attempt, measure
from benchmarks.zero_code.programs import (
    BY_EVENT,
    UNINSTRUMENTED,
    WHOLE,
    ZERO_CODE,
    Lean,
    LiteLLM,
    ProductionStack,
)

RESULTS = README.parent / "benchmarks" / "RESULTS.md"
SVG = "{http://www.w3.org/2000/svg}"
# A worker whose figures are not measured but written in its commit.
WORKER = """
import json, pathlib, sys
costs = json.loads(pathlib.Path("costs.json").read_text())
print(json.dumps({} if "new" in costs else {"new": "ImportError: no"}), flush=True)
for line in sys.stdin:
    print(costs[line.strip()], flush=True)
"""


def test_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each peer is listed with its result, or with the reason why it is missing."""
    monkeypatch.setattr(peers, "MODULES", ("ours", "production_stack", "not_installed"))
    monkeypatch.setattr(peers, "ROUNDS", 2)
    monkeypatch.setattr(peers, "REQUESTS", 2)
    comparison = peers.compare()
    page = "\n".join(section(comparison))

    assert [
        (peer.name, peer.spans, peer.attributes, peer.events, peer.file_bytes is not None)
        for peer in comparison.peers
    ] == [
        ("ours, 40 attributes", 1, 40, 2, True),
        ("ours, one endpoint and its NPUs", 1, 49, 2, True),
        ("ours, prefill and decode", 1, 73, 2, True),
        ("ours, not sampled, recorded", 0, 0, 0, True),
        ("production-stack's tracing", 2, 14, 0, False),
    ]
    assert [sorted(peer.says) for peer in comparison.peers[2:]] == [
        sorted(peers.FACTS),
        sorted(set(peers.FACTS) - {"prefill/decode"}),
        ["endpoint"],
    ]
    assert comparison.missing == {
        "not_installed": "ModuleNotFoundError: No module named 'benchmarks.peers.not_installed'"
    }
    assert page.endswith(f"`not_installed` is missing: {comparison.missing['not_installed']}.")


@pytest.fixture
def repository(tmp_path: Path) -> Callable[[str, str], Path]:
    """A repository whose `main` has one commit, and a branch another; each with its costs."""
    root = tmp_path / "repository"

    def make(base: str, head: str) -> Path:
        root.mkdir()
        git(root, "init", "--quiet", "--initial-branch", "main")
        git(root, "config", "user.name", "somebody")
        git(root, "config", "user.email", "somebody@example.com")
        git(root, "config", "commit.gpgsign", "false")
        for branch, costs in (("main", base), ("change", head)):
            (root / "costs.json").write_text(costs)
            git(root, "checkout", "--quiet", "-B", branch)
            git(root, "add", ".")
            git(root, "commit", "--quiet", "--allow-empty", "--message", branch)
        return root

    return make


@pytest.mark.parametrize(
    ("base", "head", "code", "slower"),
    [
        ('{"path": 50, "new": 1}', '{"path": 50, "new": 1}', 0, []),
        ('{"path": 50, "new": 1}', '{"path": 54, "new": 1}', 0, []),
        ('{"path": 50, "new": 1}', '{"path": 56, "new": 1}', 1, ["path"]),
        ('{"path": 50, "new": 1}', '{"path": 20, "new": 1.2}', 1, ["new"]),
        ('{"path": 50}', '{"path": 50, "new": 9}', 0, []),
    ],
    ids=["equal", "8 % slower", "12 % slower", "another is faster", "not comparable"],
)
def test_a_slower_commit_is_told(
    repository: Callable[[str, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    base: str,
    head: str,
    code: int,
    slower: list[str],
) -> None:
    """A figure that got more than 10 % worse since the branch left `main` fails the check."""
    root = repository(base, head)
    older, newer = (
        Commit(check_out(root, tmp_path / name, revision), Path(sys.executable), tmp_path / name)
        for name, revision in (("base", base_of(root, "HEAD")), ("head", "HEAD"))
    )
    results = compare(older, newer, ("-c", WORKER), ("path", "new"), processes=2, rounds=2)

    assert (report(results), [one.name for one in results if one.is_regression]) == (code, slower)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("SLOWER")] == slower
    if "new" not in base:
        assert "not comparable" in lines[2]


def test_a_figure_must_be_slower_in_each_pair_of_processes() -> None:
    """One pair in which the newer commit is faster, and the difference counts as chance."""
    told = [
        compare_by(ratios).is_regression for ratios in ([1.3, 1.2, 1.4], [1.3, 0.99, 1.4], [1.09])
    ]

    assert told == [True, False, False]


def compare_by(ratios: Sequence[float]) -> Worse:
    """A figure with these ratios."""
    return Worse("path", 1.0, 1.0, ratios)


def test_a_commit_on_main_is_compared_with_its_parent(
    repository: Callable[[str, str], Path],
) -> None:
    """Where there is nothing to merge, the base is the commit before."""
    root = repository("{}", '{"path": 1}')
    git(root, "branch", "--force", "main", "change")

    assert base_of(root, "main") == git(root, "rev-parse", "main~1")


def measured(ratio: float) -> Result:
    """A router that needs so many times its CPU."""
    rounds = {UNINSTRUMENTED: Rounds([100.0, 200.0], [9.0, 8.0])}
    rounds[ZERO_CODE] = Rounds([100.0 * ratio, 200.0 * ratio], [8.0, 7.0])
    return Result("router", "1.0", {BY_EVENT: rounds, WHOLE: rounds})


def test_a_router_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says what was not measured and why, and the sentence leaves it out."""
    monkeypatch.delenv("PRODUCTION_STACK", raising=False)
    stack = attempt(ProductionStack(), 1, 1)
    litellm = attempt(LiteLLM(Path("/nowhere/python")), 1, 1)
    page = "\n".join(tables([measured(1.5), stack, litellm]))

    assert "vLLM production stack: not measured, because its source is on no registry" in page
    assert "LiteLLM proxy: not measured, because its packages could not be installed" in page
    assert takeaway([measured(1.5), stack, litellm]) == takeaway([measured(1.5)])
    assert "1.50 times its CPU" in takeaway([measured(1.5), stack])
    assert "router 1.20 times" in takeaway([measured(1.5), measured(1.2)])


def test_missed_budgets_are_said_with_their_reason() -> None:
    """The page opens with each promise that is not kept, and why; kept ones are only counted."""
    kept = Budget("a", 2, 1.5, "x")
    slow = Budget("b", 2, 2.5, "us", why="The floor is 2")
    few = Budget("c", 0.8, 0.7, "x", at_least=True)

    assert list(missed([kept])) == ["All 1 [budgets](#budgets) are kept.\n"]
    assert list(missed([kept, slow, few])) == [
        "Of 3 [budgets](#budgets), 2 are missed:\n",
        "- b: 2.50 us, promised at most 2. The floor is 2.",
        "- c: 0.70 x, promised at least 0.8.",
        "",
    ]


def test_the_chart_is_linear_from_zero() -> None:
    """The length of a bar is its ratio, and its label the figures."""
    svg = ElementTree.fromstring(draw("title", "legend", [Bar("a", 1.5, 250), Bar("b", 2, 1)], 1.2))
    bars = [float(box.attrib["width"]) for box in svg.iter(f"{SVG}rect")]
    texts = [text.text for text in svg.iter(f"{SVG}text")]

    assert bars[1] / bars[0] == pytest.approx(0.5, rel=0.01)
    assert bars[3] / bars[2] == pytest.approx(1.0, rel=0.01)
    assert "1.50 ×, +0.25 ms" in texts
    assert texts.count("0 ×") == 1


def test_the_readme_says_what_the_results_say() -> None:
    """The sentence about the cost is that of the results."""
    takeaway = RESULTS.read_text("utf-8").split("\n\n")[1]

    assert with_cost(README.read_text("utf-8"), takeaway) == README.read_text("utf-8")
    assert re.sub(r"\s+", " ", takeaway) in re.sub(r"\s+", " ", README.read_text("utf-8"))


class SmallLean(Lean):
    """The lean router in the environment of the tests."""

    variants = (UNINSTRUMENTED, ZERO_CODE)
    kinds = (BY_EVENT, WHOLE)


@pytest.mark.slow
def test_a_router_is_measured() -> None:
    """Each kind of request gives figures of each variant, and each request its record."""
    result = measure(SmallLean(Path(sys.executable)), 2, 32)

    assert [(kind, list(variants)) for kind, variants in result.rounds.items()] == [
        (kind, list(SmallLean.variants)) for kind in SmallLean.kinds
    ]
    assert all(
        len(rounds.cpu_us) == len(rounds.rate) == 2 and min(rounds.cpu_us) > 0
        for variants in result.rounds.values()
        for rounds in variants.values()
    )
