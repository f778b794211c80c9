-- Does prefix affinity work? Expected and delivered, by tokens and as the mean of requests.
SELECT
    count() AS requests, sum(input) AS tokens, sum(cached) AS cached_tokens,
    sum(score * input) / sum(input) AS expected, sum(cached) / sum(input) AS delivered,
    avg(score) AS expected_mean, avg(least(1, cached / input)) AS delivered_mean,
    countIf(abs(score - cached / input) > 0.1) AS wrong
FROM facts
WHERE input > 0 AND cached IS NOT NULL AND score IS NOT NULL
