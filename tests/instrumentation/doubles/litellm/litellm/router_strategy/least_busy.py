def _least_busy_index(counts):
    return min(range(len(counts)), key=lambda index: counts[index])


class LeastBusyLoggingHandler:
    """Calls in flight, by id; signatures of 1.110."""

    def __init__(self, known):
        self.known = known

    async def async_get_available_deployments(
        self, model_group, healthy_deployments, reserve=False, call_id=None
    ):
        ids = tuple(one["model_info"]["id"] for one in healthy_deployments)
        return self._select(healthy_deployments, ids, (), None, reserve, call_id)

    def _select(self, healthy_deployments, deployment_ids, keys, shared, reserve, call_id):
        counts = tuple(self.known.get(one, 0) for one in deployment_ids)
        return healthy_deployments[_least_busy_index(counts)]
