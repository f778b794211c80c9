"""Reading OpenAI-style requests and responses as they pass."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_lifecycle.instrumentation.http.answers import AnswerReader
from otel_lifecycle.instrumentation.http.requests.inference_request import InferenceRequest
from tests.instrumentation.http.dialects import (
    ANTHROPIC,
    CHUNK,
    ERRORS_AS_BODY,
    ERRORS_IN_A_STREAM,
    NO_ERRORS_IN_A_STREAM,
    OLLAMA_STREAM,
    RESPONSES,
    STREAMS,
    TOKEN,
    WHOLE,
    Said,
    chat,
    generated,
    lines,
    sse,
)
from tests.instrumentation.http.dialects import (
    USAGE as COUNTS,
)

CASES = json.loads(Path(__file__).with_name("engine_answers.json").read_text("utf-8"))


@pytest.fixture(autouse=True, scope="module")
def nothing_raises() -> Iterator[None]:
    """Fail a test in which the reader gives up, which a router would not notice."""

    def give_up(_: AnswerReader) -> None:
        raise AssertionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnswerReader, "give_up", give_up)
        yield


DATA = b'data: {"choices":[{"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
USAGE = (
    b'"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":3}}'
)


TOLD = ("is_stream", "ended", "failed", "input_tokens", "output_tokens", "cached_tokens")


def read(*chunks: bytes) -> dict[str, Any]:
    """Return the result after these chunks."""
    reader = AnswerReader()
    for chunk in chunks:
        reader.feed(chunk)
    reader.finish()
    return {name: getattr(reader, name) for name in TOLD}


def answer(
    *, is_stream: bool, ended: bool, usage: tuple[Any, Any, Any] = (None, None, None)
) -> Any:
    """The expected result."""
    found = dict(zip(TOLD[3:], usage, strict=True))
    return {"is_stream": is_stream, "ended": ended, "failed": False, **found}


@pytest.mark.parametrize(
    ("length", "chunks", "truncated"),
    [
        (None, [DATA % b"hello"], True),
        (None, [DATA % b"hello", DONE], False),
        (None, [b'{"choices":[{"text":"}"}]}'], False),
        (None, [b'{"choices":', b'[{"text":"}"}]}'], False),
        (None, [b' \n{"choices":[{"text":"hel'], True),
        (None, [b'{"choices":[{"text":"}"}]'], True),
        (None, [b'{"choices":[],}'], True),
        (None, [b"an answer"], False),
        (None, [b'{"a":' * 100_000], False),
        (None, [b'{"text":"', b"x" * (2 << 20)], True),
        (None, [], True),
        ("9", [b"an answer"], False),
        ("10", [b"an answer"], True),
        ("0", [], True),
        ("ten", [b"an answer"], False),
    ],
)
def test_truncated(length: str | None, chunks: list[bytes], truncated: bool) -> None:
    """An answer is truncated only if that is certain, not if it is merely odd."""
    reader = AnswerReader()
    reader.begin(200, {} if length is None else {"content-length": length})
    for chunk in chunks:
        reader.feed(chunk)
    reader.finish()

    assert reader.is_truncated is truncated


@pytest.mark.parametrize(
    ("chunks", "ended"),
    [
        ([DATA % b"hello"], False),
        ([DATA % b"hello", DONE], True),
        ([DONE], True),
        ([DATA % b"hello" + DONE], True),
        ([b"data:[DONE]\n\n"], True),
        ([b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'], True),
        ([b'event: message_stop\ndata: {"type": "message_stop"}\n\n'], True),
        ([b'data: {"type":"response.completed"}\n\n'], True),
        ([b'data: {"type":"response.incomplete"}\n\n'], True),
        ([b'data: {"type":"response.created"}\n\n'], False),
        ([DATA % b"it ends with data: [DONE]"], False),
        ([DATA % b"message_stop"], False),
        ([DATA % rb"{\"type\":\"message_stop\"}"], False),
        ([b": keep-alive\n\n", DONE], True),
        ([b"\n", DATA % b"hello", DONE], True),
        ([b"\n" * 100, DATA % b"hello", DONE], True),
        ([b"", DONE], True),
        ([b"retry: 500\n\n", DATA % b"hello", DONE], True),
        ([b"id: 1\n", DATA % b"hello"], False),
    ],
)
def test_end_of_a_stream(chunks: list[bytes], ended: bool) -> None:
    """A stream ends with its terminator, however it is split, not with text that mentions it."""
    whole = b"".join(chunks)
    expected = answer(is_stream=True, ended=ended)

    assert read(*chunks) == expected
    assert read(*(bytes([byte]) for byte in whole)) == expected


@pytest.mark.parametrize(
    ("event", "failed"),
    [
        (b'data: {"error": {"message": "out of memory", "code": 500}}\n\n', True),
        (b'data:{"error":"gone"}\n\n', True),
        (b'data: {"error": null, "choices": []}\n\n', False),
        (DATA % rb"data: {\"error\": {\"message\": \"so it looks\"}}", False),
    ],
)
def test_error_in_a_stream(event: bytes, failed: bool) -> None:
    """An engine may send an error in the stream and then end the stream normally."""
    chunks = [DATA % b"hello", event, DONE]
    expected = {**answer(is_stream=True, ended=True), "failed": failed}

    assert read(*chunks) == expected
    assert read(*(bytes([byte]) for byte in b"".join(chunks))) == expected


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("size", [1, 7, 64, 1_000, 1 << 20])
def test_usage(stream: bool, size: int) -> None:
    """The usage is found wherever the chunks are split."""
    body = (
        DATA % b"hello" * 200 + b'data: {"usage":null}\n\ndata: {' + USAGE + b"}\n\n" + DONE
        if stream
        else b'{"choices":"' + b"x" * 70_000 + b'",' + USAGE + b"}"
    )
    chunks = [body[start : start + size] for start in range(0, len(body), size)]

    assert read(*chunks) == answer(is_stream=stream, ended=stream, usage=(5, 7, 3))


def test_last_usage_counts() -> None:
    """If the usage grows, the last one counts."""
    chunks = [
        b'data: {"usage":{"prompt_tokens":5,"completion_tokens":%d}}\n\n' % number
        for number in range(1, 100)
    ]

    assert read(*chunks) == answer(is_stream=True, ended=False, usage=(5, 99, None))


@pytest.mark.parametrize("usage", [b'"usage":{', b'"usage":{"a":"' + b"x" * 10_000, b'"usage":{]}'])
def test_broken_usage(usage: bytes) -> None:
    """Invalid usage is unknown."""
    assert read(DATA % b"hello", usage, DONE, DONE) == answer(is_stream=True, ended=True)


def said(reader: AnswerReader) -> dict[str, Any]:
    """Return the complete result."""
    names = (*TOLD, "has_output", "finish_reason", "is_truncated")
    return {name: getattr(reader, name) for name in names}


def read_all(
    chunks: Iterable[bytes], headers: dict[str, str] | None = None, status: int = 200, **asked: int
) -> dict[str, Any]:
    """Return the result of reading a complete answer."""
    reader = AnswerReader()
    reader.begin(status, headers or {})
    for chunk in chunks:
        reader.feed(chunk)
    reader.finish(**asked)
    return said(reader)


def cut(content: bytes, places: Iterable[int]) -> list[bytes]:
    """Split the content into pieces."""
    bounds = [0, *sorted(places), len(content)]
    return [content[start:end] for start, end in itertools.pairwise(bounds)]


def expected(answer: Said) -> dict[str, Any]:
    """The expected result for a complete answer."""
    usage = dict(zip(TOLD[3:], answer.usage, strict=True))
    return {
        "is_stream": answer.is_stream,
        "ended": answer.ended,
        "failed": False,
        "has_output": answer.has_output,
        "finish_reason": answer.reason,
        "is_truncated": False,
        **usage,
    }


@pytest.mark.parametrize("answer", [*STREAMS, *WHOLE], ids=lambda answer: answer.name)
def test_dialects(answer: Said) -> None:
    """Usage, end, finish reason and output are read in every dialect, however it is split."""
    assert read_all([answer.body], answer.headers) == expected(answer)
    step = 1 if len(answer.body) < 20_000 else 997
    pieces = cut(answer.body, range(step, len(answer.body), step))
    assert read_all(pieces, answer.headers) == expected(answer)


@pytest.mark.parametrize("answer", STREAMS, ids=lambda answer: answer.name)
def test_streams_cut_anywhere(answer: Said) -> None:
    """A truncated stream gives the same result in one piece and in two, and is not complete."""
    for end in range(len(answer.body)):
        start = answer.body[:end]
        in_one = read_all([start], answer.headers)
        assert read_all(cut(start, [end // 2]), answer.headers) == in_one
        if answer.ended and in_one["is_stream"]:
            assert in_one["is_truncated"] is not in_one["ended"]


@pytest.mark.parametrize("answer", WHOLE, ids=lambda answer: answer.name)
def test_bodies_cut_anywhere(answer: Said) -> None:
    """An answer without its end is truncated, and only that."""
    content = answer.body.rstrip()
    step = 1 if len(content) < 5_000 else len(content) // 100
    for end in range(1, len(content), step):
        assert read_all([content[:end]])["is_truncated"], end


@given(
    answer=st.sampled_from([answer for answer in (*STREAMS, *WHOLE) if len(answer.body) < 1 << 20]),
    data=st.data(),
)
def test_any_chunks(answer: Said, data: st.DataObject) -> None:
    """The result does not depend on where the chunks are split."""
    places = data.draw(st.lists(st.integers(0, len(answer.body)), max_size=8))

    assert read_all(cut(answer.body, places), answer.headers) == expected(answer)


pieces_of_streams = st.lists(
    st.sampled_from(
        [
            *(sse(chat({"content": text})) for text in ("a", "b", 'c"', "d\\", "\\n", "")),
            *(sse(chat({"content": text}, index=1)) for text in ("a", "b")),
            sse(chat({}, "stop")),
            sse(chat({}, "stop", index=1)),
            sse(chat({}, "abort")),
            sse({**CHUNK, "choices": [], "usage": COUNTS}),
            *ERRORS_IN_A_STREAM.values(),
            DONE,
            b": comment\n\n",
            b"data: x\r\n\r\n",
            b"\xff\x00\n",
            b"data",
            b"\r",
            b"\n",
        ]
    ),
    max_size=12,
)


@given(pieces=pieces_of_streams, places=st.lists(st.integers(0, 2_000), max_size=6))
def test_any_stream_in_any_chunks(pieces: list[bytes], places: list[int]) -> None:
    """Events give the same result in any chunks, in one chunk, and byte by byte."""
    content = b": begin\n\n" + b"".join(pieces)
    in_one = read_all([content])

    assert read_all([b": begin\n\n", *pieces]) == in_one
    assert read_all(bytes([byte]) for byte in content) == in_one
    assert read_all(cut(content, (min(place, len(content)) for place in places))) == in_one


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_any_bytes(chunks: list[bytes]) -> None:
    """Nothing raises, and the result does not depend on the chunks."""
    for start in (b"", b"data: ", b"{", b'[{"', b'{"done":false}\n'):
        assert read_all([start, *chunks]) == read_all([start + b"".join(chunks)])


@pytest.mark.parametrize("event", ERRORS_IN_A_STREAM.values(), ids=ERRORS_IN_A_STREAM)
@pytest.mark.parametrize("before", [0, 1, 5])
def test_errors_in_a_stream(before: int, event: bytes) -> None:
    """An engine's error is found at any place and in any shape, whatever follows it."""
    chunks = [sse(chat({"content": "a" * number})) for number in range(before)]
    chunks += [event, sse(chat({}, "stop")), DONE]
    content = b": begin\n\n" + b"".join(chunks)

    assert read_all([b": begin\n\n", *chunks])["failed"]
    assert read_all(bytes([byte]) for byte in content)["failed"]


