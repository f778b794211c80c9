"""Settings: their checks, and the three places they come from besides Python arguments."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from otel_lifecycle.config.collection import CollectionConfig
from otel_lifecycle.config.paths import Paths
from otel_lifecycle.config.prediction import PredictionConfig
from otel_lifecycle.config.settings import (
    ConfigError,
    Duration,
    FieldError,
    Settings,
    duration,
    problems,
)
from otel_lifecycle.runtime.files import read_file
from otel_lifecycle.runtime.text import shown

DEFAULT_STORE_NAME = "hermes-inflight"
ENVIRONMENT_PREFIX = "OTEL_LIFECYCLE_"
CONFIG_FILE_VARIABLE = "OTEL_LIFECYCLE_CONFIG_FILE"

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")

_Model = TypeVar("_Model", bound=BaseModel)


class PersistenceConfig(Settings):
    """Where finished records are written, and when.

    With `flush_threshold` and `flush_interval` both 0 each record is written at once (by the
    writer thread, never by the request's).

    Attributes:
        enabled: Whether to write them at all.
        flush_threshold: Write when that many records are queued; 0 is no threshold.
        flush_interval: Write what is queued at least that often; 0 is no interval. A Go duration
            such as `5s`, or a timedelta.
        output_path: The JSON Lines file; required when enabled. `~` is expanded; in the name of
            the file `{pid}` is the process id, so that each process has its own; `{instance}` is
            `service.instance.id` as `OTEL_RESOURCE_ATTRIBUTES` has it, otherwise the host name.
        max_queue: Keep at most that many records when they cannot be written; beyond it the
            oldest are dropped, and counted.
        rotate_bytes: Close the file and begin a new one before it becomes larger; 0 is never. A
            record that is larger has a file of its own.
        rotate_interval: Do the same when the file has been written for so long; 0 is never.
        retain_segments: Keep at most that many closed segments, all processes of `{pid}` together;
            0 keeps all.
        retain_bytes: Keep at most that many bytes of closed segments, and the newest whatever its
            size; 0 keeps all.
        compression: Of closed segments: `none` or `gzip`.
        fsync: When the disk is asked to keep what was written, whatever happens to the machine:
            `never`; `rotate`, when a file is closed; `flush`, whenever records were written.
    """

    enabled: bool = False
    flush_threshold: int = Field(default=0, ge=0, le=2**63 - 1)
    flush_interval: Duration = duration(seconds=0)
    output_path: str = Field(default="", validation_alias=AliasChoices("outputPath", "output_path"))
    max_queue: int = Field(default=100_000, ge=1)
    rotate_bytes: int = Field(default=0, ge=0)
    rotate_interval: Duration = duration(seconds=0)
    retain_segments: int = Field(default=0, ge=0)
    retain_bytes: int = Field(default=0, ge=0)
    compression: Literal["none", "gzip"] = "none"
    fsync: Literal["never", "rotate", "flush"] = "never"

    @property
    def rotates(self) -> bool:
        """Whether there are closed segments beside the file that is written."""
        return bool(self.rotate_bytes or self.rotate_interval)

    @field_validator("output_path")
    @classmethod
    def _known_placeholders(cls, path: str) -> str:
        folder, _, name = path.rpartition("/")
        if set(_PLACEHOLDER.findall(path)) - {"{pid}", "{instance}"}:
            raise ValueError("must have no placeholders but {pid} and {instance}")
        if "{pid}" in folder or name.count("{pid}") > 1:
            raise ValueError("must have {pid} once at most, in the name of the file")
        return path

    @model_validator(mode="after")
    def _belong_together(self) -> PersistenceConfig:
        if self.enabled and not self.output_path:
            raise FieldError("output_path", "is required when persistence is enabled")
        if self.enabled and not self.rotates:
            for name in ("retain_segments", "retain_bytes", "compression"):
                if getattr(self, name) != PersistenceConfig.model_fields[name].default:
                    raise FieldError(name, "needs rotation, by bytes or by interval")
        return self

    def __str__(self) -> str:
        settings = [f"outputPath={self.output_path}"]
        for name, field in PersistenceConfig.model_fields.items():
            value: object = getattr(self, name)
            if name in ("flush_threshold", "flush_interval", "max_queue") or (
                name not in ("enabled", "output_path") and value != field.default
            ):
                shown = f"{value.total_seconds():g}s" if isinstance(value, timedelta) else value
                settings.append(f"{to_camel(name)}={shown}")
        return " ".join(settings)


class TrackerConfig(Settings):
    """The settings of a tracker.

    Attributes:
        store_name: Trackers of one name share their live state and their record file.
        persistence: The record file.
        collection: State of engines and devices that the router does not have.
        prediction: Latencies predicted for the record where the router predicts none.
        paths: Further paths of inference requests, for zero code; each is how a path ends, with
            `*` for any one segment, and may name the operation: `/ask`, `/v3/*/run=chat`. An empty
            operation, `/messages=`, takes out one that is built in. In text separated by commas.
        release_on_first_chunk: Which load a request gives back at its first chunk: that of the
            `prefill` endpoint, `all` or `none`.
        max_inflight: Do not track new requests while that many are in flight; None is no limit.
        stale_after: Engine metrics and NPU values older than that are neither used as prediction
            inputs nor shown by gauges; 0 is never. Default: hermes-router's 5s.
        npu_device_attributes: Put per-device NPU arrays on the span.
        first_byte_attribute: Put the time to the first byte of the answer on the span.
        phase_spans: Give the span of a stream two children, `prefill` and `decode`, so that a
            waterfall shows both endpoints.
        max_metric_values: How many endpoints, models, error types and so on metrics tell apart,
            each; further ones are counted under `_OTHER` until one is unused or gone. In its
            lifetime a tracker lets in ten times as many.
        close_timeout: How long `close` may take at most.
    """

    store_name: str = DEFAULT_STORE_NAME
    persistence: PersistenceConfig = PersistenceConfig()
    collection: CollectionConfig = CollectionConfig()
    prediction: PredictionConfig = PredictionConfig()
    paths: Paths = Field(default=(), strict=False)
    release_on_first_chunk: Literal["prefill", "all", "none"] = "prefill"
    max_inflight: int | None = Field(default=None, ge=1)
    stale_after: Duration = duration(seconds=5)
    npu_device_attributes: bool = False
    first_byte_attribute: bool = False
    phase_spans: bool = False
    max_metric_values: int = Field(default=1_000, ge=1)
    close_timeout: Duration = duration(seconds=5)

    @model_validator(mode="after")
    def _collects_often_enough(self) -> TrackerConfig:
        if self.collection.enabled and timedelta(0) < self.stale_after <= self.collection.interval:
            raise ValueError("collection.interval must be shorter than staleAfter")
        return self

    @model_validator(mode="before")
    @classmethod
    def _default_store_name(cls, values: Any) -> Any:
        # The seed treats an empty name as no name.
        if isinstance(values, dict):
            for name in ("storeName", "store_name"):
                if values.get(name) == "":  # pyright: ignore[reportUnknownMemberType]
                    return {**values, name: DEFAULT_STORE_NAME}  # pyright: ignore[reportUnknownVariableType]
        return values  # pyright: ignore[reportUnknownVariableType]

    @classmethod
    def from_json(cls, text: str | bytes) -> TrackerConfig:
        """The settings in JSON, camelCase, as the seed's factory takes them.

        As with Go's decoder: empty text and `null` are the defaults, keys match in any case, a null
        sets nothing, and of a key that comes twice the last counts (of a section, field by field).
        Unknown fields are refused at every level, a byte order mark and text that is not UTF-8 too.

        Raises:
            ConfigError: The text is not JSON, or a setting is refused.
        """
        return _validate(cls, _parse(text))

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, **arguments: Any
    ) -> TrackerConfig:
        """The settings from arguments, `OTEL_LIFECYCLE_*` variables and a file, in that order.

        A variable is named after its field, `OTEL_LIFECYCLE_STORE_NAME`; those of a section have
        its name before it, `OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH`. An empty variable counts as
        not set. The file, JSON as for `from_json`, is named by `OTEL_LIFECYCLE_CONFIG_FILE`. An
        output path alone enables persistence.

        Args:
            environment: Default: `os.environ`.
            **arguments: Fields of `TrackerConfig`, and those of its sections behind
                `persistence_`, `collection_` and `prediction_`. None counts as not given.

        Raises:
            ConfigError: A setting is refused, or the file cannot be read.
        """
        environment = os.environ if environment is None else environment
        values = _read_file(environment.get(CONFIG_FILE_VARIABLE, ""))
        sections: dict[str, dict[str, Any]] = {
            section: values.pop(section, {}) for section in _SECTIONS
        }
        values.update(_from_variables(cls, environment, ENVIRONMENT_PREFIX))
        for section, model in _SECTIONS.items():
            prefix = f"{ENVIRONMENT_PREFIX}{section.upper()}_"
            sections[section].update(_from_variables(model, environment, prefix))
        for name, value in arguments.items():
            section, _, field = name.partition("_")
            if value is None:
                continue
            if isinstance(value, Settings):
                sections[name] = value.model_dump()
            elif section in _SECTIONS:
                sections[section][field] = value
            else:
                values[name] = value
        persistence = sections["persistence"]
        if persistence.get("enabled") is None:
            persistence["enabled"] = bool(persistence.get("output_path"))
        return _validate(cls, {**values, **sections})


_SECTIONS: dict[str, type[Settings]] = {
    name: field.annotation
    for name, field in TrackerConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
}


def environment_variables() -> dict[str, str]:
    """Every variable `TrackerConfig.from_environment` reads, with the field it sets."""
    names = {
        ENVIRONMENT_PREFIX + field.upper(): field
        for field in TrackerConfig.model_fields
        if field not in _SECTIONS
    }
    for section, model in _SECTIONS.items():
        for field in model.model_fields:
            variable = f"{ENVIRONMENT_PREFIX}{section.upper()}_{field.upper()}"
            names[variable] = f"{section}.{field}"
    return {CONFIG_FILE_VARIABLE: "", **names}


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The `OTEL_LIFECYCLE_*` variables that nothing reads.

    Returns:
        Their names, each with the nearest known one; empty when none is near.
    """
    known = [name.removeprefix(ENVIRONMENT_PREFIX) for name in environment_variables()]
    unknown: dict[str, str] = {}
    for variable in sorted(environment):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name != variable and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            unknown[variable] = ENVIRONMENT_PREFIX + nearest[0] if nearest else ""
    return unknown


def _read_file(path: str) -> dict[str, Any]:
    if not path:
        return {}
    try:
        text = read_file(path).decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{CONFIG_FILE_VARIABLE}={path}: cannot be read: {error}") from error
    try:
        values = _parse(text)
        # A file may enable persistence and leave the path to a variable.
        optional_path = {**values.get("persistence", {}), "enabled": False}
        _validate(TrackerConfig, {**values, "persistence": optional_path})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return values


def _parse(text: str | bytes) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        # Of bytes Python would take UTF-16 and a byte order mark; Go's decoder takes neither.
        text = text if isinstance(text, str) else text.decode()
        values = json.loads(text, object_pairs_hook=_Object)
        json.dumps(values, ensure_ascii=False).encode()  # no path and no log takes half a character
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"invalid parameters: not valid JSON: {error}") from error
    return {} if values is None else _go_keys(TrackerConfig, values)


