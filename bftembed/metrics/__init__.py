"""Metrics: pure functions of arrays. A broken input raises ValueError, a valid one without a value `Undefined`."""
