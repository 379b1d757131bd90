"""Runnable examples: the demo (``python -m examples.demo``), its networks, data and training."""
