-- Is the predictor right? Predicted by actual TTFT, from the dispatch.
SELECT
    count() AS requests,
    nearest_rank(groupArray(predicted_ttft_ms / ttft_ms), 0.5) AS median_ratio,
    avg(predicted_ttft_ms / ttft_ms BETWEEN 0.5 AND 2) AS within_a_factor_of_two,
    avg(abs(predicted_ttft_ms - ttft_ms)) AS mean_error_ms
FROM facts
WHERE outcome = 'completed' AND predicted_ttft_ms > 0 AND ttft_ms > 0
