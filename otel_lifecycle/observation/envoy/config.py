"""What the access log of an Envoy configuration tells, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from otel_lifecycle.observation.envoy.entry import END, READY, START, UPSTREAM_END
from otel_lifecycle.runtime.files import read_file

_MANAGER = "HttpConnectionManager"
_ROUTER = "filters.http.router.v3.Router"
_FILE_LOG = "FileAccessLog"
_TIME = "%START_TIME(%s.%6f)%"
_PRESETS = "see the presets in collector/envoy"


class Finding(NamedTuple):
    """One thing that a configuration tells or does not tell.

    Attributes:
        what: What it is about.
        told: Whether it is told.
        text: How, or what is missing and what follows.
        needed: Whether nothing is recorded without it.
    """

    what: str
    told: bool
    text: str
    needed: bool = False


class _Fact(NamedTuple):
    what: str
    keys: tuple[str, ...]
    without: str


_FACTS = (
    _Fact("chosen endpoint", ("ep", "lb"), "the endpoint is the one that Envoy reached"),
    _Fact("prefill endpoint", ("pf",), "pairs of prefill and decode look like single endpoints"),
    _Fact("dispatch", ("up_tx_us",), "requests seem to be sent on as they arrive"),
    _Fact("end", ("e2e_us", "dur_ms"), "there is no end-to-end latency"),
    _Fact("end of broken-off requests", ("dur_ms",), "their end is unknown"),
    _Fact("outcome", ("code",), "every answer counts as an error"),
    _Fact("reason of a failure", ("details", "flags"), "clients that leave are not recognized"),
    _Fact("attempts", ("attempts",), "refusals of the picker may look like errors"),
    _Fact("model and tokens", ("llm",), "model, tokens and streaming are unknown"),
    _Fact("candidates", ("lb",), "the number of candidates is unknown"),
    _Fact("trace", ("tp", "trace"), "each span is the root of its own trace"),
    _Fact("path", ("path",), "requests that are no inference are recorded too"),
)


def read_config(path: Path) -> object:
    """Return a configuration in YAML or JSON.

    Raises:
        ValueError: It is neither, or YAML is not installed.
        OSError: It cannot be read.
    """
    text = read_file(path)
    try:
        return msgspec.json.decode(text)
    except ValueError:
        if find_spec("yaml") is None:
            raise ValueError(
                f"{path}: YAML needs an extra: pip install 'otel-lifecycle[envoy]'"
            ) from None
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def examine(config: object) -> dict[str, list[Finding]]:
    """Return what each listener's log tells, by the `stat_prefix` of its connection manager.

    Empty if there is no connection manager for HTTP.
    """
    managers = [each for each in _mappings(config) if _is(each, _MANAGER)]
    return {
        str(manager.get("stat_prefix") or f"listener {number}"): list(_findings(manager))
        for number, manager in enumerate(managers, 1)
    }


def _findings(manager: Mapping[str, Any]) -> Iterator[Finding]:
    logs = _logs(manager.get("access_log"))
    ends = [log for log in logs if log.tells(END)]
    formats: dict[str, Any] = {}
    for log in ends:
        formats.update(log.keys)
    if not ends:
        text = f"no access log writes JSON to a file when a request ends: {_PRESETS}"
        yield Finding("requests", False, text, needed=True)
        return
    missing = [key for key in ("type", "t", "rid") if key not in formats]
    if missing:
        text = f"the JSON of the log has no {', '.join(missing)}: {_PRESETS}"
        yield Finding("requests", False, text, needed=True)
    elif formats["t"] != _TIME:
        yield Finding("requests", False, f"t must be {_TIME}, not {formats['t']}", needed=True)
    else:
        yield Finding("requests", True, ", ".join(sorted({log.path for log in ends})))
    for fact in _FACTS:
        found = [key for key in fact.keys if key in formats]
        text = ", ".join(f"{key}: {formats[key]}" for key in found)
        yield Finding(
            fact.what, bool(found), text or f"no {' or '.join(fact.keys)}: {fact.without}"
        )
    headers = ", ".join(map(str, _mapping(formats.get("headers"))))
    if headers:
        yield Finding("headers", True, f"for labels and targets: {headers}")
    yield _first_byte(manager, formats)
    options = _mapping(manager.get("access_log_options"))
    at_start = bool(options.get("flush_access_log_on_new_request"))
    told = at_start and any(log.tells(START) for log in logs)
    yield Finding(
        "arrivals",
        told,
        "logged as they come"
        if told
        else f"no {START}, or no flush_access_log_on_new_request: nothing is ever abandoned",
    )
    yield _load(manager)


def _first_byte(manager: Mapping[str, Any], formats: Mapping[str, Any]) -> Finding:
    if "ttfb_body_us" in formats:
        return Finding("first byte", True, f"ttfb_body_us: {formats['ttfb_body_us']}")
    in_lua = any('"first_us"' in text for text in _texts(manager.get("http_filters")))
    return Finding(
        "first byte", in_lua, "Lua" if in_lua else "no ttfb_body_us, nor Lua: there is no TTFT"
    )


def _load(manager: Mapping[str, Any]) -> Finding:
    routers = [each for each in _mappings(manager.get("http_filters")) if _is(each, _ROUTER)]
    for router in routers:
        logs = _logs(router.get("upstream_log"))
        options = _mapping(router.get("upstream_log_options"))
        if (
            options.get("flush_upstream_log_on_upstream_stream")
            and any(log.tells(READY) for log in logs)
            and any(log.tells(UPSTREAM_END) for log in logs)
        ):
            return Finding("load of endpoints", True, "logged with each attempt")
    return Finding(
        "load of endpoints",
        False,
        f"the router filter has no upstream_log of {READY} and {UPSTREAM_END} with "
        "flush_upstream_log_on_upstream_stream: no load, and no legs of retries",
    )


class _Log(NamedTuple):
    """An access log that writes JSON to a file."""

    path: str
    keys: Mapping[str, Any]
    types: tuple[str, ...]  # empty: all

    def tells(self, kind: str) -> bool:
        return not self.types or kind in self.types


def _logs(configured: object) -> list[_Log]:
    found: list[_Log] = []
    for log in _list(configured):
        typed = _mapping(_mapping(log).get("typed_config"))
        keys = _mapping(_mapping(typed.get("log_format")).get("json_format"))
        if _is(typed, _FILE_LOG) and keys:
            by_type = _mapping(_mapping(_mapping(log).get("filter")).get("log_type_filter"))
            types = () if by_type.get("exclude") else tuple(map(str, _list(by_type.get("types"))))
            found.append(_Log(str(typed.get("path")), keys, types))
    return found


def _is(value: Mapping[str, Any], kind: str) -> bool:
    return str(value.get("@type", "")).endswith(kind)


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield all mappings in a value, however deep."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            found = cast("dict[str, Any]", each)
            yield found
            waiting += found.values()
        elif isinstance(each, list):
            waiting += cast("list[object]", each)


def _texts(value: object) -> Iterator[str]:
    for each in _mappings(value):
        yield from (text for text in each.values() if isinstance(text, str))


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []
