"""Benchmarks of cell embeddings: clustering and integration."""
