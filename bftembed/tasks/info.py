"""What a task says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """The frozen card of a benchmark task.

    Attributes
    ----------
    name
        As in the column ``task`` of the results.
    kind
        What is embedded: ``"cells"``, ``"genes"`` or ``"pairs"``.
    source
        Where the data come from.
    licence
        Licence of the data.
    split_rule
        How the data are divided for fitting and scoring.
    main_metric
        The one metric to quote.
    direction
        ``"higher"`` or ``"lower"``: which value of it is better.
    version
        Raised whenever equal input may give another value.
    """

    name: str
    kind: str
    source: str
    licence: str
    split_rule: str
    main_metric: str
    direction: str
    version: int
