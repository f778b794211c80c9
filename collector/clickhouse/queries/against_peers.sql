-- Is an endpoint slow? Its latency by the median of similar requests on all endpoints of the role.
WITH usual AS
(
    SELECT role, size_group, load_group, nearest_rank(groupArray(latency_ms), 0.5) AS usual_ms
    FROM carried
    WHERE outcome = 'completed' AND latency_ms > 0
    GROUP BY role, size_group, load_group
    HAVING count() >= 5
)
SELECT role, endpoint, nearest_rank(groupArray(latency_ms / usual_ms), 0.5) AS against_peers
FROM carried
INNER JOIN usual USING (role, size_group, load_group)
WHERE outcome = 'completed' AND latency_ms > 0
GROUP BY role, endpoint
ORDER BY role, endpoint
