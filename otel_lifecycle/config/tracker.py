"""The settings of a tracker, from Python, JSON, environment variables or a file."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypeVar

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
from otel_lifecycle.config.entries import no_entries
from otel_lifecycle.config.go_json import parse_json, sections_of
from otel_lifecycle.config.labels import Labels, parse_labels
from otel_lifecycle.config.paths import Paths
from otel_lifecycle.config.prediction import PredictionConfig
from otel_lifecycle.config.prompt import PromptConfig
from otel_lifecycle.config.settings import (
    ConfigError,
    Duration,
    FieldError,
    Secret,
    Settings,
    duration,
    problems,
    secret,
)
from otel_lifecycle.config.slo import SLOTargets
from otel_lifecycle.runtime.files import read_file
from otel_lifecycle.runtime.text import shown

_STORE_NAME = "otel-lifecycle"
_SEED_STORE_NAME = "hermes-inflight"
ENVIRONMENT_PREFIX = "OTEL_LIFECYCLE_"
CONFIG_FILE_VARIABLE = "OTEL_LIFECYCLE_CONFIG_FILE"

# The default of zero code: writing each record at once costs a router some percent of its CPU.
_BATCHES = {"flush_threshold": 100, "flush_interval": timedelta(milliseconds=100)}

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")

Writer: TypeAlias = Literal["thread", "process"]

_Model = TypeVar("_Model", bound=BaseModel)


class PersistenceConfig(Settings):
    """The record file: its path, and when records are written to it.

    With `flush_threshold` and `flush_interval` both 0 each record is written at once, by the writer
    thread and never by the request's.

    Attributes:
        enabled: Whether to write records.
        flush_threshold: Write when this many records are queued; 0: no threshold.
        flush_interval: Write queued records at least this often; 0: no interval. A Go duration
            such as `5s`, or a timedelta.
        output_path: The JSON Lines file; required when enabled. `~` is expanded. In the file name
            `{pid}` is the process id, so that each process has its own file. `{instance}` is the
            `service.instance.id` of `OTEL_RESOURCE_ATTRIBUTES`, otherwise the host name.
        max_queue: Limit of records that wait to be written; beyond it the oldest are dropped and
            counted.
        rotate_bytes: Close the file and start a new one before it becomes larger; 0: never. A
            larger record gets its own file.
        rotate_interval: Close the file at this age and start a new one; 0: never.
        retain_segments: Keep at most this many closed segments, of all processes of `{pid}`
            together; 0: keep all.
        retain_bytes: Keep at most this many bytes of closed segments, but always the newest
            segment; 0: keep all.
        compression: Compression of closed segments: `none` or `gzip`.
        fsync: When to force data to disk, to survive a failure of the machine: `never`; `rotate`,
            when a file is closed; `flush`, after each write.
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
        """Whether closed segments are created."""
        return bool(self.rotate_bytes or self.rotate_interval)

    def is_served_by(self, other: PersistenceConfig) -> bool:
        """Return whether a record file with other settings does what these ask for.

        They may be the same, or say nothing of when to write: zero code and a tracker of the
        program have different defaults.
        """
        if self.model_fields_set.isdisjoint(_BATCHES):
            return self.model_copy(update=other.model_dump(include=set(_BATCHES))) == other
        return self == other

    @field_validator("output_path")
    @classmethod
    def _check_placeholders(cls, path: str) -> str:
        folder, _, name = path.rpartition("/")
        if set(_PLACEHOLDER.findall(path)) - {"{pid}", "{instance}"}:
            raise ValueError("must have no placeholders but {pid} and {instance}")
        if "{pid}" in folder or name.count("{pid}") > 1:
            raise ValueError("must have {pid} at most once, in the name of the file")
        return path

    @model_validator(mode="after")
    def _check_combination(self) -> PersistenceConfig:
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
        store_name: Trackers with the same name share their live state and their record file.
        persistence: The record file.
        collection: Collection of engine and device state that the router does not have.
        prediction: Shadow prediction, for requests that the router did not predict.
        prompt: Hashes of the blocks of each prompt, for the record only.
        paths: Further paths of inference requests, for zero code. Each is the end of a path, with
            `*` for any one segment, and may name the operation: `/ask`, `/v3/*/run=chat`. An empty
            operation, `/messages=`, removes a built-in path. As text, separated by commas.
        labels: What else is recorded of a request: `name=header`, or `name=body:path.to.field`.
            Values are hashed, unless `;plain` follows; with `;metric` metrics have the label too.
            `llm-d` and `dynamo` stand for the names of those projects. As text, separated by
            commas.
        labels_key: Key of the hash, at least 16 characters; required where a label is hashed.
        slo: Targets of latencies: `ttft=500ms`, `tpot=50ms`, `e2e=30s`, or a header that has the
            milliseconds, `ttft=x-slo-ttft-ms`. `llm-d` stands for its headers. As text, separated
            by commas.
        release_on_first_chunk: Load that a request releases at its first chunk: that of the
            `prefill` endpoint, `all` or `none`.
        max_inflight: Do not track new requests while this many are in flight; None: no limit.
        stale_after: Age after which engine metrics and NPU values are neither used as prediction
            inputs nor shown by gauges; 0: never. Default: hermes-router's 5s.
        npu_device_attributes: Put per-device NPU arrays on the span.
        decision_candidates: Record at most this many candidates of each decision, 1 to 64.
        first_byte_attribute: Put the time to the first byte of the answer on the span.
        phase_spans: Give the span of a stream two children, `prefill` and `decode`, so that a
            waterfall shows both endpoints.
        otlp_encoder: Under zero code, what encodes the spans that the SDK's OTLP exporters send:
            `lifecycle`, for a fraction of the CPU, or `sdk`.
        writer: What writes the record file: a `thread`, or a `process` of its own, which under zero
            code also sends the spans that the SDK's OTLP exporter would send.
        max_metric_values: Limit of values with their own series, for endpoints, models, error types
            and so on each; others count as `_OTHER` until a value is unused or deleted. In its
            lifetime a tracker accepts ten times as many.
        close_timeout: Time limit of `close`.
    """

    store_name: str = _STORE_NAME
    persistence: PersistenceConfig = PersistenceConfig()
    collection: CollectionConfig = CollectionConfig()
    prediction: PredictionConfig = PredictionConfig()
    prompt: PromptConfig = PromptConfig()
    paths: Paths = Field(default=(), strict=False)
    labels: Labels = no_entries()
    labels_key: Secret = secret()
    slo: SLOTargets = no_entries()
    release_on_first_chunk: Literal["prefill", "all", "none"] = "prefill"
    max_inflight: int | None = Field(default=None, ge=1)
    stale_after: Duration = duration(seconds=5)
    npu_device_attributes: bool = False
    decision_candidates: int = Field(default=8, ge=1, le=64)
    first_byte_attribute: bool = False
    phase_spans: bool = False
    otlp_encoder: Literal["lifecycle", "sdk"] = "lifecycle"
    writer: Writer = "thread"
    max_metric_values: int = Field(default=1_000, ge=1)
    close_timeout: Duration = duration(seconds=5)

    @model_validator(mode="after")
    def _check_interval(self) -> TrackerConfig:
        if self.collection.enabled and timedelta(0) < self.stale_after <= self.collection.interval:
            raise ValueError("collection.interval must be shorter than staleAfter")
        return self

    @model_validator(mode="after")
    def _check_labels_key(self) -> TrackerConfig:
        hashed = [label.name for label in parse_labels(self.labels).values() if not label.plain]
        if hashed and not self.labels_key.get_secret_value():
            raise FieldError(
                "labels_key",
                f"is required: the value of label {hashed[0]} is hashed; with ;plain it is not",
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _default_store_name(cls, values: Any) -> Any:
        # The seed treats an empty name as no name.
        if isinstance(values, dict):
            for name in ("storeName", "store_name"):
                if values.get(name) == "":  # pyright: ignore[reportUnknownMemberType]
                    return {**values, name: _STORE_NAME}  # pyright: ignore[reportUnknownVariableType]
        return values  # pyright: ignore[reportUnknownVariableType]

    @classmethod
    def from_json(cls, text: str | bytes) -> TrackerConfig:
        """Read the settings from JSON in camelCase, as the seed's factory does.

        As in Go's decoder, empty text and `null` mean the defaults, keys match in any case, and a
        null value leaves the default. If a key occurs twice the last one counts (for a section,
        field by field). Unknown fields are refused at every level. So are a byte order mark and
        invalid UTF-8. The default store is the seed's, `hermes-inflight`.

        Raises:
            ConfigError: The text is not JSON, or a setting is invalid.
        """
        values = parse_json(cls, text)
        return _validate(
            cls, {**values, "store_name": values.get("store_name") or _SEED_STORE_NAME}
        )

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, **arguments: Any
    ) -> TrackerConfig:
        """Read the settings from arguments, `OTEL_LIFECYCLE_*` variables and a file, in this order.

        A variable is named after its field, `OTEL_LIFECYCLE_STORE_NAME`, or after section and
        field, `OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH`. An empty variable counts as not set.
        `OTEL_LIFECYCLE_CONFIG_FILE` names the file, JSON as for `from_json`. Setting an output path
        enables persistence.

        Args:
            environment: Default: `os.environ`.
            **arguments: Fields of `TrackerConfig`, and fields of its sections with the prefix
                `persistence_`, `collection_`, `prediction_` or `prompt_`. None counts as not
                given.

        Raises:
            ConfigError: A setting is invalid, or the file cannot be read.
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

    @classmethod
    def for_zero_code(
        cls, environment: Mapping[str, str] | None = None, **arguments: Any
    ) -> TrackerConfig:
        """Read the settings as `from_environment` does, with the defaults of zero code.

        If neither flush threshold nor flush interval is set, records are written when 100 are
        queued or after 100 ms, whichever comes first.

        Raises:
            ConfigError: A setting is refused, or the file cannot be read.
        """
        config = cls.from_environment(environment, **arguments)
        persistence = config.persistence
        if persistence.model_fields_set.isdisjoint(_BATCHES):
            # Not counted as set: another tracker of the store may set them.
            persistence = PersistenceConfig.model_construct(
                persistence.model_fields_set, **{**dict(persistence), **_BATCHES}
            )
        return config.model_copy(update={"persistence": persistence})


_SECTIONS = sections_of(TrackerConfig)


def environment_variables() -> dict[str, str]:
    """Return every variable that `TrackerConfig.from_environment` reads, with its field."""
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
    """Return the `OTEL_LIFECYCLE_*` variables that do not exist.

    Returns:
        Their names, each with the most similar known name; empty if none is similar.
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
        values = parse_json(TrackerConfig, text)
        # A file may enable persistence and leave the path to a variable.
        optional_path = {**values.get("persistence", {}), "enabled": False}
        _validate(TrackerConfig, {**values, "persistence": optional_path})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return values


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


def _validate(model: type[_Model], values: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(problems(error, camel_case=True)) from None
