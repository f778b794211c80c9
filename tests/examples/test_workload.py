"""The workload of a demo."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

from demo.prompts import ChatPrompt, TokenPrompt
from demo.workload import (
    PlannedRequest,
    at_speed,
    bundled_workload,
    generate,
    trace_workload,
)


def test_deterministic() -> None:
    """The same seed gives the same requests, another seed different ones."""
    assert generate(60, seed=7) == generate(60, seed=7)
    assert generate(60, seed=7) != generate(60, seed=8)


def test_mixture() -> None:
    """There are all kinds of requests, in order of time, with unique ids."""
    requests = generate(300, seed=0)

    assert len(requests) == 300
    assert len({request.request_id for request in requests}) == 300
    assert [request.at for request in requests] == sorted(request.at for request in requests)
    kinds = Counter(
        (type(request.prompt), request.stream, request.leave_after_chunks is not None)
        for request in requests
    )
    assert set(kinds) == {
        (prompt, stream, leaves)
        for prompt in (ChatPrompt, TokenPrompt)
        for stream, leaves in ((True, False), (True, True), (False, False))
    }


def test_turns_share_their_prefix() -> None:
    """Each turn of a conversation starts with the complete previous turn."""
    conversations: dict[str, list[PlannedRequest]] = {}
    for request in generate(300, seed=0):
        conversation = request.request_id.partition("-turn-")[0]
        conversations.setdefault(conversation, []).append(request)

    longest = max(conversations.values(), key=len)
    assert len(longest) > 2
    for turns in conversations.values():
        for earlier, later in pairwise(turns):
            prefix, whole = earlier.prompt, later.prompt
            if isinstance(prefix, ChatPrompt) and isinstance(whole, ChatPrompt):
                assert whole.system == prefix.system
                assert whole.turns[: len(prefix.turns)] == prefix.turns
            else:
                assert isinstance(prefix, TokenPrompt)
                assert isinstance(whole, TokenPrompt)
                known = prefix.token_ids()
                assert whole.token_ids()[: len(known)] == known


def test_conversations_share_system_prompts() -> None:
    """Different conversations start alike, in either form of prompt."""
    requests = generate(300, seed=0)
    systems = Counter(
        request.prompt.system for request in requests if isinstance(request.prompt, ChatPrompt)
    )
    token_starts = Counter(
        tuple(request.prompt.token_ids()[:64])
        for request in requests
        if isinstance(request.prompt, TokenPrompt)
    )

    assert len(systems) == 3
    assert len(token_starts) == 3


def test_token_blocks() -> None:
    """Equal block ids give equal tokens, others different ones; the last block is cut."""
    first = TokenPrompt((1, 2), 512, 700).token_ids()
    second = TokenPrompt((1, 3), 512, 1024).token_ids()

    assert (len(first), len(second)) == (700, 1024)
    assert first[:512] == second[:512]
    assert first[512:] != second[512:700]
    blocks = [TokenPrompt((block_id,), 512, 512).token_ids() for block_id in range(100)]
    assert all(one != other for one, other in combinations(blocks, 2))


def test_trace(tmp_path: Path) -> None:
    """A Mooncake trace is read in milliseconds, and shifted to start at 0."""
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"timestamp": 9000, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}\n'
        '{"timestamp": 12000, "input_length": 512, "output_length": 6, "hash_ids": [0]}\n'
        '{"timestamp": 99000, "input_length": 1, "output_length": 7, "hash_ids": [2]}\n'
    )

    workload = trace_workload(trace, 2, speed=2.0)

    assert list(workload.requests) == [
        PlannedRequest("trace-1", 0.0, TokenPrompt((0, 1), 512, 700), 5),
        PlannedRequest("trace-2", 1.5, TokenPrompt((0,), 512, 512), 6),
    ]
    assert (workload.speed, workload.block_size, workload.with_outage) == (2.0, 512, False)


def test_default_speed_of_a_trace(tmp_path: Path) -> None:
    """By default a trace is sped up to 15 requests per second, and never slowed down."""
    line = '{{"timestamp": {}, "input_length": 1, "output_length": 1, "hash_ids": [0]}}\n'
    slow, fast = tmp_path / "slow.jsonl", tmp_path / "fast.jsonl"
    slow.write_text("".join(line.format(number * 1000) for number in range(31)))
    fast.write_text("".join(line.format(number) for number in range(31)))

    assert trace_workload(slow, 31, speed=None).duration == 31 / 15
    assert trace_workload(fast, 31, speed=None).speed == 1.0


def test_speed() -> None:
    """Speed shortens the time between requests."""
    requests = generate(30, seed=0)
    twice = bundled_workload(30, seed=0, speed=2.0)

    assert list(twice.requests) == at_speed(requests, 2.0)
    assert twice.requests[-1].at == (requests[-1].at - requests[0].at) / 2
