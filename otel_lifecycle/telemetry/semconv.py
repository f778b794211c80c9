"""Every span, event, attribute and metric name the package emits, once.

Names under `gen_ai.`, `server.`, `k8s.`, `hw.` and `error.` are OpenTelemetry's. The GenAI ones are
spelled out here, because their constants in `opentelemetry.semconv` are marked deprecated since
they moved to a repository without a Python release; a test compares both. Everything else lives
under `llm_router.`. Times are seconds and utilizations are fractions, as the conventions demand.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE as ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS as SERVER_ADDRESS
from opentelemetry.semconv.attributes.server_attributes import SERVER_PORT as SERVER_PORT

SCOPE: Final = "otel_lifecycle"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# Events of the span
EVENT_FIRST_CHUNK: Final = "llm_router.first_chunk"
EVENT_COMPLETION: Final = "llm_router.completion"
EVENT_REROUTED: Final = "llm_router.rerouted"

# Request
REQUEST_ID: Final = "llm_router.request.id"
ENGINE_REQUEST_ID: Final = "llm_router.request.engine_id"
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
INPUT_TOKENS_ESTIMATE: Final = "llm_router.request.input_tokens.estimate"
INPUT_TOKENS_SOURCE: Final = "llm_router.request.input_tokens.source"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"

# Route
ROUTE_TYPE: Final = "llm_router.route.type"
ROUTE_SERVED_ID: Final = "llm_router.route.served.id"
ROUTE_CANDIDATES: Final = "llm_router.route.candidates.count"
ROUTE_POLICY: Final = "llm_router.route.policy"
ROUTE_ATTEMPT: Final = "llm_router.route.attempt"
ROUTE_SHARED: Final = "llm_router.route.shared"
ROUTE_MISMATCH: Final = "llm_router.route.mismatch"
ROUTE_PREFILL_DURATION: Final = "llm_router.route.prefill.duration"
ROUTE_DELETED_ROLES: Final = "llm_router.route.deleted_roles"
K8S_NAMESPACE_NAME: Final = "k8s.namespace.name"
K8S_POD_NAME: Final = "k8s.pod.name"

# Phase spans
PHASE: Final = "llm_router.phase"

# Prefix cache, prediction, load at dispatch
PREFIX_CACHE_SCORE: Final = "llm_router.prefix_cache.score"
PREDICTION_MODE: Final = "llm_router.prediction.mode"
PREDICTED_TTFT: Final = "llm_router.prediction.time_to_first_token"
PREDICTED_TPOT: Final = "llm_router.prediction.time_per_output_token"
PREDICTED_TTFT_ERROR: Final = "llm_router.prediction.time_to_first_token.error"
PREDICTED_TPOT_ERROR: Final = "llm_router.prediction.time_per_output_token.error"
MISSING_FEATURES: Final = "llm_router.prediction.missing_features"
MISSING_REASONS: Final = "llm_router.prediction.missing_reasons"
DISPATCH_INFLIGHT_REQUESTS: Final = "llm_router.dispatch.inflight.requests"
DISPATCH_INFLIGHT_TOKENS: Final = "llm_router.dispatch.inflight.tokens"

# Result
OUTCOME: Final = "llm_router.outcome"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
TIME_PER_OUTPUT_TOKEN: Final = "llm_router.response.time_per_output_token"
REQUEST_DURATION: Final = "llm_router.request.duration"

# Attributes of the rerouted event
REROUTED_FROM: Final = "llm_router.route.from.id"
REROUTED_TO: Final = "llm_router.route.to.id"
REROUTED_REASON: Final = "llm_router.route.reason"

# Per role of the route: ROLE_PREFIX[role] + one of these
ROLE_PREFIX: Final = {
    "leader": "llm_router.route.leader",
    "prefill": "llm_router.route.prefill",
    "decode": "llm_router.route.decode",
}
ROLE_ID: Final = ".id"
ROLE_ADDRESS: Final = ".address"
ROLE_PORT: Final = ".port"
ROLE_NAME: Final = ".name"
ROLE_INFLIGHT_REQUESTS: Final = ".inflight.requests"
ROLE_INFLIGHT_TOKENS: Final = ".inflight.tokens"
ROLE_RUNNING: Final = ".request.running"
ROLE_WAITING: Final = ".request.waiting"
ROLE_KV_CACHE_UTILIZATION: Final = ".kv_cache.utilization"
ROLE_KV_CACHE_CAPACITY: Final = ".kv_cache.capacity"
ROLE_KV_CACHE_BLOCK_SIZE: Final = ".kv_cache.block_size"
ROLE_KV_CACHE_BLOCK_COUNT: Final = ".kv_cache.block_count"
ROLE_PREFIX_CACHE_HIT_RATE: Final = ".prefix_cache.hit_rate"
ROLE_LORA_MAX: Final = ".lora.max"
ROLE_LORA_ACTIVE_MODELS: Final = ".lora.active.models"
ROLE_LORA_ACTIVE_COUNTS: Final = ".lora.active.counts"
ROLE_LORA_WAITING_MODELS: Final = ".lora.waiting.models"
ROLE_LORA_WAITING_COUNTS: Final = ".lora.waiting.counts"
ROLE_METRICS_AGE: Final = ".metrics.age"
ROLE_NPU_STATUS: Final = ".npu.status"
ROLE_NPU_COUNT: Final = ".npu.count"
ROLE_NPU_AGE: Final = ".npu.age"
ROLE_NPU_CORE_AVG: Final = ".npu.core.utilization.avg"
ROLE_NPU_CORE_MAX: Final = ".npu.core.utilization.max"
ROLE_NPU_MEMORY_AVG: Final = ".npu.memory.utilization.avg"
ROLE_NPU_MEMORY_MAX: Final = ".npu.memory.utilization.max"
ROLE_NPU_BANDWIDTH_AVG: Final = ".npu.memory_bandwidth.utilization.avg"
ROLE_NPU_BANDWIDTH_MAX: Final = ".npu.memory_bandwidth.utilization.max"
ROLE_NPU_DEVICE_IDS: Final = ".npu.device.ids"
ROLE_NPU_DEVICE_TARGETS: Final = ".npu.device.targets"
ROLE_NPU_DEVICE_CORE: Final = ".npu.device.core.utilization"
ROLE_NPU_DEVICE_MEMORY: Final = ".npu.device.memory.utilization"
ROLE_NPU_DEVICE_BANDWIDTH: Final = ".npu.device.memory_bandwidth.utilization"

# Metrics
METRIC_INFLIGHT_REQUESTS: Final = "llm_router.inflight.requests"
METRIC_INFLIGHT_TOKENS: Final = "llm_router.inflight.tokens"
METRIC_NPU_CORE: Final = "llm_router.npu.core.utilization"
METRIC_NPU_MEMORY: Final = "llm_router.npu.memory.utilization"
METRIC_NPU_BANDWIDTH: Final = "llm_router.npu.memory_bandwidth.utilization"
METRIC_GPU_UTILIZATION: Final = "hw.gpu.utilization"
METRIC_GPU_MEMORY: Final = "hw.gpu.memory.utilization"
METRIC_ENDPOINT_RUNNING: Final = "llm_router.endpoint.request.running"
METRIC_ENDPOINT_WAITING: Final = "llm_router.endpoint.request.waiting"
METRIC_ENDPOINT_KV_CACHE: Final = "llm_router.endpoint.kv_cache.utilization"
METRIC_REQUEST_DURATION: Final = "gen_ai.server.request.duration"
METRIC_TTFT: Final = "gen_ai.server.time_to_first_token"
METRIC_TPOT: Final = "gen_ai.server.time_per_output_token"
METRIC_PREDICTED_TTFT: Final = "llm_router.predicted.time_to_first_token"
METRIC_PREDICTED_TPOT: Final = "llm_router.predicted.time_per_output_token"
METRIC_PREDICTION_ERROR: Final = "llm_router.prediction.error"
METRIC_COLLECTION_TARGETS: Final = "llm_router.collection.targets"
METRIC_REQUESTS: Final = "llm_router.requests"
METRIC_IGNORED: Final = "llm_router.ignored"
METRIC_RECORDS_WRITTEN: Final = "llm_router.records.written"
METRIC_RECORDS_DROPPED: Final = "llm_router.records.dropped"
METRIC_RECORDS_QUEUE: Final = "llm_router.records.queue"

# Attributes of metrics
ENDPOINT_ID: Final = "llm_router.endpoint.id"
DEVICE_ID: Final = "llm_router.npu.device.id"
DEVICE_TARGET: Final = "llm_router.npu.device.target"
HW_ID: Final = "hw.id"
HW_TYPE: Final = "hw.type"
COLLECTION_SOURCE: Final = "llm_router.collection.source"
COLLECTION_STATE: Final = "llm_router.collection.state"
PREDICTION_TARGET: Final = "llm_router.prediction.target"
PREDICTION_DIRECTION: Final = "llm_router.prediction.direction"
IGNORED_REASON: Final = "llm_router.ignored.reason"

DURATION_BUCKETS: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
TTFT_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
TPOT_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)  # fmt: skip
PREDICTION_ERROR_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
