"""Settings of the prompt's blocks in the record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, SecretStr, model_validator

from otel_lifecycle.config.settings import FieldError, Settings

SHORTEST_KEY = 16

if TYPE_CHECKING:

    class Secret:
        """A `SecretStr` when read; constructors also accept text."""

        def __get__(self, settings: object, owner: type[object]) -> SecretStr: ...
        def __set__(self, settings: object, value: SecretStr | str) -> None: ...

else:
    Secret = SecretStr


def _secret(text: str) -> Any:
    return Field(default=SecretStr(text), strict=False)


class PromptConfig(Settings):
    """Keyed hashes of the blocks of each prompt, from which prefix sharing can be replayed.

    Attributes:
        blocks: Number of tokens in a block; 0: record no blocks. Of a text, a token counts as four
            bytes. Traces such as Mooncake's have 512.
        max_blocks: Record at most this many blocks of a prompt, from its beginning.
        key: The secret that makes hashes useless to others, at least 16 characters; the same for
            all routers whose prompts are to be compared. Default: a random one, kept in the file
            `prompt.key` beside the record file.
    """

    blocks: int = Field(default=0, ge=0, le=65_536)
    max_blocks: int = Field(default=256, ge=1, le=4_096)
    key: Secret = _secret("")

    @model_validator(mode="before")
    @classmethod
    def _check_key(cls, values: Any) -> Any:
        # Here, where no error shows the value.
        key = values.get("key", "") if isinstance(values, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(key, SecretStr):
            key = key.get_secret_value()
        if not isinstance(key, str) or 0 < len(key) < SHORTEST_KEY:
            raise FieldError("key", f"must be text of at least {SHORTEST_KEY} characters")
        return values  # pyright: ignore[reportUnknownVariableType]
