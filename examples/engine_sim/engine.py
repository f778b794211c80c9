"""The engine: waiting queue, running batch, prefill and decode as timed steps."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from engine_sim.config import EngineConfig
from engine_sim.kv_cache import Allocation, KVCache
from engine_sim.prompt import InvalidRequestError, Prompt

PREFILL_OVERHEAD_SECONDS = 0.002
FULL_BATCH_SLOWDOWN = 0.5  # a full batch decodes 1.5 times slower than a single request


@dataclass(eq=False)
class Job:
    """One request inside the engine.

    Attributes:
        kv_transferred: Whether another engine did the prefill and sent its KV cache.
        cached_tokens: Prompt tokens found in the prefix cache, known from the start of prefill.
        slowdown: Stretches every step; for the `slow` fault.
    """

    prompt: Prompt
    output_tokens: int
    kv_transferred: bool = False
    cached_tokens: int = 0
    slowdown: float = 1.0
    allocation: Allocation | None = None


@dataclass(frozen=True)
class Load:
    """How busy an engine is at one moment."""

    running: int
    waiting: int
    kv_cache_usage: float
    prefilling: bool
    prefix_cache_queries: int
    prefix_cache_hits: int


class Engine:
    """Admits jobs first in, first out, and advances them in the time of the event loop."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.cache = KVCache(config.cache_blocks)
        self.running = 0
        self.prefilling = False
        self.prefix_cache_queries = 0
        self.prefix_cache_hits = 0
        self._waiting: deque[tuple[Job, asyncio.Event]] = deque()
        self._prefill_turn = asyncio.Lock()

    @property
    def load(self) -> Load:
        """Return how busy it is; those not in the running batch yet are waiting."""
        return Load(
            running=self.running,
            waiting=len(self._waiting),
            kv_cache_usage=self.cache.usage,
            prefilling=self.prefilling,
            prefix_cache_queries=self.prefix_cache_queries,
            prefix_cache_hits=self.prefix_cache_hits,
        )

    def check(self, job: Job) -> None:
        """Refuse a job that could never be admitted."""
        if len(job.prompt.block_hashes) + self._private_blocks(job) > self.cache.capacity:
            raise InvalidRequestError("the request does not fit in the KV cache")

    async def generate(self, job: Job) -> AsyncGenerator[int, None]:
        """Run a job; yield the number of tokens of each chunk.

        The first chunk is the single token that ends a prefill. Close the generator to abort the
        job and free its slot.
        """
        admitted = asyncio.Event()
        self._waiting.append((job, admitted))
        try:
            self._admit()
            await admitted.wait()
            if job.kv_transferred:
                await self._receive_kv(job)
            else:
                await self._prefill(job)
            async for tokens in self._decode(job):
                yield tokens
        finally:
            self._leave(job, admitted)

    async def _prefill(self, job: Job) -> None:
        assert job.allocation is not None
        async with self._prefill_turn:
            reusable = self.cache.filled_prefix(job.allocation) * self.config.block_size
            job.cached_tokens = min(reusable, job.prompt.tokens - 1)  # one token is always computed
            self.prefix_cache_queries += job.prompt.tokens
            self.prefix_cache_hits += job.cached_tokens
            uncached = job.prompt.tokens - job.cached_tokens
            self.prefilling = True
            try:
                seconds = uncached / self.config.prefill_tokens_per_second
                await self._simulate(PREFILL_OVERHEAD_SECONDS + seconds, job)
            finally:
                self.prefilling = False
            self.cache.fill(job.allocation)

    async def _receive_kv(self, job: Job) -> None:
        assert job.allocation is not None
        await self._simulate(self._decode_step_seconds(), job)
        self.cache.fill(job.allocation)

    async def _decode(self, job: Job) -> AsyncGenerator[int, None]:
        yield 1
        produced = 1
        clock = asyncio.get_running_loop()
        due = clock.time()
        while produced < job.output_tokens:
            tokens = min(self.config.tokens_per_chunk, job.output_tokens - produced)
            seconds = tokens * self._decode_step_seconds() * job.slowdown
            due += seconds * self.config.time_scale
            await asyncio.sleep(max(0.0, due - clock.time()))
            produced += tokens
            yield tokens

    def _decode_step_seconds(self) -> float:
        batch = self.running / self.config.max_running
        return self.config.tpot_ms / 1000 * (1 + FULL_BATCH_SLOWDOWN * batch)

    async def _simulate(self, seconds: float, job: Job) -> None:
        await asyncio.sleep(seconds * job.slowdown * self.config.time_scale)

    def _admit(self) -> None:
        while self._waiting and self.running < self.config.max_running:
            job, admitted = self._waiting[0]
            private_blocks = self._private_blocks(job)
            if not self.cache.fits(job.prompt.block_hashes, private_blocks):
                return
            self._waiting.popleft()
            job.allocation = self.cache.pin(job.prompt.block_hashes, private_blocks)
            self.running += 1
            admitted.set()

    def _leave(self, job: Job, admitted: asyncio.Event) -> None:
        if job.allocation is None:
            self._waiting.remove((job, admitted))
        else:
            self.cache.unpin(job.allocation)
            self.running -= 1
        self._admit()

    def _private_blocks(self, job: Job) -> int:
        """Return the blocks for the tail of the prompt and for the output."""
        shared = len(job.prompt.block_hashes) * self.config.block_size
        return -(-(job.prompt.tokens - shared + job.output_tokens) // self.config.block_size)
