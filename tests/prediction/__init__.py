"""Tests of latency prediction."""
