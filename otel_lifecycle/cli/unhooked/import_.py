"""`otel-lifecycle import dynamo`: makes records of the traces of other programs."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.cli.errors import FAILED, USAGE, CommandError, warn
from otel_lifecycle.config import PersistenceConfig, TrackerConfig
from otel_lifecycle.observation.dynamo import record_of_line
from otel_lifecycle.observation.log_file import LONGEST_LINE
from otel_lifecycle.observation.sinks import Printer, Recorder
from otel_lifecycle.runtime.files import check_file
from otel_lifecycle.tracking.prompts import PromptNotes

_MOST_NAMED = 10
_BATCH = 512


def run(paths: Sequence[Path], output: Path | None) -> int:
    """Import files; return the exit code."""
    try:
        sink = Printer(sys.stdout) if output is None else _recorder(output)
        prompts = _prompts(output)
    except (OSError, ValueError, RuntimeError) as error:
        raise CommandError(f"{output}: {error}") from error
    records = others = bad = missing = 0
    for path in paths:
        try:
            for number, line in enumerate(_lines(path), 1):
                try:
                    record = record_of_line(line, prompts)
                except ValueError as error:
                    bad += 1
                    if bad <= _MOST_NAMED:
                        warn(f"{path}:{number}: {error}")
                    continue
                if record is None:
                    others += 1
                    continue
                sink.put(record)
                records += 1
                if records % _BATCH == 0:
                    sink.flush()
        except (OSError, EOFError, zlib.error) as error:
            missing += 1
            warn(f"{path}: {getattr(error, 'strerror', None) or error}")
    if isinstance(sink, Recorder):
        sink.close()
    else:
        sink.flush()
    if records or bad or others or not missing:
        warn(
            f"{plural(records, 'record')} of {plural(len(paths), 'file')}; left out: "
            f"{plural(bad, 'bad line')}, {others:,} about other events"
        )
    return USAGE if missing else FAILED if bad else 0


def _recorder(output: Path) -> Recorder:
    config = PersistenceConfig(enabled=True, output_path=str(output))
    return Recorder(config, warn, None)


def _prompts(output: Path | None) -> PromptNotes:
    """Return what hashes prompts, as the environment says."""
    config = TrackerConfig.from_environment(persistence_output_path=output and str(output))
    return PromptNotes(config, lambda *_: None)


def _lines(path: Path) -> Iterator[bytes]:
    check_file(path)
    with cast("BinaryIO", gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
        while line := file.readline(LONGEST_LINE):
            yield line
