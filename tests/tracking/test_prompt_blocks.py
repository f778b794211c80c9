"""The blocks of prompts: which prompts share a beginning, and nothing else about them."""

from __future__ import annotations

import json
import os
import stat
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b, sha256
from pathlib import Path
from threading import Barrier
from typing import Any

import msgspec
import pytest

from otel_lifecycle import ConfigError, RequestLifecycleTracker, RequestStart, TrackerConfig
from otel_lifecycle.config import PromptConfig
from otel_lifecycle.model import PromptBlocks
from otel_lifecycle.model.request import BlockUnit, TokenIds
from otel_lifecycle.tracking.prompts import kept_key
from tests.conftest import Bench
from tests.routes import start

KEY = "a secret of these tests"
SECRET = "the patient's name is Hieronymus Bock. "
TEXT = SECRET * 10


@pytest.fixture
def make(make_bench: Callable[..., Bench]) -> Callable[..., Bench]:
    """Make a bench that hashes blocks of 16 tokens."""

    def make(key: str = KEY, **settings: Any) -> Bench:
        return make_bench(prompt=PromptConfig(**{"blocks": 16, "key": key, **settings}))

    return make


def asking(prompt: Any) -> RequestStart:
    """A request with a prompt."""
    return msgspec.structs.replace(start(), prompt=prompt)


def blocks(bench: Bench, prompt: Any) -> Any:
    """The blocks of a request that has completed, as its line in the file has them."""
    bench.tracker.track(asking(prompt)).complete()
    assert bench.tracker.flush(timeout=30)
    return json.loads(bench.path.read_bytes().splitlines()[-1]).get("promptBlocks")


def hashes(bench: Bench, prompt: Any) -> list[int]:
    """Only their hashes."""
    return blocks(bench, prompt)["hashes"]


def test_nothing_unless_asked(bench: Bench, tmp_path: Path) -> None:
    """By default neither record nor span has anything of a prompt, and no key is made."""
    assert blocks(bench, TEXT) is None
    (record,) = bench.records
    assert record.prompt_blocks is msgspec.UNSET
    assert os.listdir(tmp_path) == [bench.path.name]
    assert bench.tracker.store.ignored == {}


def test_what_prompts_share(make: Callable[..., Bench]) -> None:
    """Blocks are equal as far as prompts are; from the first difference on all differ."""
    bench = make()
    ids = list(range(100))

    first = blocks(bench, ids)

    assert (first["unit"], first["blockSize"]) == ("token", 16)
    assert len(set(first["hashes"])) == 7  # the last block has four tokens
    assert all(0 <= one < 2**53 for one in first["hashes"])
    assert hashes(bench, ids[:96]) == first["hashes"][:6]
    assert hashes(bench, ids[:98])[:6] == first["hashes"][:6]
    assert hashes(bench, ids[:98])[6] != first["hashes"][6]
    other = hashes(bench, [*ids[:20], 7, *ids[21:]])
    assert other[0] == first["hashes"][0]
    assert set(other[1:]).isdisjoint(first["hashes"])


@pytest.mark.parametrize("given", [tuple, lambda ids: array("I", ids), range, TokenIds])
def test_forms_of_token_ids(make: Callable[..., Bench], given: Callable[[Any], Any]) -> None:
    """The same ids have the same hashes, whatever they come in."""
    bench, ids = make(), list(range(50))
    prompt = (
        range(50)
        if given is range
        else TokenIds(json.dumps(ids, indent=1).encode())
        if given is TokenIds
        else given(ids)
    )

    assert blocks(bench, prompt) == blocks(bench, ids)


def test_text(make: Callable[..., Bench]) -> None:
    """Of a text a token counts as four bytes; text and bytes are the same."""
    bench = make()

    found = blocks(bench, "ä" * 40)

    assert (found["unit"], found["blockSize"], len(found["hashes"])) == ("byte", 64, 2)
    assert blocks(bench, ("ä" * 40).encode()) == found
    assert blocks(bench, "\ud800") is not None
    assert blocks(bench, "") == {"unit": "byte", "blockSize": 64, "hashes": []}


def test_bounds(make: Callable[..., Bench]) -> None:
    """Of a long prompt only the first blocks are hashed."""
    bench = make(max_blocks=3)

    for prompt in (TEXT * 1000, list(range(1000)), TokenIds(str(list(range(1000))).encode())):
        assert len(hashes(bench, prompt)) == 3
    assert hashes(bench, TEXT) == hashes(bench, TEXT[:192])
    own = PromptBlocks(BlockUnit.TOKEN, 64, tuple(range(1000)))
    assert len(hashes(bench, own)) == 3


def test_hashes_of_the_router(make: Callable[..., Bench]) -> None:
    """They keep their size and unit, and are hashed again: those of others may be no secret."""
    bench = make()
    own = PromptBlocks(BlockUnit.TOKEN, 64, (2**64 - 1, 7, 9))

    found = blocks(bench, own)

    assert (found["unit"], found["blockSize"]) == ("token", 64)
    assert set(found["hashes"]).isdisjoint(own.hashes)
    again = msgspec.structs.replace(own, hashes=(2**64 - 1, 7, 10))
    assert hashes(bench, again)[:2] == found["hashes"][:2]
    assert hashes(bench, again)[2] != found["hashes"][2]


