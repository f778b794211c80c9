"""Shows, from the source of a router, what would be followed and what would not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from otel_lifecycle.cli.doctor.command import Program
from otel_lifecycle.cli.doctor.diagnosis import Diagnosis
from otel_lifecycle.cli.doctor.interpreter import Facts
from otel_lifecycle.cli.doctor.source import Source, read_source
from otel_lifecycle.instrumentation import pd_proxy
from otel_lifecycle.instrumentation.http.requests.operations import Paths
from otel_lifecycle.runtime.files import read_file

_SERVER_COMMANDS = ("uvicorn", "hypercorn", "gunicorn", "granian")
# How each is followed; empty: not at all.
_SERVERS = {
    "fastapi": "from its routing",
    "starlette": "from its routing",
    "aiohttp.web": "from its server",
    "quart": "under uvicorn and hypercorn",
    "litestar": "under uvicorn and hypercorn",
    "sanic": "",
    "flask": "",
    "django": "",
    "tornado.web": "",
    "http.server": "",
    "grpc.aio": "",
}
_CLIENTS = {
    "aiohttp": "followed",
    "httpx": "followed",
    "httpx2": "followed",
    "openai": "followed, through httpx",
    "anthropic": "followed, through httpx",
    "litellm": "followed, through its router",
    "requests": "followed, also in the threads of an executor",
    "urllib3": "followed, also in the threads of an executor",
    "urllib.request": "",
    "http.client": "",
    "pycurl": "",
    "grpc": "",
    "zmq": "",
    "tornado.httpclient": "",
    "websockets": "",
}


def examine_script(
    diagnosis: Diagnosis,
    command: Sequence[str],
    program: Program,
    facts: Facts,
    configured: tuple[str, ...],
) -> None:
    """Report what the router's source shows; do nothing if there is no source.

    Args:
        diagnosis: Receives the findings.
        command: The program and its arguments.
        program: The analysed command.
        facts: The contents of its environment.
        configured: The configured paths.
    """
    file = _file(command, program, facts)
    if file is None:
        return
    diagnosis.begin("source")
    diagnosis.fact("read", f"{file}, but not the modules that it imports")
    try:
        source = read_source(read_file(str(file)).decode())
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        diagnosis.fact("cannot be read", f"{type(error).__name__}: {error}")
        return
    _examine_structure(diagnosis, source)
    _examine_libraries(diagnosis, "requests come in through", _SERVERS, source.modules)
    _examine_libraries(diagnosis, "engines are called through", _CLIENTS, source.modules)
    _examine_paths(diagnosis, source, Paths(configured))
    if source.starts_threads:
        diagnosis.warn(
            f"{file} starts its own threads (threading.Thread): calls from them are not seen; "
            "calls from executors and asyncio.to_thread are"
        )


def _file(command: Sequence[str], program: Program, facts: Facts) -> Path | None:
    named = ""
    if (program.module or program.console_script) in _SERVER_COMMANDS:
        named = next((word for word in command[1:] if ":" in word and "/" not in word), "")
    if named:
        file = Path(*named.partition(":")[0].split(".")).with_suffix(".py")
    elif program.file or facts.module_file:
        file = Path(program.file or facts.module_file)
    elif program.console_script and not facts.module:  # no installer has made it
        file = Path(program.path)
    else:
        return None
    return file if file.is_file() else None


def _examine_structure(diagnosis: Diagnosis, source: Source) -> None:
    hooks = pd_proxy.hooks_of(source.names.__contains__)
    if hooks:
        diagnosis.fact("recognised as", f"a PD proxy (pd_proxy), by {', '.join(hooks)}")
    else:
        diagnosis.fact("recognised as", "no PD proxy; asgi_router follows its calls")


def _examine_libraries(
    diagnosis: Diagnosis, label: str, known: dict[str, str], modules: Collection[str]
) -> None:
    found = {name: how for name, how in known.items() if name in modules}
    shown = [f"{name} ({how or 'not followed'})" for name, how in found.items()]
    diagnosis.fact(label, ", ".join(shown) or "no known library")
    unseen = [name for name, how in found.items() if not how]
    if unseen:
        diagnosis.warn(f"{label} {', '.join(unseen)}, which no instrumentation follows")


def _examine_paths(diagnosis: Diagnosis, source: Source, paths: Paths) -> None:
    for label, found in (("serves", source.served), ("calls", source.called)):
        shown = [f"{path} ({_operation(path, paths)})" for path in found]
        diagnosis.fact(f"{label} by POST", ", ".join(shown) or "no path found")
    unknown = [path for path in source.served if _operation(path, paths) == _UNKNOWN]
    if unknown:
        diagnosis.warn(
            f"requests to {', '.join(unknown)} are not followed; if they are inference, add them "
            "to OTEL_LIFECYCLE_PATHS"
        )
    unknown = [path for path in source.called if _operation(path, paths) == _UNKNOWN]
    if unknown:
        diagnosis.warn(
            f"calls to {', '.join(unknown)} count as engine calls only if their bodies ask for "
            "output; to count all of them, add them to OTEL_LIFECYCLE_PATHS"
        )


_UNKNOWN = "not inference"


def _operation(path: str, paths: Paths) -> str:
    if "{" in path.rsplit("/", 1)[-1] or "<" in path:
        return "any"
    return paths.operation(path) or _UNKNOWN
