"""The role of a router's call, found in its body."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from otel_lifecycle.instrumentation.http.requests.marks import NO_MARK, Mark, read_mark, telling

IMAGE = {"type": "image_url", "image_url": {"url": 'data:"text"'}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA"}}


def asked(*parts: Any) -> dict[str, Any]:
    """A request for one token with these parts."""
    return {"max_tokens": 1, "messages": [{"role": "user", "content": list(parts)}]}


MARKED: list[tuple[dict[str, Any], str]] = [
    ({"kv_transfer_params": {"do_remote_decode": True}}, "prefill"),
    ({"kv_transfer_params": {}, "max_tokens": 1}, "prefill"),
    ({"kv_transfer_params": {}, "max_completion_tokens": 1}, "prefill"),
    ({"kv_transfer_params": {"do_remote_prefill": True}, "max_tokens": 1}, "decode"),
    ({"kv_transfer_params": {"do_remote_decode": False}, "max_tokens": 8}, ""),
    ({"kv_transfer_params": {"do_remote_decode": "yes"}}, ""),
    ({"kv_transfer_params": [1], "max_tokens": 1}, ""),
    ({"kv_transfer_params": None, "max_tokens": 1}, ""),
    ({"with_cache": True, "max_tokens": 1}, "prefill"),
    ({"with_cache": False, "max_tokens": 1}, ""),
    ({"migration_request": {"remote_block_ids": list(range(100))}}, "decode"),
    ({"migration_request": None}, ""),
    ({"disaggregate_info": {"role": "decode"}}, "pair"),
    ({"bootstrap_host": "a", "bootstrap_room": 0}, "pair"),
    ({"bootstrap_host": ["a", "b"], "bootstrap_room": [1, 2]}, "pair"),
    ({"bootstrap_host": None, "bootstrap_room": None}, ""),
    ({"disaggregated_params": {"request_type": "context_only"}}, "prefill"),
    ({"disaggregated_params": {"request_type": "generation_only"}}, "decode"),
    ({"disaggregated_params": {"request_type": "context_and_generation"}}, ""),
    ({"disaggregated_params": {"request_type": {}}}, ""),
]
ENCODED: list[tuple[dict[str, Any], str]] = [
    (asked(IMAGE), "encode"),
    (asked(AUDIO, IMAGE), "encode"),
    ({**asked(IMAGE), "max_tokens": 8}, ""),
    (asked(IMAGE, {"type": "text", "text": "w"}), ""),
    ({"max_tokens": 1, "messages": [{"content": 'an "image_url"'}]}, ""),
    ({**asked(IMAGE), "messages": [{"content": "w"}, {"content": [IMAGE]}]}, ""),
    ({"max_tokens": 1, "messages": 5}, ""),
]


@pytest.mark.parametrize(("body", "leg"), MARKED + ENCODED)
def test_json(body: dict[str, Any], leg: str) -> None:
    """A mark is read at any place of a body, encoded or not, of any size."""
    model = {"model": "m"}
    expected = Mark(leg, 1 in (body.get("max_tokens"), body.get("max_completion_tokens")), "m")
    padded = {"pad": ["w" * 100] * 20_000}

    assert read_mark(json.dumps({**model, **body}).encode()) == expected
    assert read_mark(json.dumps({**body, **model}, separators=(",", ":")).encode()) == expected
    assert read_mark(json.dumps({**padded, **body, **model}).encode()) == expected
    assert read_mark(msgspec.json.encode(telling({**model, **body}))) == expected


@pytest.mark.parametrize(("body", "leg"), MARKED)
def test_message_pack(body: dict[str, Any], leg: str) -> None:
    """Marks are read in MessagePack too."""
    whole = {**body, "model": "m", **dict.fromkeys(map(str, range(20)))}

    for packed in (msgspec.msgpack.encode({**body, "model": "m"}), msgspec.msgpack.encode(whole)):
        assert (read_mark(packed).leg, read_mark(packed).model) == (leg, "m")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m","max_tokens":1.0}', Mark("", True, "m")),
        (b'{"model":"m","max_tokens":"1"}', Mark("", False, "m")),
        (b'{"model":["m"],"max_completion_tokens":1}', Mark("", True, "")),
        (b'{"model":null,"max_tokens":null,"with_cache":null}', NO_MARK),
        (b'{"model":5,"with_cache":true}', Mark("prefill", False, "")),
    ],
    ids=["float", "text", "list", "null", "number"],
)
def test_other_types(body: bytes, expected: Mark) -> None:
    """What a body has of another type than it should is unknown, and the rest is read."""
    assert read_mark(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b'{"kv_transfer_params":{"do_remote_decode":true}',
        b'{"model":"\xff"}',
        b"\xff" * 9,
        b"\x81\xa5model",
        b"prompt=w",
        b"[" * 10_000,
        b'{"kv_transfer_params":' + b"[" * 10_000,
    ],
    ids=lambda body: str(len(body)),
)
def test_unreadable(body: bytes) -> None:
    """An unreadable body has no mark."""
    assert read_mark(body) == NO_MARK


def test_objects_of_other_kinds() -> None:
    """Only the needed arguments of a client library are examined."""
    assert telling({1: 2, "model": "m", "prompt": object()}) == {"model": "m"}
    odd = {"max_tokens": 1, "messages": [None, {"content": [1, {"type": 2}]}]}
    assert telling(odd)["messages"] == ["text", "text", "text"]