def test_abort_of_sglang() -> None:
    """SGLang reports an aborted request in its usage."""
    aborted = generated("", 0, {"type": "abort", "message": "x", "status_code": 500})

    assert read_all([sse(generated("a", 1)), sse(aborted), DONE])["failed"]


@pytest.mark.parametrize("event", NO_ERRORS_IN_A_STREAM.values(), ids=NO_ERRORS_IN_A_STREAM)
def test_no_errors_in_a_stream(event: bytes) -> None:
    """Text that only looks like an error is not one."""
    chunks = [sse(chat({"content": "a"})), event, sse(chat({}, "stop")), DONE]

    found = read_all(chunks)
    assert (found["failed"], found["ended"], found["is_truncated"]) == (False, True, False)


@pytest.mark.parametrize("value", ERRORS_AS_BODY.values(), ids=ERRORS_AS_BODY)
def test_errors_under_a_good_status(value: Any) -> None:
    """A body may be an error, or contain one."""
    found = read_all([json.dumps(value).encode()])

    assert (found["failed"], found["is_truncated"]) == (True, False)


@pytest.mark.parametrize(
    "content",
    [
        b'{"choices":[{"text":"hel{"error":{"message":"gone"}}',
        b'{"choices":[{"text":"hel"}]}{"choices":[{"text":"lo"}]}',
        b'{"choices":[{"text":"hel"}]}\n{"choices":[{"text":"lo"}]}',
        b'{"choices":[{"text":"hel' + b'{"choices":[{"text":"hello"}]}',
        b'{"choices":[{"text":"hel"}]}\nInternal Server Error',
        b'{"choices":[{"text":"hel"}],"usage":{"prompt_tokens":9,',
        b'{"a":"' + b"x" * (2 << 20) + b'"}{"error":5}',
        b'[{"generated_text":"a"}',
        b"{" + b'"a":{' * 50,
    ],
)
def test_not_whole(content: bytes) -> None:
    """JSON that is glued together or cut off is a truncated answer."""
    assert read_all([content])["is_truncated"]


