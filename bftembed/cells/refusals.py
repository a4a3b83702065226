"""What values of an expression matrix are refused with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from bftembed.cells.examine import ValueSummary
    from bftembed.cells.reading import Expression


def refuse_bad_values(values: ValueSummary, expression: Expression) -> None:
    """Refuse values that are no expression: not finite, or negative.

    Raises
    ------
    BftembedError
        With their number, the first of them, and other matrices to take.
    """
    for n, first, what, cause in (
        (values.n_not_finite, values.first_not_finite, "NaN, infinite or beyond float32", "Repair or remove them"),
        (values.n_negative, values.first_negative, "negative", "Scaled or regressed values cannot be weights"),
    ):
        if first is None:
            continue
        (cell,), gene = expression.cell_name_part(range(first[0], first[0] + 1)), expression.genes[first[1]]
        remedy = (
            f"Other matrices here: {'; '.join(expression.others)}."
            if expression.others
            else ("There is no other matrix in the data: go back to the counts or the logged values.")
        )
        raise BftembedError(
            f"{expression.where}: {n} values are {what}, the first in cell {cell!r} (row {first[0]}), gene {gene!r} "
            f"(column {first[1]}). {cause}. {remedy}"
        )
