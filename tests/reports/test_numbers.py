"""Scores as text."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bftembed.reports.numbers import decimal, with_ends


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.1236, 3, "0.124"),
        (-0.1236, 2, "-0.12"),
        (-0.0004, 3, "0.000"),
        (-0.0, 2, "0.00"),
        (-0.0006, 3, "-0.001"),
        (1, 3, "1.000"),
        (np.float32(0.5), 1, "0.5"),
        (math.nan, 3, "–"),
    ],
)
def test_a_score_has_its_digits_and_no_minus_zero(value, digits, text):
    assert decimal(value, digits) == text


def test_an_interval_stands_behind_its_score_where_there_is_one():
    assert with_ends(0.5, -0.0001, 0.75) == "0.500 [0.000, 0.750]"
    assert with_ends(0.5, math.nan, math.nan) == "0.500"
    assert with_ends(math.nan, math.nan, math.nan) == "–"
