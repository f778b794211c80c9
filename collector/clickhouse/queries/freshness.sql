-- Did the router decide on fresh data? The age of the engine's metrics, in milliseconds.
SELECT
    count() AS requests,
    nearest_rank(groupArray(age), 0.5) AS p50,
    nearest_rank(groupArray(age), 0.99) AS p99,
    max(age) AS oldest
FROM
(
    SELECT dateDiff('microsecond', scraped, chosen) / 1000 AS age
    FROM facts
    WHERE scraped IS NOT NULL AND chosen >= scraped
)
