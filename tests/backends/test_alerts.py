"""Prometheus accepts configuration and rules, and every alert fires when it should."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from tests.backends.programs import CONFIGURATIONS, program

pytestmark = pytest.mark.backends

PROMETHEUS = CONFIGURATIONS / "prometheus"


def promtool(*arguments: str) -> str:
    """Return the errors and warnings of promtool; "" if there are none."""
    done = subprocess.run(
        [program("promtool"), *arguments],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr if done.returncode else ""


def test_configuration() -> None:
    """The configuration and its rules are valid, without any warning of promtool."""
    assert promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yaml") == ""


def test_rules() -> None:
    """Each alert fires in its case, with its text, and in no other."""
    assert promtool("test", "rules", "alerts_test.yaml") == ""


def test_every_alert_is_tested() -> None:
    """For each alert there is a case in which it fires, and one in which it does not."""
    rules = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text("utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yaml").read_text("utf-8"))
    tested = [
        (test["alertname"], bool(test.get("exp_alerts")))
        for case in cases["tests"]
        for test in case["alert_rule_test"]
    ]

    assert {(alert, fires) for alert in alerts for fires in (True, False)} == set(tested)
