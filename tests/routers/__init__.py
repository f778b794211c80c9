"""Routers as processes of their own, and those that the registry holds."""

import pytest

# Helpers that assert, too, are to say what they saw.
pytest.register_assert_rewrite("tests.routers.scenarios", "tests.routers.traced_router")