def _from_variables(
    model: type[BaseModel], environment: Mapping[str, str], prefix: str
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        text = environment.get(variable, "").strip()
        if not text or name in _SECTIONS:
            continue
        annotation: Any = field.annotation
        if annotation in (bool, int) or name == "max_inflight":
            target: type = bool if annotation is bool else int
            try:
                values[name] = TypeAdapter(target).validate_python(text)
            except ValidationError:
                allowed = "true or false" if target is bool else "a whole number"
                raise ConfigError(f"{variable}={shown(text)}: must be {allowed}") from None
        else:
            values[name] = text
    return values


class _Object(dict[str, Any]):
    """A JSON object that knows its members as they were written, a key that comes twice too."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        super().__init__(members)
        self.members = members


def _go_keys(model: type[BaseModel], values: object, path: str = "") -> dict[str, Any]:
    """Fields of a JSON object: its keys in any case, its nulls left out, as Go's decoder does."""
    if not isinstance(values, _Object):
        raise ConfigError(
            f"invalid parameters: {path or 'they'} must be a JSON object, got {shown(values)}"
        )
    fields = {to_camel(name).lower(): name for name in model.model_fields}
    result: dict[str, Any] = {}
    for key, value in values.members:
        name = fields.get(key.casefold())
        if name is None:
            unknown = f"{path}.{key}" if path else key
            raise ConfigError(f"invalid parameters: unknown field {unknown!r}")
        if value is None:
            continue
        if model is TrackerConfig and name in _SECTIONS:
            value = {**result.get(name, {}), **_go_keys(_SECTIONS[name], value, name)}
        result[name] = value
    return result


def _validate(model: type[_Model], values: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(problems(error, camel_case=True)) from None
