"""Reads a router's source without running it, to find how it serves and calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

_SERVED_BY = {
    "route",
    "api_route",
    "add_api_route",
    "add_route",
    "add_post",
    "add_url_rule",
    "Route",
}
_CALLED_BY = {"post", "request", "stream", "urlopen"}


@dataclass
class Source:
    """The findings in one file.

    Attributes:
        modules: The imported modules and their parent packages.
        names: The functions, and the methods as `Class.method`.
        served: Paths served by POST or by any method.
        called: Paths, or the ends of URLs, that are called.
        starts_threads: Whether it starts its own threads.
    """

    modules: set[str] = field(default_factory=set[str])
    names: set[str] = field(default_factory=set[str])
    served: dict[str, None] = field(default_factory=dict[str, None])
    called: dict[str, None] = field(default_factory=dict[str, None])
    starts_threads: bool = False


def read_source(text: str) -> Source:
    """Read Python source.

    Raises:
        SyntaxError: The text is not Python, or needs a newer Python than this.
        RecursionError: The text is nested too deeply.
        ValueError: The text has null bytes.
    """
    tree = ast.parse(text)
    source = Source()
    handlers: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            source.modules.update(_imported(node))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            handlers.update(id(decorator) for decorator in node.decorator_list)
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Call):  # app.post("/path")(handler)
                handlers.add(id(node.func))
            _read_call(source, node, is_handler=id(node) in handlers)
    source.names.update(_defined(tree))
    return source


def _read_call(source: Source, call: ast.Call, *, is_handler: bool) -> None:
    name = _name(call.func)
    owner = _name(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name == "Thread":
        source.starts_threads = True
    paths = [path for path in map(_path, call.args) if path]
    if not paths or not _is_post(call):
        return
    if name in _SERVED_BY or (name == "post" and (is_handler or owner == "web")):
        source.served[paths[0]] = None
    elif name in _CALLED_BY:
        source.called[paths[-1]] = None


def _is_post(call: ast.Call) -> bool:
    """Return whether a route accepts POST; True if it names no methods."""
    methods = next((word.value for word in call.keywords if word.arg == "methods"), None)
    if not isinstance(methods, (ast.List, ast.Tuple, ast.Set)):
        return True
    names = [part.value for part in methods.elts if isinstance(part, ast.Constant)]
    return len(names) < len(methods.elts) or "POST" in names


def _path(argument: ast.expr) -> str:
    """Return the path in an argument, or at its end; empty if there is none."""
    if isinstance(argument, ast.JoinedStr) and argument.values:
        argument = argument.values[-1]
    elif isinstance(argument, ast.BinOp):
        argument = argument.right
    text = argument.value if isinstance(argument, ast.Constant) else None
    if not isinstance(text, str):
        return ""
    text = text.partition("?")[0]
    if "://" in text:
        text = "/" + text.partition("://")[2].partition("/")[2]
    return text if text.startswith("/") and len(text) > 1 else ""


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    for alias in node.names:
        whole = alias.name
        if isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                continue
            whole = f"{node.module}.{alias.name}"
        parts = whole.split(".")
        yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield f"{node.name}.{inner.name}"
