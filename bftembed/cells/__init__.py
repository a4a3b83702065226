"""Expression times gene embeddings: reading, normalising, aggregating and writing cells."""
