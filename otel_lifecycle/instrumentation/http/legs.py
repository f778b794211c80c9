"""The calls that a router makes for one request: which of them are its route, and what for."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from otel_lifecycle.instrumentation.http.answers import AnswerReader
from otel_lifecycle.instrumentation.http.attempt import Attempt
from otel_lifecycle.instrumentation.http.requests.inference_request import InferenceRequest
from otel_lifecycle.instrumentation.http.requests.marks import NO_MARK, PAIR, Mark
from otel_lifecycle.instrumentation.routing import DECODE, ENCODE, PREFILL, SIDE, Routing
from otel_lifecycle.model import Leg, LegOutcome, LegRole, Outcome, RequestCompletion, RouteEndpoint

_MAX_CALLS = 256
_SHORTEST_BEGINNING = 24  # bytes that two answers must have in common to be one


class Legs:
    """What is known of the calls of one request; it tells the routing where the request goes.

    A call is for what its mark says, or what the router's adapter has planned; without either for
    what those before it leave. Calls that overlap are no retry of each other, and neither is a call
    after a whole answer. Not thread-safe.

    Args:
        routing: Where the request goes.
        monotonic_ns: The tracker's clock.
    """

    def __init__(self, routing: Routing, monotonic_ns: Callable[[], int]) -> None:
        self.attempts: list[Attempt] = []
        self._routing = routing
        self._begun = 0  # where the calls of the present route begin
        self._monotonic_ns = monotonic_ns

    def enter(
        self,
        endpoint: RouteEndpoint,
        request: InferenceRequest,
        mark: Mark = NO_MARK,
        *,
        planned: str = "",
        retry: bool | None = None,
    ) -> tuple[Attempt, str]:
        """Note a call that is about to be made.

        Args:
            endpoint: Where it goes.
            request: What the client asks for.
            mark: What its body tells.
            planned: The leg that the router has chosen the endpoint for; empty when unknown.
            retry: Whether the same call was made before; None when only a second one tells.

        Returns:
            The call, and why the route is another one now: empty if it is not.
        """
        leg = planned or self._leg(mark, request)
        attempt = Attempt(leg, endpoint, self._monotonic_ns, mark)
        reason = ""
        if leg == ENCODE:
            self._routing.encode(endpoint)
        elif retry is not None:
            attempt.is_choice = True
            self._routing.go(attempt.leg, endpoint)
            reason = self._given_up(attempt) or ("retry" if retry else "")
        elif not self.attempts and leg != SIDE:
            self._routing.go(leg, endpoint)
        elif leg != SIDE:
            reason = self._follow(attempt, request)
        self.attempts.append(attempt)
        if len(self.attempts) > _MAX_CALLS:  # the first and the last ones tell the most
            self.attempts.pop(_MAX_CALLS // 2).let_go()
            self._begun = max(0, self._begun - 1)
        return attempt, reason

    def last(self, *legs: str) -> Attempt | None:
        """The last call for one of these legs."""
        for attempt in reversed(self.attempts):
            if attempt.leg in legs:
                return attempt
        return None

    @property
    def dispatched_ns(self) -> int:
        """When the first call was made that is no side one, as far as is known by now."""
        for attempt in self.attempts:
            if attempt.leg != SIDE:
                return attempt.started_ns
        return self.attempts[0].started_ns

    @property
    def prefill(self) -> Attempt | None:
        """The call of the prefill of a PD route."""
        return None if self._routing.route.prefill is None else self.last(PREFILL)

    def finish(self, request: InferenceRequest) -> None:
        """Read what the ends of the answers make readable."""
        for attempt in self.attempts:
            attempt.finish(choices=request.choices, samples=request.samples)

    def deciding(self, response: AnswerReader) -> Attempt:
        """Return the call whose answer went to the client, or that is why there was none.

        The client's answer also tells which of several calls was the side one.
        """
        if len(self.attempts) == 1:
            return self.attempts[0]
        self._swap_side(response)
        decodes = [attempt for attempt in self.attempts if attempt.leg == DECODE]
        if not decodes:
            return self.last(PREFILL) or self.attempts[-1]
        served = decodes[-1]
        if any(attempt.is_hedge for attempt in decodes):
            served = _served(decodes, response)
        prefill = self.prefill
        if prefill is not None and prefill.engine_status and not served.is_whole:
            return prefill
        return served

    def complete(
        self, completion: RequestCompletion, served: Attempt, epoch_ns: int
    ) -> RequestCompletion:
        """Add to a completion what the calls tell.

        Args:
            completion: How the request ended.
            served: The call whose answer went to the client.
            epoch_ns: Where the clock of the calls was 0, Unix nanoseconds.
        """
        prefill = self.prefill
        if len(self.attempts) == 1 and prefill is None:
            return completion
        return msgspec.structs.replace(
            completion,
            prefill_ms=None if prefill is None or prefill.failure else prefill.milliseconds,
            legs=self._told(completion.outcome, served, epoch_ns),
        )

    def _told(self, outcome: Outcome, served: Attempt, epoch_ns: int) -> list[Leg]:
        """Return the calls as the record has them; arguments as for `complete`."""
        is_pair = self._routing.route.prefill is not None
        legs: list[Leg] = []
        for attempt in self.attempts:
            if attempt.is_choice:
                continue
            how, ended_ns = _outcome(attempt), attempt.ended_ns
            if attempt.leg != DECODE:
                ended_ns = ended_ns or attempt.answered_ns
            if how is None and attempt.leg == DECODE:  # nobody waits for it any more
                is_answer = attempt is served and outcome is Outcome.COMPLETED
                how = LegOutcome.COMPLETED if is_answer else LegOutcome.CANCELLED
                ended_ns = ended_ns or attempt.now()
            legs.append(
                Leg(
                    _role(attempt, is_pair),
                    attempt.endpoint.endpoint,
                    epoch_ns + attempt.started_ns,
                    None if ended_ns is None else epoch_ns + ended_ns,
                    how,
                )
            )
        return legs

    def _leg(self, mark: Mark, request: InferenceRequest) -> str:
        """What a call is for that the router has not planned."""
        if mark.leg == PAIR:
            return DECODE if self._last_of_route_is_prefill() else PREFILL
        if mark.leg:
            return mark.leg
        if not mark.is_one_token:
            return DECODE
        is_prefill = not request.is_one_token
        return PREFILL if is_prefill and not _is_other(mark.model, request.model) else DECODE

    def _last_of_route_is_prefill(self) -> bool:
        last = self.last(PREFILL, DECODE)
        return last is not None and last.leg == PREFILL and not last.failure

    def _follow(self, attempt: Attempt, request: InferenceRequest) -> str:
        """Find out what a call is to those before it; return why the route is another one now."""
        for one in self.attempts:
            if one.is_over:
                one.finish(choices=request.choices, samples=request.samples)
        if attempt.mark.leg == DECODE:
            self._tell_encoder()
        same = [one for one in self.attempts[self._begun :] if one.leg == attempt.leg]
        pending = next((one for one in same if one.is_pending), None)
        if pending is not None:
            self._overlap(pending, attempt, request)
            return ""
        failure = self._given_up(attempt)
        if failure or not same:
            return self._take(attempt, failure)
        if not same[-1].is_whole:
            return self._take(attempt, "retry")
        if attempt.leg == PREFILL:
            return self._prefill_again(same[-1], attempt)
        self._after_whole(same[-1], attempt, request)
        return ""

    def _tell_encoder(self) -> None:
        """A decode with a mark: its prefill has one too, so one without was an encoder's call."""
        before = self.last(PREFILL)
        if before is None or before.mark.leg:
            return
        endpoint = before.endpoint.endpoint
        if self._routing.leg(endpoint.address, endpoint.port) != PREFILL:
            before.leg = ENCODE
            self._routing.drop(PREFILL)
            self._routing.encode(before.endpoint)

    def _given_up(self, attempt: Attempt) -> str:
        """Why the router makes a call that another one has failed before; empty when none has."""
        last = self.last(PREFILL, DECODE)
        if last is None or not last.is_broken:
            return ""
        if last.leg != attempt.leg:
            self._routing.drop(last.leg)
        return last.failure or "retry"

    def _take(self, attempt: Attempt, reason: str) -> str:
        """The route goes there; a prefill that comes again begins it anew."""
        if attempt.leg == PREFILL and self.last(PREFILL) is not None:
            self._begun = len(self.attempts)
            self._routing.begin_anew()
        self._routing.go(attempt.leg, attempt.endpoint)
        return reason

    def _overlap(self, before: Attempt, attempt: Attempt, request: InferenceRequest) -> None:
        """A call while another one for the same leg is not answered yet."""
        if not _is_other(before.mark.model, attempt.mark.model):
            attempt.is_hedge = True
        elif attempt.mark.model == request.model:
            self._replace(before, attempt)
        else:
            attempt.leg = SIDE

    def _prefill_again(self, before: Attempt, attempt: Attempt) -> str:
        if before.mark.leg:
            return self._take(attempt, "retry")
        # Asked for one token without a mark: for something else, if this one is the prefill.
        before.leg = ENCODE if attempt.mark.leg else SIDE
        return self._take(attempt, "")

    def _after_whole(self, before: Attempt, attempt: Attempt, request: InferenceRequest) -> None:
        """A call after one that was answered: not again the same, but something else."""
        asks_other = _is_other(before.mark.model, attempt.mark.model)
        if asks_other and before.mark.model == request.model:
            attempt.leg = SIDE
        elif not asks_other and before.mark.is_one_token and self.last(PREFILL) is None:
            before.leg = PREFILL
            self._routing.go(PREFILL, before.endpoint)
            self._routing.go(DECODE, attempt.endpoint)
        else:
            self._replace(before, attempt)

    def _replace(self, before: Attempt, attempt: Attempt) -> None:
        """A call turns out to be no part of the route; another one is."""
        before.leg = SIDE
        self._routing.go(attempt.leg, attempt.endpoint)

    def _swap_side(self, response: AnswerReader) -> None:
        """The client's answer is that of a call that was taken for a side one."""
        alike = [one for one in self.attempts if _begins_alike(one.answer, response)]
        decode = self.last(DECODE)
        if len(alike) == 1 and alike[0].leg == SIDE and decode is not None:
            alike[0].leg = DECODE
            self._replace(decode, alike[0])


