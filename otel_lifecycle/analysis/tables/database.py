"""Loads record files into an embedded analytical database, in limited memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb

from otel_lifecycle.analysis.tables.columns import (
    ENDPOINT_COLUMNS,
    HIDDEN_COLUMNS,
    REQUEST_COLUMNS,
    Column,
    line_type,
)
from otel_lifecycle.model import SCHEMA_VERSION
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.records import Position, RecordError
from otel_lifecycle.records.follower import LineFollower
from otel_lifecycle.records.line import LONGEST_LINE, parse_line
from otel_lifecycle.records.names import absolute, is_folder

REQUESTS, ENDPOINTS = "requests", "endpoints"
REQUEST_KEY = ("request_id", "started_at")
"""The columns that join an endpoint to its request: clients and restarts may repeat an id."""

PARQUET = ".parquet"

_CHUNK_BYTES = 256 << 20  # smaller ones cost the engine more a record
_MAX_PROBLEMS = 100
_FETCHED_ROWS = 1_000
_MEMORY_LIMIT = "1GB"  # beyond it the engine spills to its file
# What a line must have to be a record; the parser returns null for values of another type.
_IS_RECORD = (
    f'"schemaVersion" = {SCHEMA_VERSION} AND "requestId" IS NOT NULL AND "outcome" IS NOT NULL '
    'AND TRY_CAST("startedAt" AS TIMESTAMPTZ) IS NOT NULL'
)

_LOADED = (*REQUEST_COLUMNS, *HIDDEN_COLUMNS)
_POD_TYPES = {"leader": "", "prefill": "prefill", "decode": "decode"}
_LINE = ", ".join(f"'{name}': '{kind}'" for name, kind in line_type(LifecycleRecord).items())

Progress = Callable[[int], None]
"""Receives the number of records that were loaded so far."""


class QueryError(ValueError):
    """Invalid SQL; the text is the engine's reason, in one line."""


