"""The requests of a demo: generated conversations, or a Mooncake trace."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec

from demo.prompts import ChatPrompt, Prompt, TokenPrompt
from otel_lifecycle.cli.errors import CommandError

REQUESTS_PER_SECOND = 15.0
CONVERSATION_BLOCK_SIZE = 64
TRACE_BLOCK_SIZE = 512

_SYSTEM_PROMPT_BLOCKS = (24, 12, 6)
_MAX_TURNS = 6
_OUTPUT_TOKENS = (16, 96)
_TOKENIZED_SHARE = 0.25
_NOT_STREAMING_SHARE = 0.12
_DISCONNECT_SHARE = 0.05
_CHARACTERS_PER_TOKEN = 4
_WORDS = (
    "the a router engine request token prompt cache block prefix load queue batch model answer "
    "question weather train ticket river mountain paper python function error please explain "
    "compare write short long table list first second because although while before after"
)


@dataclass(frozen=True)
class PlannedRequest:
    """One request and its time.

    Attributes:
        at: Seconds since the start.
        output_tokens: Number of requested tokens.
        leave_after_chunks: The client disconnects after this many chunks (0: soon after sending);
            None: it stays.
    """

    request_id: str
    at: float
    prompt: Prompt
    output_tokens: int
    stream: bool = True
    leave_after_chunks: int | None = None


@dataclass(frozen=True)
class Workload:
    """The workload of a demo.

    Attributes:
        requests: The requests, by time, the first at 0.
        speed: The speed, already applied to the requests' times.
        block_size: Tokens per KV-cache block of the prompts.
        with_outage: Whether an engine leaves and comes back.
    """

    requests: Sequence[PlannedRequest]
    speed: float
    block_size: int
    with_outage: bool

    @property
    def duration(self) -> float:
        """Return the seconds until the last request is sent."""
        return self.requests[-1].at


def bundled_workload(count: int, seed: int, speed: float | None) -> Workload:
    """Conversations and an outage, at real speed by default."""
    speed = speed or 1.0
    return Workload(at_speed(generate(count, seed), speed), speed, CONVERSATION_BLOCK_SIZE, True)


def trace_workload(path: Path, count: int, speed: float | None) -> Workload:
    """A trace, by default with as many requests per second as the bundled workload."""
    requests = read_trace(path, count)
    if speed is None:
        seconds = requests[-1].at - requests[0].at
        speed = max(1.0, seconds * REQUESTS_PER_SECOND / len(requests))
    return Workload(at_speed(requests, speed), speed, TRACE_BLOCK_SIZE, False)


def generate(count: int, seed: int) -> list[PlannedRequest]:
    """Return conversations that share system prompts, by time; equal for equal seeds."""
    rng = random.Random(seed)
    systems = [_text(rng, blocks * CONVERSATION_BLOCK_SIZE) for blocks in _SYSTEM_PROMPT_BLOCKS]
    duration = count / REQUESTS_PER_SECOND
    requests: list[PlannedRequest] = []
    conversation = 0
    while len(requests) < count:
        requests += _conversation(rng, conversation, systems, duration)
        conversation += 1
    return sorted(requests[:count], key=lambda request: request.at)


def _conversation(
    rng: random.Random, number: int, systems: Sequence[str], duration: float
) -> Iterator[PlannedRequest]:
    system = rng.randrange(len(systems))
    tokenized = rng.random() < _TOKENIZED_SHARE
    times = sorted(rng.uniform(0, duration) for _ in range(rng.randint(1, _MAX_TURNS)))
    turns: list[str] = []
    for turn, at in enumerate(times):
        turns.append(_text(rng, rng.randint(10, 120)))
        stream = rng.random() >= _NOT_STREAMING_SHARE
        leaves = stream and rng.random() < _DISCONNECT_SHARE
        yield PlannedRequest(
            request_id=f"conversation-{number}-turn-{turn}",
            at=at,
            prompt=_token_prompt(rng, system, number, turn)
            if tokenized
            else ChatPrompt(systems[system], tuple(turns)),
            output_tokens=rng.randint(*_OUTPUT_TOKENS),
            stream=stream,
            leave_after_chunks=rng.randint(0, 4) if leaves else None,
        )
        turns.append(_text(rng, rng.randint(*_OUTPUT_TOKENS)))


def _token_prompt(rng: random.Random, system: int, conversation: int, turn: int) -> TokenPrompt:
    """The blocks of the system prompt, and two per turn: previous answer and question."""
    shared = [f"{system}.{block}" for block in range(_SYSTEM_PROMPT_BLOCKS[system])]
    own = [f"{system}/{conversation}.{block}" for block in range(2 * turn + 1)]
    block_ids = tuple(_block_id(name) for name in (*shared, *own))
    cut = rng.randrange(CONVERSATION_BLOCK_SIZE)
    length = len(block_ids) * CONVERSATION_BLOCK_SIZE - cut
    return TokenPrompt(block_ids, CONVERSATION_BLOCK_SIZE, length)


def _block_id(name: str) -> int:
    return int.from_bytes(name.encode(), "big")


def _text(rng: random.Random, tokens: int) -> str:
    length = tokens * _CHARACTERS_PER_TOKEN
    source = _source_text()
    start = rng.randrange(len(source) - length)
    return source[start : start + length]


@cache
def _source_text() -> str:
    """The text that prompts are cut from: to choose the words of each takes a tenth of a run."""
    return " ".join(random.Random(0).choices(_WORDS.split(), k=200_000))


_Count = Annotated[int, msgspec.Meta(ge=1)]


class _TraceLine(msgspec.Struct):
    """One line of a Mooncake trace (https://github.com/kvcache-ai/Mooncake)."""

    timestamp: Annotated[float, msgspec.Meta(ge=0)]  # milliseconds
    input_length: _Count
    output_length: _Count
    hash_ids: list[int]


def read_trace(path: Path, count: int | None, skip: int = 0) -> list[PlannedRequest]:
    """Return the first requests of a Mooncake trace, by time.

    Args:
        path: The file.
        count: How many lines to read; None: all.
        skip: How many of these lines to leave out, from the first on.

    Raises:
        CommandError: The file cannot be read or is not such a trace.
    """
    requests: list[PlannedRequest] = []
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(islice(lines, count), start=1):
                try:
                    requests.append(_planned(msgspec.json.decode(line, type=_TraceLine), number))
                except ValueError as error:
                    raise CommandError(f"{path}:{number}: {error}") from error
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error
    if not requests:
        raise CommandError(f"{path}: contains no request")
    return sorted(requests[skip:], key=lambda request: request.at)


def _planned(line: _TraceLine, number: int) -> PlannedRequest:
    blocks = -(-line.input_length // TRACE_BLOCK_SIZE)
    if len(line.hash_ids) != blocks:
        raise ValueError(
            f"input_length {line.input_length} needs {blocks} hash_ids of {TRACE_BLOCK_SIZE} "
            f"tokens each, but has {len(line.hash_ids)}"
        )
    return PlannedRequest(
        request_id=f"trace-{number}",
        at=line.timestamp / 1000,
        prompt=TokenPrompt(tuple(line.hash_ids), TRACE_BLOCK_SIZE, line.input_length),
        output_tokens=line.output_length,
    )


def at_speed(requests: Sequence[PlannedRequest], speed: float) -> list[PlannedRequest]:
    """Return the same requests, `speed` times as fast, the first at 0."""
    start = requests[0].at
    return [replace(request, at=(request.at - start) / speed) for request in requests]
