"""The response of each engine is read into its metrics, field by field."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from otel_lifecycle import EndpointMetrics
from otel_lifecycle.state import engines

FIXTURES = Path(__file__).parent / "fixtures"
SCRAPED_AT = 1755859201.0
UPDATED = datetime(2025, 8, 22, 10, 40, 1, tzinfo=timezone.utc)

KNOWN = {
    "vllm_0_9": {
        "0": EndpointMetrics(
            running_requests=3,
            waiting_requests=1,
            kv_cache_usage=0.3125,
            kv_cache_max_token_capacity=65536,
            cache_block_size=16,
            cache_num_blocks=4096,
            prefix_cache_hit_rate=0.62,
            active_models={"sql-lora": 0, "chat-lora": 0},
            waiting_models={"code-lora": 0},
            max_active_models=4,
            update_time=UPDATED,
        )
    },
    # Before the first request there is no hit rate; blocks of several kinds; a rank starting up.
    "vllm_data_parallel": {
        str(rank): EndpointMetrics(
            running_requests=5 * rank,
            waiting_requests=rank,
            kv_cache_usage=0.25 * rank,
            kv_cache_max_token_capacity=463459,
            cache_block_size=16,
            cache_num_blocks=320 if rank < 3 else None,
            prefix_cache_hit_rate=0.25 * rank if rank else None,
            update_time=UPDATED,
        )
        for rank in range(4)
    },
    "vllm_v0": {
        "": EndpointMetrics(
            running_requests=2,
            waiting_requests=7,
            kv_cache_usage=0.9375,
            kv_cache_max_token_capacity=446656,
            cache_block_size=16,
            cache_num_blocks=27916,
            update_time=UPDATED,
        )
    },
    "sglang_0_5_9": {
        "": EndpointMetrics(
            running_requests=24,
            waiting_requests=3,
            kv_cache_usage=0.73,
            kv_cache_max_token_capacity=200000,
            cache_block_size=1,
            cache_num_blocks=200000,
            prefix_cache_hit_rate=0.35,
            update_time=UPDATED,
        )
    },
    # The counters have no rank, and single priorities are not totals.
    "sglang_data_parallel": {
        str(rank): EndpointMetrics(
            running_requests=rank + 1,
            waiting_requests=rank,
            kv_cache_usage=(0.05, 0.15)[rank],
            kv_cache_max_token_capacity=1041408,
            cache_block_size=16,
            cache_num_blocks=65088,
            max_active_models=8,
            update_time=UPDATED,
        )
        for rank in range(2)
    },
    "trtllm_serve": {
        "": EndpointMetrics(
            running_requests=12,
            waiting_requests=4,
            kv_cache_usage=0.42,
            kv_cache_max_token_capacity=638720,
            cache_block_size=32,
            cache_num_blocks=19960,
            prefix_cache_hit_rate=0.57,
            update_time=UPDATED,
        )
    },
    "triton_trtllm": {
        "": EndpointMetrics(
            running_requests=6,
            waiting_requests=3,
            kv_cache_usage=0.25,
            kv_cache_max_token_capacity=399296,
            cache_block_size=64,
            cache_num_blocks=6239,
            update_time=UPDATED,
        )
    },
    # Waiting requests and the fraction are missing: the latter is used / max.
    "triton_trtllm_old": {
        "": EndpointMetrics(
            running_requests=6,
            kv_cache_usage=0.25,
            kv_cache_max_token_capacity=399360,
            cache_block_size=64,
            cache_num_blocks=6240,
            update_time=UPDATED,
        )
    },
    "mindie": {
        "": EndpointMetrics(
            running_requests=14,
            waiting_requests=2,
            kv_cache_usage=0.625,
            prefix_cache_hit_rate=0.625,
            update_time=UPDATED,
        )
    },
    # Running is `Nan`, and a usage of 30 is not a fraction.
    "mindie_1_0": {
        "": EndpointMetrics(waiting_requests=0, prefix_cache_hit_rate=0.5, update_time=UPDATED)
    },
}


def body(name: str) -> bytes:
    """A stored response of an engine."""
    return (FIXTURES / f"{name}.prom").read_bytes()


def read(text: str) -> dict[str, EndpointMetrics]:
    """Return the metrics in an exposition."""
    return dict(engines.read(text.encode(), SCRAPED_AT))


@pytest.mark.parametrize("name", KNOWN)
def test_engine(name: str) -> None:
    """The engine is recognised, and each of its ranks is read."""
    assert engines.read(body(name), SCRAPED_AT) == KNOWN[name]


def test_every_fixture_is_read() -> None:
    """Every stored exposition is read by a test."""
    assert {path.stem for path in FIXTURES.glob("*.prom")} == set(KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe\x00",
        b"<html>vllm:num_requests_running</html>",
        b"# HELP vllm:num_requests_running 5\n",
        b"other:num_requests_running 5\n",
        b"num_requests_running 5\nnum_requests_waiting 5\n",  # an engine that is not known
        b"vllm:prompt_tokens_total 5\n",
        b'vllm:num_requests_running{engine="0"} NaN\n',
        b'vllm:cache_config_info{block_size="None",num_gpu_blocks="0"} 1\n',
    ],
)
def test_nothing_known(text: bytes) -> None:
    """If nothing is known there are no metrics, and no time of an update."""
    assert engines.read(text, SCRAPED_AT) == {}


@pytest.mark.parametrize(
    ("value", "running"),
    [("5", 5), ("5.0", 5), ("5e0", 5), ("0", 0), ("5.5", None), ("-1", None), ("NaN", None),
     ("+Inf", None), ("1e300", None)],
)  # fmt: skip
def test_counts(value: str, running: int | None) -> None:
    """A number of requests is a whole number from 0, or unknown."""
    text = f"vllm:num_requests_running {value}\nvllm:num_requests_waiting 1\n"

    assert read(text) == {
        "": EndpointMetrics(running_requests=running, waiting_requests=1, update_time=UPDATED)
    }


@pytest.mark.parametrize(
    ("value", "usage"),
    [("0", 0.0), ("1.0", 1.0), ("0.5", 0.5), ("1.0001", None), ("50", None), ("-1", None),
     ("NaN", None)],
)  # fmt: skip
def test_fractions(value: str, usage: float | None) -> None:
    """A usage is a fraction, or unknown: percentages are not guessed."""
    text = f"sglang:token_usage {value}\nsglang:num_queue_reqs 1\n"

    assert read(text) == {
        "": EndpointMetrics(kv_cache_usage=usage, waiting_requests=1, update_time=UPDATED)
    }


@pytest.mark.parametrize(
    ("hits", "queries", "rate"),
    [("3", "4", 0.75), ("0", "4", 0.0), ("0", "0", None), ("5", "4", None), ("-3", "-4", None),
     ("NaN", "4", None), ("3", "+Inf", None)],
)  # fmt: skip
def test_hit_rate(hits: str, queries: str, rate: float | None) -> None:
    """A rate of two counters is a fraction, or unknown."""
    text = (
        f"vllm:prefix_cache_hits_total {hits}\nvllm:prefix_cache_queries_total {queries}\n"
        "vllm:num_requests_waiting 1\n"
    )

    assert read(text) == {
        "": EndpointMetrics(prefix_cache_hit_rate=rate, waiting_requests=1, update_time=UPDATED)
    }


def test_new_name_comes_first() -> None:
    """If both names of the KV-cache usage exist, the new one counts if it is valid."""
    old = 'vllm:gpu_cache_usage_perc{engine="0"} 0.25\n'

    assert read(old + 'vllm:kv_cache_usage_perc{engine="0"} 0.5\n')["0"].kv_cache_usage == 0.5
    assert read(old + 'vllm:kv_cache_usage_perc{engine="0"} NaN\n')["0"].kv_cache_usage == 0.25


def test_series_without_rank() -> None:
    """LoRA state has no rank: it belongs to the only rank, or to none if there are several."""
    lora = 'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a"} 1.7e9\n'
    rank = 'vllm:num_requests_running{{engine="{}"}} 1\n'

    assert read(lora + rank.format(0))["0"].active_models == {"a": 0}
    assert read(lora + rank.format(0) + rank.format(1)) == {
        "0": EndpointMetrics(running_requests=1, update_time=UPDATED),
        "1": EndpointMetrics(running_requests=1, update_time=UPDATED),
    }


def test_counters_of_priorities() -> None:
    """SGLang counts tokens for each priority: the rate covers all priorities."""
    text = (
        'sglang:cached_tokens_total{priority=""} 1\nsglang:cached_tokens_total{priority="5"} 2\n'
        'sglang:prompt_tokens_total{priority=""} 2\nsglang:prompt_tokens_total{priority="5"} 10\n'
    )

    assert read(text) == {"": EndpointMetrics(prefix_cache_hit_rate=0.25, update_time=UPDATED)}


def test_duplicate_series() -> None:
    """Of two samples of one series the first counts, as in Prometheus."""
    assert read("vllm:num_requests_running 1\nvllm:num_requests_running 2\n") == {
        "": EndpointMetrics(running_requests=1, update_time=UPDATED)
    }


def test_several_models_on_one_port() -> None:
    """Requests of all models are added up; values that differ by model are unknown."""
    text = (
        'nv_trt_llm_request_metrics{model="a",request_type="scheduled",version="1"} 2\n'
        'nv_trt_llm_request_metrics{model="b",request_type="scheduled",version="1"} 3\n'
        'nv_trt_llm_request_metrics{model="a",request_type="waiting",version="1"} 1\n'
        'nv_trt_llm_request_metrics{model="b",request_type="waiting",version="1"} x\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="a"} 0.5\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="b"} 0.25\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="a"} 64\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="b"} 64\n'
    )

    assert read(text) == {
        "": EndpointMetrics(
            running_requests=5, waiting_requests=1, cache_block_size=64, update_time=UPDATED
        )
    }


def test_several_servers_on_one_port() -> None:
    """A router's own metrics describe all its engines, not the scraped endpoint."""
    text = (
        'vllm:num_requests_running{server="http://10.0.0.1:8000"} 2\n'
        'vllm:num_requests_running{server="http://10.0.0.2:8000"} 3\n'
        'vllm:gpu_prefix_cache_hit_rate{server="http://10.0.0.1:8000"} 0.5\n'
        'vllm:gpu_prefix_cache_hit_rate{server="http://10.0.0.2:8000"} 0.25\n'
        "vllm:num_requests_waiting 1\n"
    )

    assert read(text) == {"": EndpointMetrics(waiting_requests=1, update_time=UPDATED)}


