"""Pure functions: arrays in, floats out."""
