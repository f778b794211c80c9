"""Analyses a command that `opentelemetry-instrument` would start."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

_HEAD_BYTES = 4096
_PYTHON = re.compile(r"(python|pypy)[\d.]*")
# How installers start an interpreter whose path is too long for a `#!` line, or relative.
_EXEC_ABSOLUTE = re.compile(r"""^'''exec' "?([^"$\n]+?)"? "\$0" """, re.MULTILINE)
_EXEC_RELATIVE = re.compile(r"""^'''exec' "\$\(dirname .*/'([^']+)' "\$0" """, re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """A command, as far as it can be analysed without running it.

    Attributes:
        path: The program that the shell would run; empty if there is none.
        interpreter: The Python that runs it; empty if it is not a Python program.
        script_of: The other interpreter that runs it, if it is a script: `bash`.
        console_script: Its name, if it is a Python program on the path.
        module: The module it runs, if the command says so.
        file: The Python file it runs, if the command says so.
        isolating_flag: The flag that makes Python ignore `PYTHONPATH`.
    """

    path: str = ""
    interpreter: str = ""
    script_of: str = ""
    console_script: str = ""
    module: str = ""
    file: str = ""
    isolating_flag: str = ""


def resolve(command: Sequence[str], search_path: str | None) -> Program:
    """Find out what a command is.

    Args:
        command: The program and its arguments.
        search_path: `PATH`.
    """
    path = shutil.which(command[0], path=search_path)
    if path is None:
        return Program()
    if _PYTHON.fullmatch(os.path.basename(path)):
        return _python(path, path, command[1:])
    try:
        with open(path, "rb") as program:
            head = program.read(_HEAD_BYTES)
    except OSError:
        head = b""
    if not head.startswith(b"#!"):
        return Program(path=path)
    text = head.decode("utf-8", "replace")
    words = _interpreter_line(text, path)
    interpreter = shutil.which(words[0], path=search_path) or words[0]
    name = os.path.basename(interpreter)
    if not _PYTHON.fullmatch(name):
        return Program(path=path, script_of=name)
    started = _python(path, interpreter, words[1:])
    return Program(
        path=path,
        interpreter=interpreter,
        console_script=os.path.basename(path),
        isolating_flag=started.isolating_flag,
    )


def _interpreter_line(text: str, path: str) -> list[str]:
    """Return the words of `#!`, without `env` or a shell that only starts the interpreter."""
    if found := _EXEC_ABSOLUTE.search(text):
        return [found[1]]
    if found := _EXEC_RELATIVE.search(text):
        return [os.path.join(os.path.dirname(os.path.realpath(path)), found[1])]
    words = text[2:].partition("\n")[0].split()
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if word != "-S" and "=" not in word]
    return words or ["sh"]


def _python(path: str, interpreter: str, arguments: Sequence[str]) -> Program:
    """Read the arguments of a Python up to the program it runs."""
    isolating_flag = ""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            file = "" if word == "-" else word
            return Program(path, interpreter, file=file, isolating_flag=isolating_flag)
        if word.startswith("--"):
            if word == "--check-hash-based-pycs":
                del rest[:1]
            continue
        for index, letter in enumerate(word[1:], start=2):
            if letter in "EIS":
                isolating_flag = f"-{letter}"
            if letter in "mcWX":
                value = word[index:] or (rest.pop(0) if rest else "")
                if letter in "mc":
                    module = value if letter == "m" else ""
                    return Program(path, interpreter, module=module, isolating_flag=isolating_flag)
                break
    return Program(path, interpreter, isolating_flag=isolating_flag)
