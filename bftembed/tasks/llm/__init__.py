"""Evaluations of the language model itself."""
