"""Hashes the blocks of prompts, off the request's path, so that nobody can read them back.

Each hash is keyed and covers all blocks before it: without the key a guessed prompt cannot be
compared, and equal hashes mean equal beginnings, as the `hash_ids` of Mooncake's traces do.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from array import array
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from otel_lifecycle.config import ConfigError, TrackerConfig
from otel_lifecycle.config.prompt import SHORTEST_KEY
from otel_lifecycle.model import RequestStart, sanitize
from otel_lifecycle.model.request import BlockUnit, PromptBlocks, TokenIds
from otel_lifecycle.records.names import live_path
from otel_lifecycle.runtime.files import read_file

KEY_FILE: Final = "prompt.key"
_BYTES_PER_TOKEN: Final = 4
_DIGEST_BYTES: Final = 16

Prompted: TypeAlias = "str | bytes | memoryview | Sequence[int] | TokenIds | PromptBlocks"
_ids_decoder = msgspec.json.Decoder(list[int])


class PromptNotes:
    """Takes the prompts of one tracker's requests; thread-safe.

    Args:
        config: Whether to hash them, and how.
        submit: Runs a job off the request's path.

    Raises:
        ConfigError: There is no key, and no place to keep one.
    """

    def __init__(self, config: TrackerConfig, submit: Callable[..., None]) -> None:
        self._submit = submit
        self._hasher: PromptHasher | None = None
        settings, persistence = config.prompt, config.persistence
        if settings.blocks:
            key = settings.key.get_secret_value()
            if not key:
                if not persistence.enabled:
                    raise ConfigError(
                        "prompt.blocks needs prompt.key, or a record file to keep one beside"
                    )
                key = kept_key(live_path(persistence.output_path).with_name(KEY_FILE))
            self._hasher = PromptHasher(settings.blocks, settings.max_blocks, key)

    def take(self, start: RequestStart) -> RequestStart:
        """Return a start that keeps the prompt until it is hashed, or nothing of it."""
        given: Any = start.prompt
        if given is None or isinstance(given, Prompt):
            return start
        changes: dict[str, Any] = {"prompt": None}
        if self._hasher is not None:
            changes["prompt"] = prompt = Prompt(self._hasher, given)
            self._submit(Prompt.blocks, prompt)
        return msgspec.structs.replace(start, **changes)


class PromptHasher:
    """Hashes prompts; thread-safe.

    Args:
        tokens: Number of tokens in a block.
        most: How many blocks of a prompt to hash.
        key: The secret.
    """

    def __init__(self, tokens: int, most: int, key: str) -> None:
        self._tokens = tokens
        self._most = most
        self._key = blake2b(key.encode(), digest_size=32, person=b"otel-lifecycle").digest()
        self._ids = re.compile(rb"\d+(?:\s*,\s*\d+){0,%d}" % (tokens - 1))

    def copied(self, given: Prompted) -> Prompted:
        """Return what is needed of a prompt, which the router may change.

        Raises:
            Exception: It is no prompt.
        """
        if isinstance(given, (str, bytes, memoryview, TokenIds, PromptBlocks)):
            return given  # nobody changes it
        most = self._most * self._tokens
        return given[:most] if isinstance(given, (list, tuple)) else list(islice(given, most))

    def hash(self, given: Prompted) -> PromptBlocks:
        """Return the blocks of a prompt.

        Raises:
            Exception: It is no prompt.
        """
        if isinstance(given, PromptBlocks):
            unit, size = BlockUnit(given.unit), sanitize.count(given.block_size)
            if not size:
                raise ValueError("a block has no size")
            pieces = (array("Q", [one]).tobytes() for one in given.hashes)
            return PromptBlocks(unit, size, self._chain(b"hash", pieces))
        if isinstance(given, TokenIds):
            return self._of_ids(
                _ids_decoder.decode(b"[%b]" % match[0]) for match in self._ids.finditer(given.json)
            )
        if isinstance(given, (str, bytes, memoryview)):
            size = self._tokens * _BYTES_PER_TOKEN
            text = given
            if isinstance(given, str):
                text = given[: self._most * size].encode("utf-8", "surrogatepass")
            return PromptBlocks(BlockUnit.BYTE, size, self._chain(b"byte", _pieces(text, size)))
        return self._of_ids(_pieces(given, self._tokens))

    def _of_ids(self, blocks: Iterable[Sequence[int]]) -> PromptBlocks:
        pieces = (array("Q", block).tobytes() for block in blocks)
        return PromptBlocks(BlockUnit.TOKEN, self._tokens, self._chain(b"token", pieces))

    def _chain(self, kind: bytes, pieces: Iterable[bytes | memoryview]) -> tuple[int, ...]:
        hashes: list[int] = []
        before = kind
        for piece in islice(pieces, self._most):
            block = blake2b(before, key=self._key, digest_size=_DIGEST_BYTES)
            block.update(piece)
            before = block.digest()
            hashes.append(int.from_bytes(before[:8], "big") >> 11)  # 53 bits, exact in JSON
        return tuple(hashes)


class Prompt:
    """One prompt; takes the place of `RequestStart.prompt`, and forgets it once it is hashed."""

    __slots__ = ("_blocks", "_given", "_hasher")

    def __init__(self, hasher: PromptHasher, given: Prompted) -> None:
        self._hasher = hasher
        self._given: Prompted | None = None
        self._blocks: PromptBlocks | None = None
        with contextlib.suppress(Exception):  # no prompt, or a sequence that cannot be read
            self._given = hasher.copied(given)

    def blocks(self) -> PromptBlocks | None:
        """Return its blocks, hashed by the first call; None if it could not be used."""
        given = self._given
        if given is not None:
            with contextlib.suppress(Exception):
                self._blocks = self._hasher.hash(given)
            self._given = None  # last: another thread may be here too
        return self._blocks


def _pieces(whole: Any, size: int) -> Iterable[Any]:
    return (whole[start : start + size] for start in range(0, len(whole), size))


def kept_key(path: Path) -> str:
    """Return the key in a file, which the first process of a deployment makes."""
    try:
        if not path.exists():
            _make_key(path)
        key = read_file(path).decode().strip()
        is_open = path.stat().st_mode & 0o077
    except (OSError, ValueError) as error:
        raise ConfigError(f"prompt.key: {path} cannot be used: {error}") from error
    if is_open:
        raise ConfigError(f"prompt.key: others may read {path}; chmod it to 600")
    if len(key) < SHORTEST_KEY:
        raise ConfigError(f"prompt.key: {path} has no key; remove it to have one made")
    return key


def _make_key(path: Path) -> None:
    """Make a file that is complete as soon as it exists: other processes want it at this moment."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write(f"{secrets.token_hex(32)}\n")
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink()
