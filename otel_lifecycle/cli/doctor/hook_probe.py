"""Looks for hooks in modules. Runs in the modules' environment, as a separate program.

Argument: a JSON object of the names to look for, by module. Importing a router's module does not
start the router, but it may take long, print, or end the process.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from operator import attrgetter


def main() -> None:
    """Write the missing names of each module to standard output, or why they are unknown."""
    answer = os.dup(1)
    os.dup2(2, 1)  # an imported module may print
    found = {module: _look(module, names) for module, names in json.loads(sys.argv[1]).items()}
    with open(answer, "w", encoding="utf-8") as output:
        json.dump(found, output)
    os._exit(0)  # do not wait for threads that the import has started


def _look(name: str, wanted: list[str]) -> dict[str, object]:
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return {"missing": wanted, "module_missing": True}
        return {"error": f"{type(error).__name__}: {error}"}
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"missing": [name for name in wanted if not _has(module, name)]}


def _has(module: object, name: str) -> bool:
    try:
        attrgetter(name)(module)
    except AttributeError:
        return False
    return True


if __name__ == "__main__":
    main()
