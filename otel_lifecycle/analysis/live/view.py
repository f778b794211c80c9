"""What the user chose to see, and what each key changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from otel_lifecycle.analysis.live.endpoints import DEFAULT_SORT, endpoint_columns, sorted_rows
from otel_lifecycle.analysis.live.snapshot import LISTS, EndpointRow, Snapshot
from otel_lifecycle.model.record import LifecycleRecord

# As prompt_toolkit names them.
_TAB, _ENTER, _BACKSPACE = "c-i", "c-m", "c-h"
_LONGEST_FILTER = 100
_PAGE = 10
_STEPS = {
    "up": -1,
    "down": 1,
    "k": -1,
    "j": 1,
    "pageup": -_PAGE,
    "pagedown": _PAGE,
    "home": -1_000_000,
    "end": 1_000_000,
}


@dataclass
class View:
    """What the user chose to see.

    Attributes:
        has_keys: Whether somebody presses keys.
        on_requests: Whether keys move in the list of requests, not among the endpoints.
        endpoint: Role and name of the selected endpoint; None: the first.
        request: The selected request; None: the first.
        sort: Title of the column that endpoints are sorted by.
        up: Whether the lowest value comes first.
        list: Which requests are listed.
        filter: Only endpoints and models whose name contains it.
        is_typing: Whether keys write the filter.
        is_open: Whether the selected request has the screen.
        is_paused: Whether the figures stay as they are.
        helps: Whether the keys are explained.
        quits: Whether the user has had enough.
    """

    has_keys: bool = True
    on_requests: bool = False
    endpoint: tuple[str, str] | None = None
    request: LifecycleRecord | None = None
    sort: str = DEFAULT_SORT
    up: bool = False
    list: str = LISTS[0]
    filter: str = ""
    is_typing: bool = False
    is_open: bool = False
    is_paused: bool = False
    helps: bool = False
    quits: bool = False

    def rows(self, snapshot: Snapshot) -> Sequence[EndpointRow]:
        """Return the endpoints in the chosen order."""
        return sorted_rows(snapshot.rows, endpoint_columns(snapshot), self.sort, up=self.up)

    def endpoint_at(self, rows: Sequence[EndpointRow]) -> int:
        """Return the place of the selected endpoint."""
        places = [(row.role, row.name) for row in rows]
        return places.index(self.endpoint) if self.endpoint in places else 0

    def request_at(self, requests: Sequence[LifecycleRecord]) -> int:
        """Return the place of the selected request."""
        return next((at for at, one in enumerate(requests) if one is self.request), 0)

    def press(self, key: str, snapshot: Snapshot) -> None:
        """Do what a key means.

        Args:
            key: A character, or prompt_toolkit's name of a key, such as `up`.
            snapshot: What is on the screen.
        """
        if self.is_typing:
            self._type(key)
        elif key in _STEPS:
            self._move(_STEPS[key], snapshot)
        elif key in ("left", "right"):
            titles = [one.title for one in endpoint_columns(snapshot) if one.sort is not None]
            step = 1 if key == "right" else -1
            self.sort = titles[(titles.index(self.sort) + step) % len(titles)]
        elif key == _ENTER:
            self._enter(snapshot)
        elif key in ("escape", _BACKSPACE):
            self._go_back()
        else:
            self._command(key)

    def _command(self, key: str) -> None:
        if key in ("q", "c-c"):
            self.quits = True
        elif key in ("p", " "):
            self.is_paused = not self.is_paused
        elif key == _TAB:
            self.on_requests = not self.on_requests
        elif key == "s":
            self.list = LISTS[(LISTS.index(self.list) + 1) % len(LISTS)]
            self.request = None
        elif key == "r":
            self.up = not self.up
        elif key == "/":
            self.is_typing, self.filter, self.is_paused = True, "", False
        elif key in ("?", "h"):
            self.helps = not self.helps

    def _type(self, key: str) -> None:
        if key == "c-c":
            self.quits = True
        elif key == _ENTER:
            self.is_typing = False
        elif key == "escape":
            self.is_typing, self.filter = False, ""
        elif key in (_BACKSPACE, "delete"):
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter = (self.filter + key)[:_LONGEST_FILTER]

    def _move(self, step: int, snapshot: Snapshot) -> None:
        if self.on_requests or self.is_open:
            requests = snapshot.requests[self.list]
            if requests:
                at = self.request_at(requests) + step
                self.request = requests[min(max(at, 0), len(requests) - 1)]
            return
        rows = self.rows(snapshot)
        if rows:
            row = rows[min(max(self.endpoint_at(rows) + step, 0), len(rows) - 1)]
            self.endpoint = row.role, row.name

    def _enter(self, snapshot: Snapshot) -> None:
        requests, rows = snapshot.requests[self.list], self.rows(snapshot)
        if self.on_requests and requests:
            self.request = requests[self.request_at(requests)]
            self.is_open = not self.is_open
        elif not self.on_requests and rows:
            self.filter, self.is_paused = rows[self.endpoint_at(rows)].name, False

    def _go_back(self) -> None:
        if self.helps:
            self.helps = False
        elif self.is_open:
            self.is_open = False
        else:
            self.filter = ""
