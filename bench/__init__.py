"""Benchmarks: the layer table, the comparison that `make bench` prints, and pytest-benchmark suites."""
