"""Spans and records straight to OTLP's bytes, and an exporter that sends them.

The SDK's exporters build a tree of protobuf objects for each span, which costs more than all of
tracing it. The messages here are the same, field by field (`tests/telemetry/otlp`).
"""
