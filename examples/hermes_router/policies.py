"""How candidates are ranked: by a weighted sum of scores, in turn, or by chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PREFIX, LOAD, PREDICTION = "prefix", "load", "prediction"


@dataclass(frozen=True)
class Policy:
    """One way to rank.

    Attributes:
        weights: The weight of each score that counts; none if all candidates are equal.
        in_turn: Whether equal candidates take turns; otherwise chance decides.
    """

    weights: Mapping[str, float]
    in_turn: bool = False


DEFAULT_POLICY = "prefix+load+prediction"

POLICIES: Mapping[str, Policy] = {
    DEFAULT_POLICY: Policy({PREFIX: 2.0, LOAD: 2.0, PREDICTION: 1.0}),
    "least_load": Policy({LOAD: 1.0}),
    "prediction": Policy({PREDICTION: 1.0}),
    "prefix": Policy({PREFIX: 1.0}),
    "random": Policy({}),
    "round_robin": Policy({}, in_turn=True),
}
