"""The tuning stage: data, objective, trainer, export; and the uncertainty diagnostic."""
