"""The blocks of prompts that come in over HTTP."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.instrumentation.generic_routers import HttpxUpstream, make_router
from tests.instrumentation.test_generic import Observed

CHAT = "/v1/chat/completions"
TURN = {"role": "user", "content": "Who was Hieronymus Bock? " * 10}
TURNS = [TURN, {"role": "assistant", "content": "A botanist. " * 10}, TURN]


def test_prompts_over_http(tmp_path: Path) -> None:
    """Turns of a chat share the blocks before the new one, and token ids are counted as tokens."""
    observed = Observed(tmp_path / "records.jsonl", prompt_blocks=16)
    try:
        engine = observed.add_engine("engine")
        observed.serve(make_router(HttpxUpstream([engine.url])))
        for fields in (
            {"path": CHAT, "messages": TURNS[:1], "prompt": None},
            {"path": CHAT, "messages": TURNS, "prompt": None},
            {"path": CHAT, "messages": TURNS[:1], "prompt": None, "tools": [{}]},
            {"prompt": list(range(40))},
            {"prompt": ["two", "prompts"]},
        ):
            observed.post(**fields)  # type: ignore[arg-type]
        records = observed.records(5)
    finally:
        observed.stop()

    found = [record.prompt_blocks for record in records]
    assert found.pop() is msgspec.UNSET  # several prompts
    first, second, third, ids = [blocks for blocks in found if blocks is not msgspec.UNSET]
    assert (first.unit.value, first.block_size) == ("byte", 64)
    assert second.hashes[:4] == first.hashes[:4]
    assert len(second.hashes) > len(first.hashes) == 5
    assert set(third.hashes).isdisjoint(first.hashes)
    assert (ids.unit.value, ids.block_size, len(ids.hashes)) == ("token", 16, 3)
    assert "Bock" not in (tmp_path / "records.jsonl").read_text("utf-8")


def test_prompts_without_an_engine(tmp_path: Path) -> None:
    """A request that reaches no engine has its blocks too."""
    observed = Observed(tmp_path / "records.jsonl", prompt_blocks=16)
    try:
        observed.serve(make_router(HttpxUpstream([])))
        observed.post()
        (record,) = observed.records()
    finally:
        observed.stop()

    assert record.prompt_blocks is not msgspec.UNSET
    assert len(record.prompt_blocks.hashes) == 2