class Records:
    """Records as the tables `requests` and `endpoints` of a DuckDB database; a context manager.

    The database is a temporary file, which `close` deletes. Not thread-safe.

    Args:
        *paths: Record files, as for `read_records`, or Parquet files and folders written by
            `export`.
        where: SQL over the columns of `requests`; only records for which it is true are kept.
        position: Where to resume in the record files. Default: at the oldest record.
        progress: Called with the number of records loaded so far.

    Attributes:
        connection: The connection; `requests` and `endpoints` are views.
        problems: Invalid lines and files that cannot be read; at most the first 100.
        problem_count: Their number.
        start_position: The position before the first line.
        position: The position after the last line.
        unfinished: The last lines of files if they have no end yet; they are not loaded.

    Raises:
        QueryError: `where` is not valid; the text is the engine's reason.
        OSError: The temporary folder is full.
    """

    def __init__(
        self,
        *paths: str | os.PathLike[str],
        where: str = "",
        position: Position | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.problems: list[RecordError] = []
        self.problem_count = 0
        self.unfinished: list[RecordError] = []
        self.start_position = position or Position()
        self._folder = Path(tempfile.mkdtemp(prefix="otel-lifecycle-"))
        try:
            self.connection = _connect(self._folder)
            self._create_tables([path for path in paths if is_parquet(path)], where)
            record_paths = [path for path in paths if not is_parquet(path)]
            self.position = self._load(record_paths, progress or _ignore)
            self._check(where)
        except BaseException:
            self.close()
            raise

    def count(self) -> int:
        """Return the number of requests."""
        ((number,),) = self.connection.execute(f"SELECT count(*) FROM {REQUESTS}").fetchall()
        return int(number)

    def close(self) -> None:
        """Delete the database."""
        connection: duckdb.DuckDBPyConnection | None = getattr(self, "connection", None)
        if connection is not None:
            connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _create_tables(self, parquet: Sequence[str | os.PathLike[str]], where: str) -> None:
        declared = ", ".join(f'"{column.name}" {column.type}' for column in _LOADED)
        self.connection.execute(f"CREATE TABLE loaded ({declared})")
        hidden = ", ".join(column.name for column in HIDDEN_COLUMNS)
        sources = {
            REQUESTS: f"SELECT * EXCLUDE ({hidden}) FROM loaded",
            ENDPOINTS: " UNION ALL ".join(map(_endpoints, _POD_TYPES)),
        }
        for name, source in sources.items():
            files = [file for path in parquet for file in _parquet_files(path, name)]
            if files:
                listed = ", ".join(map(literal, files))
                source += (
                    f" UNION ALL BY NAME SELECT * FROM read_parquet([{listed}], "
                    "union_by_name=true, hive_partitioning=false)"
                )
            self.connection.execute(f"CREATE VIEW all_{name} AS {source}")
        self._create_view(REQUESTS, f"WHERE ({where})" if where else "", where)
        keys = ", ".join(REQUEST_KEY)
        chosen = f"WHERE ({keys}) IN (SELECT ({keys}) FROM {REQUESTS})" if where else ""
        self._create_view(ENDPOINTS, chosen, where)

    def _create_view(self, name: str, condition: str, where: str) -> None:
        try:
            self.connection.execute(f"CREATE VIEW {name} AS SELECT * FROM all_{name} {condition}")
        except duckdb.Error as error:
            raise QueryError(f"{where!r}: {first_line(error)}") from error

    def _check(self, where: str) -> None:
        """Try the condition on the rows: some errors depend on values."""
        try:
            self.count()
        except duckdb.Error as error:
            raise QueryError(f"{where!r}: {first_line(error)}") from error

    def _load(
        self,
        paths: Sequence[str | os.PathLike[str]],
        progress: Progress,
    ) -> Position:
        loaded = 0
        with LineFollower(
            bytes, *paths, position=self.start_position, skip_unreadable=True
        ) as follower:
            with contextlib.closing(_Chunk(self._folder / "chunk.jsonl")) as chunk:
                for entry in follower.read():
                    if isinstance(entry, RecordError):
                        self._note([entry])
                        continue
                    chunk.add(entry.record, entry.path, entry.line)
                    if chunk.size >= _CHUNK_BYTES:
                        loaded += self._insert(chunk)
                        progress(loaded)
                loaded += self._insert(chunk)
                progress(loaded)
            self.unfinished = follower.unfinished
            return follower.position

    def _insert(self, chunk: _Chunk) -> int:
        """Insert the lines of a chunk, and empty it; return the number of records."""
        if not chunk.places:
            return 0
        chunk.flush()
        ((inserted,),) = self.connection.execute(
            f"INSERT INTO loaded SELECT {_projection(_LOADED)} FROM "
            f"read_json({literal(chunk.path)}, columns={{{_LINE}}}, "
            "format='newline_delimited', ignore_errors=true, "
            f"maximum_object_size={LONGEST_LINE}) WHERE {_IS_RECORD}"
        ).fetchall()
        if inserted != len(chunk.places):
            self._note(chunk.problems(), len(chunk.places) - int(inserted))
        chunk.clear()
        return int(inserted)

    def _note(self, problems: Iterable[RecordError], count: int = 1) -> None:
        self.problem_count += count
        for problem in problems:
            if len(self.problems) >= _MAX_PROBLEMS:
                break
            self.problems.append(problem)


class _Chunk:
    """Lines to be loaded, in a file that the engine reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: list[tuple[Path, int]] = []
        self.size = 0
        self._file = open(self.path, "w+b")  # noqa: SIM115

    def add(self, line: bytes, path: Path, number: int) -> None:
        self._file.write(line)
        self.places.append((path, number))
        self.size += len(line)

    def flush(self) -> None:
        self._file.flush()

    def problems(self) -> Iterator[RecordError]:
        """Yield the invalid lines."""
        self._file.seek(0)
        for line, (path, number) in zip(self._file, self.places, strict=True):
            try:
                parse_line(line)
            except ValueError as error:
                yield RecordError(path, number, str(error))

    def clear(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.places.clear()
        self.size = 0

    def close(self) -> None:
        self._file.close()


def fetch(records: Records, query: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a query as dictionaries, with only some of them in memory."""
    cursor = records.connection.execute(query)
    names = [column[0] for column in cursor.description or ()]
    while rows := cursor.fetchmany(_FETCHED_ROWS):
        for row in rows:
            yield dict(zip(names, row, strict=True))


def is_parquet(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a Parquet file, or a folder of them that `export` wrote."""
    path = absolute(path)
    return path.suffix == PARQUET or (is_folder(path) and (path / REQUESTS).is_dir())


def literal(text: object) -> str:
    """Return a SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


def first_line(error: Exception) -> str:
    """Return the engine's reason in one line, without its sketch of the query."""
    return " ".join(str(error).partition("\n\n")[0].split())


def _connect(folder: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        str(folder / "records.duckdb"),
        config={"memory_limit": _MEMORY_LIMIT, "temp_directory": str(folder / "spilled")},
    )
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _projection(columns: Sequence[Column]) -> str:
    return ", ".join(f'{column.expression} AS "{column.name}"' for column in columns)


def _endpoints(role: str) -> str:
    features = f"list_filter(prediction_inputs, lambda x: x.\"podType\" = '{_POD_TYPES[role]}')[1]"
    return (
        f"SELECT {_projection(ENDPOINT_COLUMNS).format(role=role)} FROM "
        f"(SELECT *, {features} AS features FROM loaded WHERE list_contains(roles, '{role}'))"
    )


def _parquet_files(path: str | os.PathLike[str], table: str) -> list[Path]:
    path = absolute(path)
    if path.suffix == PARQUET:
        return [path] if table == REQUESTS else []
    return sorted((path / table).rglob(f"*{PARQUET}"))


def _ignore(loaded: int) -> None:
    pass
