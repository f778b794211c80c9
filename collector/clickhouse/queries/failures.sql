-- What failed? Outcomes and errors by endpoint.
SELECT outcome, ifNull(error_type, '') AS error, ifNull(decoding, ifNull(prefilling, '')) AS endpoint,
    count() AS requests
FROM facts
WHERE outcome != 'completed'
GROUP BY outcome, error, endpoint
ORDER BY requests DESC, outcome, error, endpoint
