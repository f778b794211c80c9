class LowestTPMLoggingHandler_v2:  # noqa: N801
    """Tokens and requests of this minute, by id."""

    def __init__(self, known):
        self.known = known

    async def async_get_available_deployments(
        self,
        model_group,
        healthy_deployments,
        messages=None,
        input=None,  # noqa: A002
    ):
        return self._return_potential_deployments(
            healthy_deployments=healthy_deployments,
            all_deployments=self.known,
            input_tokens=3,
            rpm_dict={"id-1": 2, "id-0": None},
        )[0]

    def _return_potential_deployments(
        self, healthy_deployments, all_deployments, input_tokens, rpm_dict
    ):
        least = min(all_deployments, key=all_deployments.get)
        return [one for one in healthy_deployments if one["model_info"]["id"] == least]
