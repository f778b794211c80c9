"""The base of all settings: their checks and error messages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationError
from pydantic.alias_generators import to_camel, to_snake

from otel_lifecycle.config.durations import parse_go_duration, to_timedelta
from otel_lifecycle.runtime.text import shown, without_secrets

MIN_SECRET: Final = 16
_MUST_BE = {
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "string_type": "must be text",
}


class ConfigError(ValueError):
    """An invalid setting; the text names the field, the value and what is allowed."""


def missing_extra(setting: str, error: ImportError, extra: str = "collect") -> ConfigError:
    """Return the error of a setting that needs an extra."""
    return ConfigError(
        f"{setting}: {error}; install the extra: pip install 'otel-lifecycle[{extra}]'"
    )


def _duration(value: object) -> object:
    if isinstance(value, str):
        try:
            # The seed leaves an empty duration at its default, 0.
            value = to_timedelta(parse_go_duration(value)) if value else timedelta(0)
        except ValueError as error:
            raise ValueError(f"must be a valid duration: {error}") from None
    if not isinstance(value, timedelta):
        raise ValueError("must be a Go duration such as 5s, or a timedelta")
    if value < timedelta(0):
        raise ValueError("must be >= 0")
    return value


if TYPE_CHECKING:

    class Duration:
        """A `timedelta` when read; constructors also accept a Go duration as text."""

        def __get__(self, settings: object, owner: type[object]) -> timedelta: ...
        def __set__(self, settings: object, value: timedelta | str) -> None: ...

else:
    Duration = Annotated[timedelta, BeforeValidator(_duration)]


def duration(**units: float) -> Any:
    """Return the default of a `Duration` field, with the arguments of `timedelta`."""
    return timedelta(**units)


def _secret(value: object) -> object:
    if isinstance(value, str):
        value = SecretStr(value)
    if not isinstance(value, SecretStr):
        raise SecretError("must be text")
    if 0 < len(value) < MIN_SECRET:
        raise SecretError(f"must have at least {MIN_SECRET} characters")
    return value


if TYPE_CHECKING:

    class Secret:
        """A `SecretStr` when read; constructors also accept text."""

        def __get__(self, settings: object, owner: type[object]) -> SecretStr: ...
        def __set__(self, settings: object, value: SecretStr | str) -> None: ...

else:
    Secret = Annotated[SecretStr, BeforeValidator(_secret)]


def secret() -> Any:
    """Return the default of a `Secret` field, empty."""
    return SecretStr("")


class SecretError(ValueError):
    """An error of a value that must not be shown."""


class FieldError(ValueError):
    """An error of one field, found by a check of several fields.

    Args:
        field: The field, in snake_case.
        message: What is wrong with it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message


class Settings(BaseModel):
    """Frozen; snake_case in Python, camelCase in JSON; unknown fields are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=False,
    )

    if not TYPE_CHECKING:  # type checkers derive the signature from the fields

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise ConfigError(problems(error, camel_case=False)) from None

        def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
            for name, value in super().__repr_args__():
                is_url = isinstance(value, str) and "//" in value
                yield name, without_secrets(value) if is_url else value

        # Tells pydantic that it may validate nested models without calling `__init__`.
        __init__.__pydantic_base_init__ = True


def problems(error: ValidationError, *, camel_case: bool) -> str:
    """Describe in one line which settings are invalid, and why."""
    problems = (_describe(dict(problem), camel_case) for problem in error.errors())
    return f"invalid parameters: {'; '.join(problems)}"


def _describe(problem: dict[str, Any], camel_case: bool) -> str:
    parts = [str(part) for part in problem["loc"]]
    path = ".".join(to_camel(part) if camel_case else to_snake(part) for part in parts)
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown field {'.'.join(parts)!r}"
    if kind == "greater_than_equal":
        message = f"must be >= {context['ge']}"
    elif kind == "less_than_equal":
        message = f"must be <= {context['le']}"
    elif kind == "value_error":
        error = context["error"]
        if isinstance(error, FieldError):
            name = to_camel(error.field) if camel_case else error.field
            return f"{path}.{name} {error.message}" if path else f"{name} {error.message}"
        message = str(error)
        if isinstance(error, SecretError) or message.startswith("must be a valid duration"):
            return f"{path} {message}"
        if not path:  # concerns several settings
            return message
    elif kind == "literal_error":
        message = f"must be one of {context['expected']}"
    else:
        message = _MUST_BE.get(kind, problem["msg"])
    return f"{path} {message}, got {shown(problem['input'])}"