@pytest.mark.parametrize(
    "prompt",
    [3, 1.5, object(), [1, "2"], [-1], [2**64], ["text"], PromptBlocks(BlockUnit.BYTE, 0, (1,))],
)
def test_unusable_prompts(make: Callable[..., Bench], prompt: Any) -> None:
    """They cost the request its blocks, not its record, and are counted."""
    bench = make()

    assert blocks(bench, prompt) is None
    assert len(bench.records) == 1
    assert bench.tracker.store.ignored == {"invalid_value": 1}


def test_the_router_may_change_its_list(make: Callable[..., Bench]) -> None:
    """Blocks are those of the dispatch."""
    bench, ids = make(), list(range(40))
    expected = hashes(bench, ids)

    tracked = bench.tracker.track(asking(ids))
    ids[:] = [0] * 40
    tracked.complete()

    record = bench.records[-1]
    assert record.prompt_blocks is not msgspec.UNSET
    assert list(record.prompt_blocks.hashes) == expected


def test_a_reroute_keeps_them(make: Callable[..., Bench]) -> None:
    """They are of the request, wherever it goes."""
    bench = make()
    request = asking(TEXT)
    tracked = bench.tracker.track(request)
    assert request.route is not None
    tracked.reroute(request.route, reason="connect_error")
    tracked.complete()

    (record,) = bench.records
    assert record.prompt_blocks is not msgspec.UNSET


def guesses(prompt: str) -> Iterator[int]:
    """What somebody without the key may compute of a guessed prompt."""
    piece = prompt.encode()[:64]
    for digest in (
        blake2b(piece, digest_size=16),
        blake2b(b"byte" + piece, digest_size=16),
        sha256(piece),
    ):
        yield int.from_bytes(digest.digest()[:8], "big") >> 11


def test_nobody_can_guess(make: Callable[..., Bench]) -> None:
    """Without the key a guessed prompt has other hashes, under another key it has others again."""
    bench = make()

    found = hashes(bench, TEXT)

    assert set(found).isdisjoint(guesses(TEXT))
    assert set(found).isdisjoint(hashes(make("a secret of these tests."), TEXT))
    assert found == hashes(make(KEY), TEXT)


def test_no_prompt_remains(make: Callable[..., Bench], tmp_path: Path) -> None:
    """Neither prompt nor key is in files, spans, metrics, settings or messages."""
    bench = make()
    blocks(bench, TEXT)

    (span,) = bench.telemetry.spans
    everywhere = [
        *(path.read_text() for path in tmp_path.iterdir()),
        span.to_json(),
        repr(bench.telemetry.metrics()),
        repr(bench.tracker.config),
        str(bench.tracker.config.prompt),
    ]
    assert not any(secret in text for secret in (SECRET, KEY) for text in everywhere)
    assert not any("prompt" in name for name in span.attributes or ())


def test_kept_key(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    """Without a key of the user, one is kept beside the record file, for all processes there."""
    settings = PromptConfig(blocks=16)
    found = {str(hashes(make_bench(prompt=settings), TEXT)) for _ in range(2)}

    assert len(found) == 1
    path = tmp_path / "prompt.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = path.read_text().strip()
    assert found == {str(hashes(make_bench(prompt=PromptConfig(blocks=16, key=key)), TEXT))}
    path.unlink()
    assert found != {str(hashes(make_bench(prompt=settings), TEXT))}


def test_workers_agree(tmp_path: Path) -> None:
    """Of workers that start at once, one makes the key and all have it."""
    path, barrier = tmp_path / "prompt.key", Barrier(8)

    def begin(_: int) -> str:
        barrier.wait(30)
        return kept_key(path)

    with ThreadPoolExecutor(8) as workers:
        keys = set(workers.map(begin, range(8)))

    assert keys == {path.read_text().strip()}
    assert os.listdir(tmp_path) == ["prompt.key"]


def _open(path: Path) -> None:
    path.write_text("0" * 64)
    path.chmod(0o640)


def _empty(path: Path) -> None:
    path.touch(0o600)


@pytest.mark.parametrize("spoil", [_open, _empty, Path.mkdir])
def test_unusable_key_files(
    make_bench: Callable[..., Bench], tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    """A key that others can read, or that is none, is refused with the path of its file."""
    path = tmp_path / "prompt.key"
    spoil(path)

    with pytest.raises(ConfigError, match=f"^prompt.key: .*{path}"):
        make_bench(prompt=PromptConfig(blocks=16))


def test_no_place_for_a_key() -> None:
    """Blocks need a key of the user, or a record file."""
    with pytest.raises(ConfigError, match=r"prompt\.blocks needs prompt\.key"):
        RequestLifecycleTracker(TrackerConfig(prompt=PromptConfig(blocks=16)))


@pytest.mark.parametrize("key", ["short and secret"[:15], 1234567890123456789, None])
def test_unusable_keys(key: Any) -> None:
    """The error says what is allowed, and never shows the value."""
    with pytest.raises(ConfigError, match=r"key must be text of at least 16 characters") as raised:
        PromptConfig(key=key)

    assert str(key) not in str(raised.value)
