-- Were the targets met? {ttft:Float64} and {tpot:Float64} are milliseconds.
SELECT
    avg(good) AS share,
    countIf(good) AS requests
FROM
(
    SELECT outcome = 'completed' AND ifNull(waited_ms <= {ttft:Float64}, false)
        AND ifNull(tpot_ms <= {tpot:Float64}, true) AS good
    FROM facts
    WHERE outcome != 'client_disconnect'
)
