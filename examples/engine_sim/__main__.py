"""Command line: `python -m engine_sim --port 9001 --name qwen-0`."""

from __future__ import annotations

import argparse

import uvicorn

from engine_sim.app import create_app
from engine_sim.config import ROLES, EngineConfig


def main() -> None:
    """Parse the options and serve until told to stop."""
    defaults = EngineConfig()
    parser = argparse.ArgumentParser(prog="engine_sim", description="A simulated LLM engine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--name", default=defaults.name)
    parser.add_argument("--namespace", default=defaults.namespace)
    parser.add_argument("--pod", help="pod name (default: the name)")
    parser.add_argument("--role", choices=ROLES, default=defaults.role)
    parser.add_argument("--model", default=defaults.model)
    parser.add_argument(
        "--prefill-tokens-per-second", type=float, default=defaults.prefill_tokens_per_second
    )
    parser.add_argument("--tpot-ms", type=float, default=defaults.tpot_ms, help="per output token")
    parser.add_argument("--max-running", type=int, default=defaults.max_running)
    parser.add_argument("--cache-blocks", type=int, default=defaults.cache_blocks)
    parser.add_argument("--block-size", type=int, default=defaults.block_size, help="in tokens")
    parser.add_argument("--npus", type=int, default=defaults.npus)
    parser.add_argument(
        "--time-scale", type=float, default=defaults.time_scale, help="0.1 is ten times faster"
    )
    parser.add_argument("--tokens-per-chunk", type=int, default=defaults.tokens_per_chunk)
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the NPU jitter")
    options = vars(parser.parse_args())
    host, port = options.pop("host"), options.pop("port")
    options["pod"] = options["pod"] or options["name"]
    uvicorn.run(
        create_app(EngineConfig(**options)),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=1,
        # Longer than httpx keeps an idle connection, so that none is cut during a request.
        timeout_keep_alive=30,
    )


if __name__ == "__main__":
    main()