def test_before_the_first_hit() -> None:
    """Before SGLang has a counter of cached tokens its rate is 0, not unknown."""
    assert read("sglang:prompt_tokens_total 5\n") == {
        "": EndpointMetrics(prefix_cache_hit_rate=0.0, update_time=UPDATED)
    }
    assert read("sglang:prompt_tokens_total 0\n") == {}
    assert read("vllm:prefix_cache_queries_total 5\n") == {}


def test_openmetrics() -> None:
    """The same values are read from OpenMetrics, with exemplars."""
    text = (
        "# TYPE vllm:num_requests_running gauge\n"
        'vllm:num_requests_running{engine="0"} 3.0\n'
        "# TYPE vllm:prefix_cache_queries counter\n"
        'vllm:prefix_cache_queries_total{engine="0"} 4.0 1755859200.1\n'
        'vllm:prefix_cache_queries_created{engine="0"} 1755859100.1\n'
        "# TYPE vllm:prefix_cache_hits counter\n"
        'vllm:prefix_cache_hits_total{engine="0"} 1.0 # {trace_id="7f"} 1.0 1755859200.0\n'
        "# EOF\n"
    )

    assert read(text) == {
        "0": EndpointMetrics(running_requests=3, prefix_cache_hit_rate=0.25, update_time=UPDATED)
    }
