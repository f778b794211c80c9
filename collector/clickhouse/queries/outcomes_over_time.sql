-- What happened, and when? Requests by outcome, a minute.
SELECT toStartOfMinute(started_at) AS minute, outcome, count() AS requests
FROM facts
GROUP BY minute, outcome
ORDER BY minute, outcome
