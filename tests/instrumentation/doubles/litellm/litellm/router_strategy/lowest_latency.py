class LowestLatencyLoggingHandler:
    """Seconds by id; it leaves them in the request's metadata, by address."""

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
        return self._get_available_deployments(
            model_group, healthy_deployments, messages, input, request_kwargs, self.known
        )

    def _get_available_deployments(
        self,
        model_group,
        healthy_deployments,
        messages=None,
        input=None,  # noqa: A002
        request_kwargs=None,
        request_count_dict=None,
    ):
        seconds = {
            one["litellm_params"]["api_base"]: request_count_dict.get(one["model_info"]["id"], 0.0)
            for one in healthy_deployments
        }
        request_kwargs["metadata"]["_latency_per_deployment"] = seconds
        return min(healthy_deployments, key=lambda one: seconds[one["litellm_params"]["api_base"]])
