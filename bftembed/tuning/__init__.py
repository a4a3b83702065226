"""Tuning: data, trainer, export; and the uncertainty diagnostic."""
