"""One application on Ray Serve: `python -m benchmarks.zero_code.ray_program address port`."""

from __future__ import annotations

import os
import sys

import ray
from ray import serve

from tests.routers.ray_serve_app import ENVIRONMENT, Alone


def main(address: str, port: str) -> None:
    """Serve until the end of the input."""
    # The cluster was started without us: its workers get the environment of this process.
    variables = {name: text for name, text in os.environ.items() if name.startswith(ENVIRONMENT)}
    ray.init(address, runtime_env={"env_vars": variables}, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(Alone.bind())
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
