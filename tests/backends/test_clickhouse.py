"""ClickHouse has the same tables and gives the same answers as the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from otel_lifecycle.analysis.page import (
    Targets,
    freshness,
    goals,
    predictor,
    prefix_cache,
)
from otel_lifecycle.analysis.page import endpoints as endpoints_section
from otel_lifecycle.analysis.page.facts import Facts
from otel_lifecycle.analysis.tables import Records
from otel_lifecycle.cli import main
from tests.analysis.test_page import RECORDS, TPOT, TTFT
from tests.cli.records import write

pytestmark = pytest.mark.backends

# Requests of one id, on the endpoints of the others, whose lengths are unknown.
UNKNOWN = [
    msgspec.structs.replace(
        one, request_id="again", input_token_length=None, output_length=None, cached_tokens=None
    )
    for one in RECORDS[:40]
]
ALL = [*RECORDS, *UNKNOWN]
FOLDER = Path(__file__).parents[2] / "collector/clickhouse"


class ClickHouse:
    """The engine of ClickHouse, in this process."""

    def __init__(self, folder: Path) -> None:
        # Of the extra `backends`, which the type checkers do without.
        from chdb.session import Session  # pyright: ignore[reportMissingImports]

        self.session = Session(str(folder))
        self.session.query("CREATE DATABASE lifecycle; USE lifecycle")

    def run(self, path: Path) -> None:
        """Run the statements of a file."""
        lines = (line for line in path.read_text().splitlines() if not line.startswith("--"))
        for statement in "\n".join(lines).split(";\n"):
            if statement.strip():
                self.session.query(statement)

    def insert(self, name: str, table: Path) -> None:
        """Insert exported files into a table."""
        query = f"SELECT name FROM system.columns WHERE table = '{name}' ORDER BY position"
        columns = ", ".join(row["name"] for row in self.rows(query))
        for file in sorted((table / name).rglob("*.parquet")):
            self.session.query(
                f"INSERT INTO {name} ({columns}) SELECT {columns} FROM file('{file}', Parquet)"
            )

    def rows(self, query: str, **parameters: float) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        for name, value in parameters.items():
            query = query.replace(f"{{{name}:Float64}}", repr(value))
        return json.loads(str(self.session.query(query, "JSON")))["data"]

    def ask(self, name: str, **parameters: float) -> list[dict[str, Any]]:
        """Return the rows of one of the queries."""
        return self.rows((FOLDER / f"queries/{name}.sql").read_text(), **parameters)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records, exported."""
    folder = tmp_path_factory.mktemp("clickhouse")
    path = write(folder / "records.jsonl", *ALL)
    assert main(["export", str(path), "--format", "parquet", "-o", str(folder / "table")]) == 0
    return folder / "table"


@pytest.fixture(scope="module")
def clickhouse(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """ClickHouse with the records."""
    clickhouse = ClickHouse(tmp_path_factory.mktemp("server"))
    for name in ("requests", "endpoints", "views"):
        clickhouse.run(FOLDER / f"{name}.sql")
    for name in ("requests", "endpoints"):
        clickhouse.insert(name, table)
    yield clickhouse
    clickhouse.session.close()


@pytest.fixture(scope="module")
def facts(table: Path) -> Iterator[Facts]:
    """What the report knows of the same records."""
    with Records(table) as records:
        yield Facts(records, Targets(TTFT, TPOT))


def test_tables(clickhouse: ClickHouse) -> None:
    """Every record is there once, with what it says."""
    (row,) = clickhouse.rows(
        "SELECT count() AS requests, uniqExact(request_id, started_at) AS ids, "
        "sum(ifNull(cached_tokens, 0)) AS cached FROM requests FINAL"
    )
    assert {name: int(value) for name, value in row.items()} == {
        "requests": len(ALL),
        "ids": len(ALL),
        "cached": sum(one.cached_tokens or 0 for one in ALL),
    }
    (row,) = clickhouse.rows("SELECT count() AS rows FROM endpoints")
    assert int(row["rows"]) == 2 * len(ALL)


def test_views_and_a_second_insert(clickhouse: ClickHouse, table: Path) -> None:
    """The sums of each minute add up; a file that is inserted again adds nothing to the answers."""
    (row,) = clickhouse.rows(
        "SELECT sumIf(requests, outcome = 'error') AS failed FROM requests_per_minute"
    )
    assert int(row["failed"]) == sum(one.outcome.value == "error" for one in ALL)
    before = clickhouse.ask("endpoints")
    clickhouse.insert("requests", table)
    assert clickhouse.ask("endpoints") == before


def test_answers(clickhouse: ClickHouse, facts: Facts) -> None:
    """Each query gives what the report says."""
    balances = endpoints_section.balances(facts)
    shares = {(one.role, one.endpoint): one for each in balances for one in each.endpoints}
    found = {(row["role"], _name(row["endpoint"])): row for row in clickhouse.ask("endpoints")}
    assert {
        key: _numbers(row, "requests", "p50", "p95", "failed") for key, row in found.items()
    } == {
        key: pytest.approx((one.requests, one.p50, one.p95, one.failed))
        for key, one in shares.items()
    }
    assert {
        (row["role"], _name(row["endpoint"])): row["against_peers"]
        for row in clickhouse.ask("against_peers")
    } == {key: pytest.approx(one.against_peers) for key, one in shares.items()}

    good = goals.goodput(facts)
    (row,) = clickhouse.ask("targets", ttft=TTFT, tpot=TPOT)
    assert _numbers(row, "share", "requests") == pytest.approx(
        (good.share, good.per_second * facts.span)
    )
    cached = prefix_cache.cached(facts)
    (row,) = clickhouse.ask("prefix_cache")
    assert cached is not None
    assert _numbers(row, *row) == pytest.approx(tuple(cached))
    right = predictor.accuracy(facts, "TTFT")
    (row,) = clickhouse.ask("predictor")
    assert right is not None
    assert _numbers(row, *row) == pytest.approx(tuple(right))
    age = freshness.age(facts)
    (row,) = clickhouse.ask("freshness")
    assert age is not None
    assert _numbers(row, *row) == pytest.approx(tuple(age))


def test_all_queries_run(clickhouse: ClickHouse) -> None:
    """Each file is one query with rows."""
    for path in sorted((FOLDER / "queries").glob("*.sql")):
        assert clickhouse.ask(path.stem, ttft=TTFT, tpot=TPOT), path.name


def test_dashboard(clickhouse: ClickHouse) -> None:
    """Each panel asks one of the queries, within the time range of the dashboard."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
    (first,) = clickhouse.rows("SELECT toString(min(started_at)) AS moment FROM requests")
    for panel in dashboard["panels"]:
        (target,) = panel["targets"]
        query = target["rawSql"].replace("$ttft", str(TTFT)).replace("$tpot", str(TPOT))
        found, empty = (
            clickhouse.rows(query.replace("$__timeFilter(started_at)", condition))
            for condition in (f"started_at >= '{first['moment']}'", "started_at < '2000-01-01'")
        )
        assert found, panel["title"]
        assert len(empty) <= 1, panel["title"]


def _numbers(row: dict[str, Any], *names: str) -> tuple[float, ...]:
    return tuple(float(row[name]) for name in names)


def _name(endpoint: str) -> str:
    return endpoint.partition("://")[2]
