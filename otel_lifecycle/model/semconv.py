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
EVENT_DISPATCH: Final = "llm_router.dispatch"
EVENT_FIRST_CHUNK: Final = "llm_router.first_chunk"
EVENT_COMPLETION: Final = "llm_router.completion"
EVENT_REROUTED: Final = "llm_router.rerouted"

# Request
REQUEST_ID: Final = "llm_router.request.id"
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
INPUT_TOKENS_ESTIMATE: Final = "llm_router.request.input_tokens.estimate"
INPUT_TOKENS_SOURCE: Final = "llm_router.request.input_tokens.source"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"

LABEL: Final = "llm_router.label."  # and its name; also of metrics

# Route
ROUTE_TYPE: Final = "llm_router.route.type"
ROUTE_SERVED_ID: Final = "llm_router.route.served.id"
ROUTE_POLICY: Final = "llm_router.route.policy"
ROUTE_SHARED: Final = "llm_router.route.shared"
K8S_NAMESPACE_NAME: Final = "k8s.namespace.name"
K8S_POD_NAME: Final = "k8s.pod.name"

# Decision
DECISION_ROLE: Final = "llm_router.decision.role"  # of metrics
DECISION_REASON: Final = "llm_router.decision.reason"
DECISION_MARGIN: Final = "llm_router.decision.margin"  # also a metric
DECISION_REGRET: Final = "llm_router.decision.regret"  # also a metric

# Phase spans
PHASE: Final = "llm_router.phase"

# Prediction
MISSING_FEATURES: Final = "llm_router.prediction.missing_features"
MISSING_REASONS: Final = "llm_router.prediction.missing_reasons"

# Result
OUTCOME: Final = "llm_router.outcome"
QUEUE_DURATION: Final = "llm_router.queue.duration"  # also a metric
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"

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
METRIC_SLO_REQUESTS: Final = "llm_router.slo.requests"
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
SLO_TARGET: Final = "llm_router.slo.target"
SLO_MET: Final = "llm_router.slo.met"
IGNORED_REASON: Final = "llm_router.ignored.reason"

DURATION_BUCKETS: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
QUEUE_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
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
MARGIN_BUCKETS: Final = (
    0.0, 0.001, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 100.0,
)  # fmt: skip
REGRET_BUCKETS: Final = (
    0.0, 0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
