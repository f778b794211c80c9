"""Planned requests in the forms that the router and the engines work with."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from demo.engines import MODEL
from demo.prompts import ChatPrompt, TokenPrompt
from demo.workload import PlannedRequest
from engine_sim.engine import Job
from engine_sim.prompt import Prompt as EnginePrompt
from hermes_router.model import InferenceRequest, RequestBody, TokenizedPrompt
from hermes_router.openai_request import estimate_tokens
from hermes_router.prompt import Prompt, chat_text, text_prompt


@dataclass(frozen=True)
class BlockPrompt(Prompt):
    """A prompt known by its blocks only: they are hashed instead of their tokens."""

    length: int = 0
    hashes: tuple[bytes, ...] = ()

    def block_hashes(self, block_size: int) -> tuple[bytes, ...]:
        """Return one hash per full block."""
        return self.hashes

    def block_count(self, block_size: int) -> int:
        """Return how many blocks the prompt takes; the last one may be partial."""
        return -(-self.length // block_size)


def inference_request(planned: PlannedRequest) -> InferenceRequest:
    """Return the request as the router parses it."""
    prompt = planned.prompt
    tokenized = estimate = None
    if isinstance(prompt, TokenPrompt):
        routed = _block_prompt(prompt)
        tokenized = TokenizedPrompt(range(prompt.length))
    else:
        assert isinstance(prompt, ChatPrompt)
        text = chat_text(prompt.fields()["messages"])
        routed, estimate = text_prompt(text), estimate_tokens(text)
    return InferenceRequest(
        request_id=planned.request_id,
        target_model=MODEL,
        body=RequestBody(prompt.path, b"", planned.stream),
        prompt=routed,
        inbound_headers={},
        tokenized_prompt=tokenized,
        prompt_tokens_estimate=estimate,
    )


def job(request: InferenceRequest, planned: PlannedRequest, block_size: int) -> Job:
    """Return the request as the engine parses it."""
    prompt = request.prompt
    if isinstance(prompt, BlockPrompt):
        tokens = prompt.length
    else:
        tokens = max(1, -(-len(prompt.content) // prompt.bytes_per_token))
    hashes = prompt.block_hashes(block_size)
    return Job(EnginePrompt(tokens, hashes), planned.output_tokens)


def _block_prompt(prompt: TokenPrompt) -> BlockPrompt:
    hashes: list[bytes] = []
    parent = b""
    for block in prompt.block_ids[: prompt.length // prompt.block_size]:
        size = block.bit_length() // 8 + 1
        parent = blake2b(parent + block.to_bytes(size, "big", signed=True), digest_size=8).digest()
        hashes.append(parent)
    return BlockPrompt(b"", 1, length=prompt.length, hashes=tuple(hashes))
