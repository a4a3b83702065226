"""Data, split and metric: the rows of a benchmark."""
