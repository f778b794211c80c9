"""What a router considered at each dispatch, and the record's decisions made of it."""

from otel_lifecycle.tracking.decisions.notes import Considered, DecisionNotes
from otel_lifecycle.tracking.decisions.recorded import decide, invalid_candidate_values

__all__ = ["Considered", "DecisionNotes", "decide", "invalid_candidate_values"]
