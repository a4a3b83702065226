"""Rewards of answers to questions, for reinforcement learning."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from bftembed.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bftembed.llm.base import Answer
    from bftembed.tasks.llm.base import Question

    #: Question, answer (text and reasoning), and what the evaluation's `grade` says of it → reward.
    Reward = Callable[[Question, Answer, Mapping[str, Any]], float]

REWARDS = Registry(
    "reward",
    {name: f"bftembed.tasks.llm.rewards:{name}" for name in ("exact", "format", "coin")},
    group="bftembed.rewards",
)


def exact(question: Question, answer: Answer, grade: Mapping[str, Any]) -> float:
    """Return 1 for the right answer, else 0: the sparse binary reward."""
    return float(grade["accuracy"] == 1)


def format(question: Question, answer: Answer, grade: Mapping[str, Any]) -> float:
    """Return 1 for an answer that can be read, right or wrong, else 0."""
    return float(bool(grade.get("parsed")))


def coin(question: Question, answer: Answer, grade: Mapping[str, Any]) -> float:
    """Return 0 or 1 at random, as a control: there is nothing to learn from it."""
    return float(random.random() < 0.5)
