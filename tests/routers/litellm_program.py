"""A program that calls LiteLLM's router; arguments: URL of an engine, unused URL.

It prints each result as a line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
from typing import Any

from litellm import Router

from tests.routers.litellm_settings import GROUPS, PROMPT, ROUTER, model_list

MESSAGES = [{"role": "user", "content": PROMPT}]
ASKED = {"stream": True, "stream_options": {"include_usage": True}}


async def collect(router: Router, group: str, **options: Any) -> list[Any]:
    """Return the answer, or how it ended."""
    found: list[Any] = []
    try:
        answer = await router.acompletion(model=group, messages=MESSAGES, **options)
        if not options.get("stream"):
            return [answer.model_dump()]
        async for chunk in answer:
            found.append(chunk.model_dump())
    except Exception as error:
        found.append([type(error).__name__, str(error)])
    return found


async def leave(router: Router, *, close: bool) -> list[Any]:
    """Read one chunk of a stream, and close or drop it."""
    stream = await router.acompletion(model="slow", messages=MESSAGES, **ASKED)
    chunk = await stream.__anext__()
    if close and hasattr(stream, "aclose"):
        await stream.aclose()
    return [chunk.model_dump()]


async def crowd(router: Router) -> list[Any]:
    """Many streams at once."""
    streams = [collect(router, "good", **ASKED, user="crowd") for _ in range(200)]
    answers = await asyncio.gather(*streams)
    return [len(answers), all(len(answer) == len(answers[0]) for answer in answers)]


async def awaited(router: Router) -> None:
    """Asynchronous calls."""
    for group in [*GROUPS, "dead", "unknown"]:
        say(group, await collect(router, group, **ASKED))
    say("good", await collect(router, "good"))
    say("forgotten", await leave(router, close=False))
    gc.collect()
    say("closed", await leave(router, close=True))
    gc.collect()
    say("crowd", await crowd(router))


def blocking(router: Router) -> None:
    """Blocking calls, for which older versions need a thread if an event loop runs."""
    say("blocking", [router.completion(model="good", messages=MESSAGES).model_dump()])
    stream = router.completion(model="good", messages=MESSAGES, **ASKED)
    say("blocking", [chunk.model_dump() for chunk in stream])


def say(name: str, answer: list[Any]) -> None:
    """Print an answer without the parts that LiteLLM generates anew each time."""
    text = json.dumps([name, answer], default=str, sort_keys=True).replace("fine-2", "fine")
    print(re.sub(r'"created": \d+', '"created": 0', text), flush=True)


def main() -> None:
    engine, nobody = sys.argv[1:]
    router = Router(model_list=model_list(engine, nobody), **ROUTER)
    asyncio.run(awaited(router))
    blocking(router)


if __name__ == "__main__":
    main()