def _is_other(model: str, another: str) -> bool:
    """Whether two models are known, and are not one."""
    return bool(model and another) and model != another


def _served(attempts: list[Attempt], response: AnswerReader) -> Attempt:
    """Which of several calls for the same has the answer that went to the client."""
    same = [attempt for attempt in attempts if _begins_alike(attempt.answer, response)]
    if len(same) == 1:
        return same[0]
    whole = [attempt for attempt in attempts if attempt.is_whole]
    if whole:
        return min(whole, key=lambda attempt: attempt.ended_ns or attempt.started_ns)
    left = [attempt for attempt in attempts if not attempt.is_broken]
    return (left or attempts)[-1]


def _begins_alike(answer: AnswerReader | None, response: AnswerReader) -> bool:
    if answer is None:
        return False
    length = min(len(answer.beginning), len(response.beginning))
    is_long = length >= _SHORTEST_BEGINNING
    return is_long and answer.beginning[:length] == response.beginning[:length]


def _outcome(attempt: Attempt) -> LegOutcome | None:
    """How a call ended; None when unknown."""
    if attempt.is_cancelled and not attempt.is_whole:
        return LegOutcome.CANCELLED
    if attempt.failure or attempt.is_cut or (attempt.answer and attempt.answer.failed):
        return LegOutcome.ERROR
    return LegOutcome.COMPLETED if attempt.is_whole else None


def _role(attempt: Attempt, is_pair: bool) -> LegRole:
    if attempt.is_hedge and attempt.leg != SIDE:
        return LegRole.HEDGE
    if attempt.leg == DECODE:
        return LegRole.DECODE if is_pair else LegRole.LEADER
    return LegRole(attempt.leg)
