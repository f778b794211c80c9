"""Routers as separate processes, including those from the registry."""

import pytest

# Assertions in helpers show their values too.
pytest.register_assert_rewrite("tests.routers.scenarios", "tests.routers.traced_router")
