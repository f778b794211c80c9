-- Counts and sums a minute, kept up to date by ClickHouse; read them with `sum` over the columns.
-- They count each insert, also of a file that was inserted before.
CREATE TABLE IF NOT EXISTS requests_per_minute
(
    minute DateTime('UTC'),
    model LowCardinality(String),
    policy LowCardinality(String),
    outcome LowCardinality(String),
    requests UInt64,
    input_tokens UInt64,
    output_tokens UInt64,
    cached_tokens UInt64
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, model, policy, outcome);

CREATE MATERIALIZED VIEW IF NOT EXISTS to_requests_per_minute TO requests_per_minute AS
SELECT
    toStartOfMinute(started_at) AS minute,
    model,
    ifNull(policy, '') AS policy,
    outcome,
    count() AS requests,
    sum(ifNull(input_token_length, 0)) AS input_tokens,
    sum(ifNull(output_length, 0)) AS output_tokens,
    sum(ifNull(cached_tokens, 0)) AS cached_tokens
FROM requests
GROUP BY minute, model, policy, outcome;

-- The nearest rank, as the report computes quantiles; null without a value.
CREATE FUNCTION IF NOT EXISTS nearest_rank AS (values, part) ->
    if(empty(values), NULL, arraySort(values)[greatest(1, toUInt32(ceil(part * length(values))))]);

-- What the queries share; the names and meanings are those of the report. FINAL leaves out rows
-- that were inserted again.
CREATE VIEW IF NOT EXISTS facts AS
SELECT
    request_id, model, policy, outcome, error_type, started_at, completed_at, first_chunk_at,
    trace_id, candidates, attempt,
    input_token_length AS input, output_length AS output, cached_tokens AS cached,
    input_token_length - least(input_token_length, ifNull(cached_tokens, 0)) AS uncached,
    prefix_cache_score AS score, queue_ms, ttft_ms, tpot_ms, e2e_ms,
    ttft_ms + ifNull(queue_ms, 0) AS waited_ms,
    prediction_ttft_ms AS predicted_ttft_ms, prediction_tpot_ms AS predicted_tpot_ms,
    rerouted_from_endpoint, rerouted_to_endpoint, rerouted_reason,
    if(empty(rerouted_at), started_at, rerouted_at[-1]) AS chosen,
    (leader_id IS NOT NULL) OR (leader_address IS NOT NULL) AS has_route,
    (prefill_id IS NOT NULL) OR (prefill_address IS NOT NULL) AS has_prefill,
    has_prefill AND ((decode_id IS NOT NULL) OR (decode_address IS NOT NULL))
        AND tuple(ifNull(decode_id, ''), ifNull(decode_address, ''), ifNull(decode_port, ''),
            ifNull(decode_name, ''))
        != tuple(ifNull(prefill_id, ''), ifNull(prefill_address, ''), ifNull(prefill_port, ''),
            ifNull(prefill_name, '')) AS has_decode,
    if(has_prefill, ifNull(prefill_id, prefill_address), ifNull(leader_id, leader_address))
        || ifNull('#' || if(has_prefill, prefill_name, leader_name), '') AS prefilling,
    if(has_decode, ifNull(decode_id, decode_address) || ifNull('#' || decode_name, ''), NULL)
        AS decoding,
    if(has_prefill, prefill_inflight_tokens, leader_inflight_tokens) AS inflight_tokens,
    if(has_prefill, prefill_update_time, leader_update_time) AS scraped
FROM requests FINAL;

-- One row for each endpoint that carried a request.
CREATE VIEW IF NOT EXISTS carried AS
SELECT
    started_at, role, endpoint, outcome, latency_ms, input, cached,
    if(size IS NULL, NULL, floor(log2(greatest(size, 1)))) AS size_group,
    if(load IS NULL, NULL, floor(log2(greatest(load, 1)))) AS load_group
FROM
(
    SELECT started_at, if(has_prefill, 'prefill', 'engine') AS role, prefilling AS endpoint, outcome,
        waited_ms AS latency_ms, input, cached, uncached AS size, inflight_tokens AS load
    FROM facts WHERE has_route
    UNION ALL
    SELECT started_at, 'decode', decoding, outcome, tpot_ms, input, NULL, output, 0
    FROM facts WHERE has_decode
);
