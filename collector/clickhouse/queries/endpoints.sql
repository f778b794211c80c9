-- Is routing balanced? Requests, tokens, latency and cache of each endpoint in its role.
SELECT
    role, endpoint, count() AS requests, sum(input) AS tokens,
    nearest_rank(groupArrayIf(latency_ms, outcome = 'completed'), 0.5) AS p50,
    nearest_rank(groupArrayIf(latency_ms, outcome = 'completed'), 0.95) AS p95,
    sum(cached) / nullIf(sumIf(input, cached IS NOT NULL), 0) AS from_cache,
    countIf(outcome NOT IN ('completed', 'client_disconnect')) AS failed
FROM carried
GROUP BY role, endpoint
ORDER BY role, endpoint
