"""Routers as separate processes, including those from the registry."""

import pytest

# Helpers that assert, too, are to say what they saw.
pytest.register_assert_rewrite("tests.routers.scenarios", "tests.routers.traced_router")