@pytest.mark.parametrize(
    ("status", "headers", "content", "truncated"),
    [
        (200, {"content-length": "10"}, b"an answer", True),
        (200, {"content-length": "9"}, b"an answer", False),
        (200, {"content-length": "8"}, b"an answer", False),
        (200, {"content-length": "9" * 5_000}, b"an answer", False),
        (200, {"content-length": "\u0669"}, b"{}", False),
        (200, {"content-length": "-5"}, b"{}", False),
        (200, {"content-encoding": "gzip", "content-length": "6"}, b"\x1f\x8b", True),
        (200, {"content-encoding": "gzip"}, b'{"choices":', False),
        (200, {"content-encoding": "identity"}, b'{"choices":', True),
        (200, {"content-type": "text/plain"}, b"an answer", False),
        (200, {}, b"\x00", False),
        (200, {}, b"da", False),
        (200, {}, b" \r\n", True),
        (200, {}, b"\xef\xbb\xbf", True),
        (204, {}, b"", False),
        (304, {}, b"", False),
        (200, {}, b"", True),
        (422, {}, b'{"detail":', False),
    ],
)
def test_known_to_be_cut(
    status: int, headers: dict[str, str], content: bytes, truncated: bool
) -> None:
    """Only an answer that is certainly truncated counts as such; an unreadable one is unknown."""
    found = read_all([content], headers, status)

    assert found["is_truncated"] is truncated
    assert {name: found[name] for name in TOLD[3:]} == dict.fromkeys(TOLD[3:])


