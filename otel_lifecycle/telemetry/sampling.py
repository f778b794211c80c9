"""Which lifecycle spans are recorded, and which of them exported."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from otel_lifecycle.model import semconv


class RecordAllSampler(Sampler):
    """Turns DROP into RECORD_ONLY for lifecycle spans; everything else stays as decided.

    Processors then see every request, while exporters go on seeing the sampled ones only. The
    SDK's own `AlwaysRecordSampler` loses the attributes of the spans it upgrades, because samplers
    that drop return none; this one keeps them.

    Args:
        inner: The sampler that decides.
    """

    def __init__(self, inner: Sampler) -> None:
        self.inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """The inner sampler's decision, but never DROP for a lifecycle span."""
        result = self.inner.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )
        if (
            result.decision is Decision.DROP
            and attributes is not None
            and semconv.REQUEST_ID in attributes
        ):
            return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state)
        return result

    def get_description(self) -> str:
        """Names this sampler and the inner one."""
        return f"RecordAllSampler{{{self.inner.get_description()}}}"


class KnownSampler:
    """A sampler of the SDK whose ways are known, so that it need not be asked for each request.

    Args:
        sampler: The sampler.

    Attributes:
        sampler: The sampler.
        reads_attributes: Whether it may look at attributes, or add some: then it is none of these.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.reads_attributes = not _is_of(sampler, StaticSampler, TraceIdRatioBased)
        self._is_static = _is_of(sampler, StaticSampler)
        self._decisions: dict[int, Decision] = {}

    def decide(
        self, context: Context | None, trace_id: int, kind: SpanKind, parent: SpanContext
    ) -> Decision:
        """Decides on a span below `parent`, which is the current span of `context`."""
        which = 0
        if parent.is_valid:
            which = 1 + 2 * parent.is_remote + 4 * parent.trace_flags.sampled
        decision = self._decisions.get(which)
        if decision is None:
            result = self.sampler.should_sample(context, trace_id, "", kind, _ANY_REQUEST)
            decision = result.decision
            if self._is_static:
                self._decisions[which] = decision
        return decision


_ANY_REQUEST = {semconv.REQUEST_ID: ""}


def _is_of(sampler: object, *kinds: type[Sampler]) -> bool:
    """Whether a sampler is made of these, and of those that choose one of them by the parent."""
    if type(sampler) in kinds:
        return True
    return type(sampler) in (ParentBased, ParentBasedTraceIdRatio, RecordAllSampler) and all(
        _is_of(part, *kinds) for part in vars(sampler).values()
    )
