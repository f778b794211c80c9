"""Records every lifecycle span, whatever the sampler decides."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
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
