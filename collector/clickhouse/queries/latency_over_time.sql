-- TTFT from the arrival where it is known, and TPOT, in milliseconds, a minute.
SELECT
    toStartOfMinute(started_at) AS minute,
    nearest_rank(groupArray(waited_ms), 0.5) AS ttft_p50,
    nearest_rank(groupArray(waited_ms), 0.95) AS ttft_p95,
    nearest_rank(groupArray(tpot_ms), 0.5) AS tpot_p50,
    nearest_rank(groupArray(tpot_ms), 0.95) AS tpot_p95
FROM facts
WHERE outcome = 'completed'
GROUP BY minute
ORDER BY minute