def test_byte_order_mark() -> None:
    """A byte order mark before a stream or a body is ignored."""
    for answer in (STREAMS[0], WHOLE[0]):
        marked = b"\xef\xbb\xbf" + answer.body
        assert read_all([marked]) == expected(answer)
        assert read_all(bytes([byte]) for byte in marked) == expected(answer)


@pytest.mark.parametrize(
    ("events", "asked", "ended"),
    [
        ([chat({"content": "a"}), chat({}, "stop")], 1, True),
        ([chat({"content": "a"}), chat({}, "stop")], 2, False),
        ([chat({}, "stop"), chat({}, "stop", index=1)], 2, True),
        ([chat({}, "stop", index=1), chat({}, "stop", index=1)], 2, False),
        ([chat({}, "stop"), chat({"content": "a"}, index=1)], 1, False),
        ([chat({}, "stop"), chat({"content": "a"})], 1, True),
        ([chat({"content": "a"}, "")], 1, False),
    ],
)
def test_each_choice_has_its_end(events: list[Any], asked: int, ended: bool) -> None:
    """A stream ends when every choice has ended, and there are as many as requested."""
    assert read_all([sse(*events)], choices=asked)["ended"] is ended
    assert read_all([sse(*events), DONE], choices=asked)["ended"]


@pytest.mark.parametrize(
    ("usages", "found"),
    [
        ([{"prompt_tokens": 0, "completion_tokens": 0}], (None, None, None)),
        ([COUNTS, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}], (9, 3, 4)),
        ([{"prompt_tokens": 0, "completion_tokens": 3}], (None, 3, None)),
        ([{"prompt_tokens": 9, "completion_tokens": 0}], (9, None, None)),
        ([{"prompt_tokens": -1, "completion_tokens": True}], (None, None, None)),
        ([{"prompt_tokens": 10**400, "completion_tokens": 3.5}], (None, None, None)),
        ([{"prompt_tokens": "9", "completion_tokens": [3]}], (None, None, None)),
        ([{"prompt_tokens": 9, "prompt_tokens_details": "none"}], (9, None, None)),
        ([{"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0}}], (9, None, 0)),
        ([[], "x", 5, None], (None, None, None)),
        ([{}], (None, None, None)),
    ],
)
def test_counts_that_are_none(usages: list[Any], found: tuple[Any, Any, Any]) -> None:
    """The zeros of a translator, and invalid counts, are unknown."""
    events = [chat({"content": "a"}), *({**CHUNK, "choices": [], "usage": u} for u in usages)]
    told = read_all([sse(*events), sse(chat({}, "stop"))])

    assert tuple(told[name] for name in TOLD[3:]) == found


def test_prompts_of_several_samples() -> None:
    """The prompt of several samples is counted once."""
    pieces = [generated("a", 1, {"type": "stop"}) for _ in range(4)]
    content = [json.dumps(pieces).encode()]

    assert read_all(content, choices=4, samples=2)["input_tokens"] == 18
    assert read_all(content, choices=4, samples=4)["input_tokens"] == 9
    assert read_all(content, choices=4, samples=3)["input_tokens"] is None


@pytest.mark.parametrize(
    "chunks",
    [
        [b": keep-alive\n\n"],
        [b"event: ping\ndata: {}\n\n"],
        [sse(chat({"role": "assistant", "content": ""}))],
        [sse(chat({"role": "assistant", "content": None, "tool_calls": []}))],
        [sse({**CHUNK, "choices": [], "prompt_filter_results": [{}]})],
        [sse({**CHUNK, "choices": [], "usage": COUNTS})],
        [sse(chat({}, "stop"))],
        [sse(*ANTHROPIC[:3], name="type")],
        [sse(*RESPONSES[:2], name="type")],
        [lines(OLLAMA_STREAM[0])],
        [sse(generated("", 0))],
        [sse({"candidates": [{"content": {"parts": [{"text": ""}]}}]})],
        [DONE],
    ],
)
def test_no_output(chunks: list[bytes]) -> None:
    """Comments, pings, roles, created events and usage are not output."""
    assert not read_all(chunks)["has_output"]


@pytest.mark.parametrize(
    "content",
    [
        *(
            sse(chat({name: value}))
            for name, value in {
                "content": "a",
                "reasoning_content": "a",
                "reasoning": "a",
                "tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}],
                "function_call": {"name": "f"},
                "audio": {"id": "a", "data": "AAAA"},
                "refusal": "no",
            }.items()
        ),
        sse({"choices": [{"index": 0, "text": " "}]}),
        sse({"choices": [{"index": 0, "token_ids": [5]}]}),
        sse({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "a"}}),
        sse({"type": "content_block_delta", "delta": {"partial_json": "{"}}),
        sse({"type": "content_block_start", "content_block": {"type": "tool_use", "name": "f"}}),
        sse({"type": "response.reasoning_text.delta", "delta": "a"}),
        sse({"type": "response.function_call_arguments.delta", "delta": "{"}),
        sse({"type": "response.output_item.added", "item": {"type": "function_call"}}),
        lines({"done": False, "message": {"content": "", "thinking": "a"}}),
        lines({"done": False, "response": "a"}),
        lines({"done": False, "message": {"content": "", "tool_calls": [{"function": {}}]}}),
        sse({"candidates": [{"content": {"parts": [{"functionCall": {"name": "f"}}]}}]}),
        sse({"token": TOKEN, "generated_text": None}),
        sse(generated("a", 1)),
        sse({"text_output": "a"}),
    ],
)
def test_first_output(content: bytes) -> None:
    """Content, reasoning, tool calls and audio are output, when their event is complete."""
    reader = AnswerReader()
    reader.feed(b": begin\n\n" if content.startswith(b"data") else b"")
    reader.feed(content[:-1].rstrip(b"\n"))
    assert not reader.has_output
    reader.feed(content[len(content[:-1].rstrip(b"\n")) :])
    assert reader.has_output


GEMINI_CALL = {"functionCall": {"name": "f", "args": {}}}
OLLAMA_CALL = {"done": False, "message": {"content": "", "tool_calls": [{"function": {}}]}}
OLLAMA_END = {"done": True, "done_reason": "stop", "message": {"content": ""}}


def responded(*kinds: str) -> dict[str, Any]:
    """A response with items of these types."""
    output = [{"type": kind} for kind in kinds]
    return {"object": "response", "status": "completed", "output": output}


@pytest.mark.parametrize(
    ("chunks", "calls_tools"),
    [
        (
            [
                sse({"candidates": [{"content": {"parts": [{"text": "I look"}]}}]}),
                sse({"candidates": [{"content": {"parts": [{"text": " it up"}]}}]}),
                sse({"candidates": [{"content": {"parts": [GEMINI_CALL]}}]}),
                sse({"candidates": [{"content": {"parts": []}, "finishReason": "STOP"}]}),
            ],
            True,
        ),
        (
            [
                sse(
                    {
                        "candidates": [
                            {"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}
                        ]
                    }
                )
            ],
            False,
        ),
        ([lines({"done": False, "response": "a"}), lines(OLLAMA_CALL), lines(OLLAMA_END)], True),
        ([lines({"done": False, "response": "a"}), lines(OLLAMA_END)], False),
        ([json.dumps(responded("reasoning", "function_call")).encode()], True),
        ([json.dumps(responded("message", "web_search_call")).encode()], False),
        ([json.dumps({**responded(), "output": ["function_call"]}).encode()], False),
        (
            [
                sse({"type": "response.output_text.delta", "delta": "a"}),
                sse({"type": "response.output_item.added", "item": {"type": "custom_tool_call"}}),
                sse({"type": "response.completed", "response": {"status": "completed"}}),
            ],
            True,
        ),
        ([sse({"type": "response.completed", "response": responded("function_call")})], True),
    ],
)
def test_tool_calls(chunks: list[bytes], calls_tools: bool) -> None:
    """Dialects that have no word for it are asked for the calls that their client is to make."""
    reader = AnswerReader()
    for chunk in chunks:
        reader.feed(chunk)
    reader.finish()

    assert reader.calls_tools is calls_tools
    assert reader.finish_reason in ("STOP", "stop", "completed")


@pytest.mark.parametrize(
    "odd",
    [
        b'data: {"type":"response.created","response":{}}\n\n',
        b'data: {"type":"a"}\n\n',
        b'data: {"a":{"content":"a"},"finish_reason":"b"}\n\n',
    ],
)
def test_repetition_of_other_texts(odd: bytes) -> None:
    """Only events that differ in a text of the answer count as repetitions."""
    begun = sse(chat({"content": "a"}))
    twins = [odd, odd.replace(b"a", b"b"), odd.replace(b"a", b"error")]

    assert read_all([begun, *twins]) == read_all([begun + b"".join(twins)])


@pytest.mark.parametrize(
    "text",
    ['"},"finish_reason":"stop', "\\", "\\\\", "a\n\ndata: [DONE]\n\n", "\u2028", "\x00", '\\"'],
)
def test_text_that_is_no_repetition(text: str) -> None:
    """A text cannot end its string, its event or its stream."""
    chunks = [sse(chat({"content": word})) for word in ("a", "b", "c", text, "d")]

    found = read_all(chunks)
    assert (found["ended"], found["is_truncated"], found["failed"]) == (False, True, False)


def test_end_in_the_shape_of_a_repetition() -> None:
    """An end shaped like the previous chunks is still an end."""
    begun = [sse(chat({"content": word})) for word in ("a", "b", "c")]
    raw = begun[0].replace(b'"a"', b'"a"}, "finish_reason": "stop", "x": {"y": "z"')

    assert read_all([*begun, raw]) == read_all([b"".join(begun) + raw])
    assert read_all([*begun, begun[0][:-1], b"data: [DONE]\n\n"])["ended"] is False
    assert read_all([*begun, begun[0], DONE])["ended"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_engine_answers(case: dict[str, Any]) -> None:
    """Real engines' answers give the results that their records must have."""
    request = InferenceRequest.of_body(json.dumps(case["request"]).encode())
    found = read_all(
        [part.encode() for part in case["parts"] if isinstance(part, str)],
        {"content-type": case["contentType"]},
        choices=request.choices,
    )
    expect = case["expect"]
    error = ""
    if found["failed"]:
        error = "stream_error" if found["is_stream"] else "response_error"
    elif found["is_truncated"]:
        error = "stream_truncated" if found["is_stream"] else "response_truncated"

    assert ("error" if error else "completed") == expect["outcome"]
    assert error == expect.get("error", error)
    for key, name in (
        ("inputTokenLength", "input_tokens"),
        ("outputLength", "output_tokens"),
        ("cachedTokens", "cached_tokens"),
    ):
        assert key not in expect or found[name] == expect[key]
    assert request.streaming is expect.get("streaming", request.streaming)
