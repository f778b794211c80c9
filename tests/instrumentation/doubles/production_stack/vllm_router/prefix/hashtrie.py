"""Remembers which engine has seen which prefix of a prompt, in chunks of 128 characters."""

from __future__ import annotations


class HashTrie:
    def __init__(self, chunk_size: int = 128) -> None:
        self.chunk_size = chunk_size
        self._seen: dict[str, set[str]] = {}

    def _beginnings(self, request: str) -> list[str]:
        size = self.chunk_size
        return [request[: start + size] for start in range(0, len(request), size)]

    async def insert(self, request: str, endpoint: str) -> None:
        for beginning in self._beginnings(request):
            self._seen.setdefault(beginning, set()).add(endpoint)

    async def longest_prefix_match(
        self,
        request: str,
        available_endpoints: set[str] = frozenset(),  # type: ignore[assignment]
    ) -> tuple[int, set[str]]:
        match_length, selected = 0, available_endpoints
        for beginning in self._beginnings(request):
            matching = self._seen.get(beginning, set()) & selected
            if not matching:
                break
            match_length += self.chunk_size
            selected = matching
        return match_length, selected
