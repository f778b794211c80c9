def _deployment_cost_map_rates(deployment):
    return (0.25, None) if deployment["litellm_params"].get("model") == "listed" else (None, None)


class LowestCostLoggingHandler:
    """It takes the first: which is cheapest is for its observer to find out."""

    def __init__(self, known):
        self.known = known

    async def async_get_available_deployments(
        self,
        model_group,
        healthy_deployments,
        messages=None,
        input=None,  # noqa: A002
        request_kwargs=None,
    ):
        return healthy_deployments[0]
