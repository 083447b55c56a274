"""Kernel comparison reports from the JSON of `pytest --benchmark --benchmark-json=run.json`."""
