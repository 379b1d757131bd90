"""Experiments: questions that one table of layers does not answer, each with its own command."""
