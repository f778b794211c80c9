"""Shows the settings in force, and checks whether the record file can be written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import cast

from otel_lifecycle.cli.doctor.diagnosis import Diagnosis
from otel_lifecycle.config import (
    CONFIG_FILE_VARIABLE,
    ConfigError,
    PersistenceConfig,
    TrackerConfig,
    environment_variables,
    unknown_variables,
)
from otel_lifecycle.records.names import live_path
from otel_lifecycle.records.ownership import ForeignFile, check
from otel_lifecycle.runtime.files import check_file, read_file
from otel_lifecycle.runtime.text import without_secrets

_RARE = ("collection.", "prediction.", "prompt.")  # shown only if they are set
_ALWAYS_SHOWN = ("collection.enabled", "prediction.url", "prompt.blocks")
_WRITABLE = "can be written"
_NOT_EXISTING = "does not exist yet; its folder can be written"


def examine_settings(diagnosis: Diagnosis, environment: Mapping[str, str]) -> TrackerConfig | None:
    """Report value and source of each setting; return them, or None if one is refused."""
    diagnosis.begin("settings")
    for variable, known in unknown_variables(environment).items():
        instead = f"; did you mean {known}?" if known else ""
        diagnosis.warn(f"the variable {variable} is unknown{instead}")
    try:
        config = TrackerConfig.for_zero_code(environment)
    except ConfigError as error:
        diagnosis.fact("refused", str(error))
        diagnosis.problem(f"a setting is invalid, so the router stays uninstrumented: {error}")
        return None
    path = environment.get(CONFIG_FILE_VARIABLE, "")
    in_file = _fields_of(path) if path else set[str]()
    for variable, field in environment_variables().items():
        if not field:
            continue
        if environment.get(variable, "").strip():
            source = variable
        elif field.replace("_", "") in in_file:
            source = path
        else:
            source = "default"
            if field.startswith(_RARE) and field not in _ALWAYS_SHOWN:
                continue
        if field == "persistence.enabled" and source == "default" and config.persistence.enabled:
            source = "there is an output path"
        diagnosis.fact(field, f"{_value(config, field)}  ({source})")
    if config.prediction.model:
        try:
            check_file(Path(config.prediction.model).expanduser())
        except (OSError, RuntimeError, ValueError) as error:
            diagnosis.warn(f"prediction.model: {error}; nothing is predicted")
    return config


def examine_record_file(diagnosis: Diagnosis, persistence: PersistenceConfig) -> None:
    """Report whether the record file can be written, without creating or changing it."""
    diagnosis.begin("record file")
    if not persistence.enabled:
        diagnosis.fact("not written", "set OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH to write one")
        return
    try:
        path = live_path(persistence.output_path).absolute()
        state = _state(path)
    except (OSError, RuntimeError, ValueError) as error:
        path, state = Path(persistence.output_path), str(error)
    diagnosis.fact("path", str(path))
    diagnosis.fact("state", state)
    if state not in (_WRITABLE, _NOT_EXISTING):
        diagnosis.problem(f"the record file {path} cannot be written: {state}")


def _fields_of(path: str) -> set[str]:
    """Return the fields that a valid file sets, in lower case."""
    text = read_file(path).decode().strip()
    return set(_fields(json.loads(text) if text else None, ""))


def _fields(values: object, path: str) -> Iterator[str]:
    if isinstance(values, dict):
        for name, value in cast("dict[str, object]", values).items():
            yield from _fields(value, f"{path}.{name.lower()}" if path else name.lower())
    elif values is not None:
        yield path


def _value(config: TrackerConfig, field: str) -> str:
    owner, _, name = field.rpartition(".")
    value: object = getattr(getattr(config, owner) if owner else config, name)
    if value is None:
        return "no limit"
    if isinstance(value, tuple):
        value = ", ".join(map(str, cast("tuple[object, ...]", value)))
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    if isinstance(value, str) and "//" in value:
        return without_secrets(value)
    return str(value).lower() if isinstance(value, bool) else str(value) or "not set"


def _state(path: Path) -> str:
    if os.path.lexists(path):
        if path.is_dir():
            return "it is a folder"
        try:
            check(path)
        except PermissionError:
            return "no permission"
        except ForeignFile as error:
            return f"it {error.reason}"
        return _WRITABLE if os.access(path, os.R_OK | os.W_OK) else "no permission"
    folder = next(folder for folder in path.parents if folder.exists())
    if not folder.is_dir():
        return f"{folder} is not a folder"
    if os.access(folder, os.W_OK | os.X_OK):
        return _NOT_EXISTING
    return f"no permission in {folder}"
