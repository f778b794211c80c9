"""What an answer has said so far, whatever its dialect."""

from __future__ import annotations

from typing import Final

_MAX_CHOICES: Final = 1 << 10
_MAX_TOKENS: Final = 1 << 53
_MAX_REASON: Final = 64
_FAILED: Final = frozenset({"abort", "aborted", "error"})


class _Count:
    """The usage of one part of an answer."""

    __slots__ = ("cached", "input", "output", "written")

    def __init__(self) -> None:
        self.input: int | None = None
        self.output: int | None = None
        self.cached: int | None = None
        self.written: int | None = None

    @property
    def prompt(self) -> int | None:
        """The whole prompt, whether or not the dialect counts apart what is cached."""
        if self.input is None or self.written is None:
            return self.input
        return self.input + self.written + (self.cached or 0)


class Answer:
    """What is known of an answer; the dialects write it, the router's observer reads it.

    Attributes:
        is_stream: It comes piece by piece: server-sent events, or a line for each piece.
        has_output: Content, reasoning, a tool call, audio or an image has been seen.
        failed: It tells of an error, at whatever place.
        finish_reason: Why its first choice ended, as the engine calls it; None when unknown.
        calls_tools: Its client is to call tools, in a dialect that has no word for that.
        changes: Grows with everything that the answer tells besides output.
        tells_its_end: Whether answers of this dialect have an end mark at all.
        open_choices: The choices that have begun and not ended.
        part: Which of several answers to several prompts is being read.
    """

    __slots__ = (
        "_choices",
        "_counts",
        "_done",
        "_finished",
        "_samples",
        "calls_tools",
        "changes",
        "failed",
        "finish_reason",
        "has_output",
        "is_stream",
        "open_choices",
        "part",
        "tells_its_end",
    )

    def __init__(self) -> None:
        self.is_stream = False
        self.has_output = False
        self.failed = False
        self.finish_reason: str | None = None
        self.calls_tools = False
        self.changes = 0
        self.tells_its_end = True
        self.part = 0
        self._done = False
        # Not sets, which the garbage collector would look at.
        self.open_choices: dict[int, None] = {}
        self._finished: dict[int, None] = {}
        self._counts: dict[int, _Count] = {}
        self._samples = 1
        self._choices = 1

    @property
    def ended(self) -> bool:
        """Whether the terminator was seen, or the end of each choice."""
        if self._done:
            return True
        finished = len(self._finished)
        return 0 < finished >= min(self._choices, _MAX_CHOICES) and not self.open_choices

    @property
    def input_tokens(self) -> int | None:
        """Prompt tokens of the usage; None when unknown, or the 0 of a translator."""
        if len(self._counts) == 1:
            (count,) = self._counts.values()
            return count.prompt or None
        counts = [self._counts[index] for index in sorted(self._counts)]
        if len(counts) > 1 and len(counts) % self._samples == 0:
            counts = counts[:: self._samples]  # the samples of a prompt all count it
        elif len(counts) > 1:
            return None
        return _sum([count.prompt for count in counts]) or None

    @property
    def output_tokens(self) -> int | None:
        """Completion tokens of the usage; None when unknown, or the 0 of a translator."""
        counts = self._counts
        if not counts:
            return None
        if len(counts) == 1:
            (count,) = counts.values()
            total = count.output
        else:
            total = _sum([count.output for count in counts.values()])
        if total == 0 and (self.has_output or self.input_tokens is None):
            return None
        return total

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the engine had cached; None when unknown."""
        if len(self._counts) != 1 or self.input_tokens is None:
            return None
        (count,) = self._counts.values()
        return count.cached

    def choice(self, index: object, reason: object) -> None:
        """A piece of a choice came, its last one when there is a reason."""
        number = index if type(index) is int else 0
        if not reason:
            if number not in self.open_choices and number not in self._finished:
                self.changes += 1
                if len(self.open_choices) < _MAX_CHOICES:
                    self.open_choices[number] = None
            return
        self.open_choices.pop(number, None)
        if len(self._finished) < _MAX_CHOICES:
            self._finished[number] = None
        self.stop(reason, first=number == 0)

    def stop(self, reason: object, *, first: bool = True) -> None:
        """The engine says why it stopped; an abort is an error."""
        self.changes += 1
        if not isinstance(reason, str):
            return
        if first or self.finish_reason is None:
            self.finish_reason = reason[:_MAX_REASON]
        if reason.lower() in _FAILED:
            self.failed = True

    def call_tools(self) -> None:
        """The client is to call tools, whatever the engine says when it stops."""
        self.changes += 1
        self.calls_tools = True

    def end(self) -> None:
        """The terminator came."""
        self.changes += 1
        self._done = True

    def fail(self) -> None:
        """The answer tells of an error."""
        self.changes += 1
        self.failed = True

    def count(
        self,
        input_tokens: object = None,
        output_tokens: object = None,
        cached_tokens: object = None,
        *,
        written_tokens: object = None,
        part: object = 0,
    ) -> None:
        """Take the usage; of a later one what is known counts, and 0 does not replace a count.

        Args:
            input_tokens: Prompt tokens, the cached ones among them unless `written_tokens` is
                given.
            output_tokens: Completion tokens.
            cached_tokens: Prompt tokens that were cached.
            written_tokens: Prompt tokens that were put into the cache, in a dialect that counts
                them, the cached ones and the others apart.
            part: The part of an answer to several prompts that it counts.
        """
        self.changes += 1
        number = part if type(part) is int else 0
        count = self._counts.get(number)
        if count is None:
            if len(self._counts) >= _MAX_CHOICES:
                return
            count = self._counts[number] = _Count()
        # Some engines count in each chunk, and most of that is what they said before.
        if input_tokens != count.input:
            count.input = _newer(input_tokens, count.input)
        if output_tokens != count.output:
            count.output = _newer(output_tokens, count.output)
        if cached_tokens != count.cached:
            count.cached = _newer(cached_tokens, count.cached)
        if written_tokens is not None:
            count.written = _newer(written_tokens, count.written)


def _newer(value: object, known: int | None) -> int | None:
    if type(value) is not int or not 0 <= value < _MAX_TOKENS:
        return known
    return value or known or 0


def _sum(values: list[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total if values else None
