-- Which requests waited longest?
SELECT request_id, waited_ms, predicted_ttft_ms, queue_ms, input, cached, inflight_tokens, prefilling,
    decoding, trace_id
FROM facts
WHERE outcome = 'completed' AND waited_ms IS NOT NULL
ORDER BY waited_ms DESC, request_id
LIMIT 12
