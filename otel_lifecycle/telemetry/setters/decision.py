"""A record's decision on its span, and what can be read of it there.

The span tells of the choice of the decode (or selected) endpoint, and of that of the prefill.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from otel_lifecycle.model import semconv
from otel_lifecycle.model.decision import Decision, Pick, RecordedCandidate
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.telemetry.attributes import DECISION, DECISION_PREFILL, Receiver

_PREFILL: Final = "prefill"


def set_decision(attributes: Receiver, record: LifecycleRecord) -> None:
    """Sets the attributes of the first route's decision, if there is one."""
    decision = record.decision
    if decision is msgspec.UNSET:
        return
    if decision.reason:
        attributes[semconv.DECISION_REASON] = decision.reason
    route = record.selected_route
    main = "decode" if route is not None and route.prefill is not None else "leader"
    for pick in decision.picks:
        if pick.role in (main, _PREFILL):
            _set_pick(attributes, DECISION if pick.role == main else DECISION_PREFILL, pick)


def read_decision(attributes: Mapping[str, Any]) -> Decision | msgspec.UnsetType:
    """Returns what a span tells of a decision."""
    is_pair = attributes.get(semconv.ROUTE_TYPE) == "prefill_decode"
    picks = [
        _read_pick(attributes, prefix, role)
        for prefix, role in (
            (DECISION_PREFILL, _PREFILL),
            (DECISION, "decode" if is_pair else "leader"),
        )
        if f"{prefix}.endpoints" in attributes
    ]
    if not picks:
        return msgspec.UNSET
    return Decision(attributes.get(semconv.DECISION_REASON, ""), picks=picks)


def _set_pick(attributes: Receiver, prefix: str, pick: Pick) -> None:
    attributes[f"{prefix}.endpoints"] = tuple([one.label for one in pick.candidates])
    # An array cannot hold a gap: those without a score come last.
    scores = [one.score for one in pick.candidates if one.score is not None]
    if scores:
        attributes[f"{prefix}.scores"] = tuple(scores)
    if pick.chosen_rank is not None:
        attributes[f"{prefix}.chosen_rank"] = pick.chosen_rank
    if pick.margin is not None:
        attributes[f"{prefix}.margin"] = pick.margin
    if pick.regret_ms is not None:
        attributes[f"{prefix}.regret"] = pick.regret_ms / 1000


def _read_pick(attributes: Mapping[str, Any], prefix: str, role: str) -> Pick:
    labels = attributes[f"{prefix}.endpoints"]
    scores = attributes.get(f"{prefix}.scores", ())
    regret = attributes.get(f"{prefix}.regret")
    unscored = [None] * (len(labels) - len(scores))
    return Pick(
        role,
        attributes.get(f"{prefix}.chosen_rank"),
        attributes.get(f"{prefix}.margin"),
        None if regret is None else round(regret * 1000, 6),
        [
            _candidate(label, score)
            for label, score in zip(labels, [*scores, *unscored], strict=True)
        ],
    )


def _candidate(label: str, score: float | None) -> RecordedCandidate:
    endpoint_id, _, name = label.partition("#")
    return RecordedCandidate(endpoint_id, name, score)
