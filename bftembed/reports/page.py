"""What the HTML pages share: templates, filters, and the parts that show a run record."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.reports import figures
from bftembed.reports.numbers import decimal
from bftembed.runrecord import RunRecord, read_points

if TYPE_CHECKING:
    from pathlib import Path

    from bftembed.runrecord import ExampleProfile

LONGEST_TEXT = 2000


def render(template: str, **values: Any) -> str:
    """Fill one of the packaged templates; every value is escaped, and no control character gets through.

    Parameters
    ----------
    template
        File name in this folder.
    **values
        What the template names.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: resources.files("bftembed.reports").joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda x: decimal(x).replace("-", "−")
    environment.filters["ends"] = _ends
    environment.filters["duration"] = _duration
    page = environment.get_template(template).render(longest=LONGEST_TEXT, **values)
    # Control characters and halves of surrogate pairs have no place in HTML; a model may emit them all the same.
    page = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "�", page)
    return page.encode("utf-8", "replace").decode("utf-8")


def shown_record(record: RunRecord, folder: Path, number: int) -> dict[str, Any]:
    """Give the record with its UMAPs drawn; points that cannot be read leave their reason in the figure's place."""
    drawn = []
    for i, umap in enumerate(record.umaps):
        try:
            points = read_points(umap, folder)
            plot = figures.scatter(points, f"{umap.title}: {len(points):,} points. {umap.caption}", f"u{number}n{i}")
            drawn.append({"title": umap.title, "caption": umap.caption, "plot": plot, "missing": ""})
        except BftembedError as err:
            drawn.append({"title": umap.title, "caption": umap.caption, "plot": None, "missing": str(err)})
    return {"record": record, "umaps": drawn, "profiles": _side_by_side(record.profiles)}


def _side_by_side(profiles: tuple[ExampleProfile, ...]) -> list[dict[str, Any]]:
    """Give a row per entity where several generators wrote of one; else all profiles as one row without a heading."""
    of_entity: dict[str, list[ExampleProfile]] = {}
    for profile in profiles:
        of_entity.setdefault(profile.entity, []).append(profile)
    if len(of_entity) == len(profiles):
        return [{"entity": "", "profiles": profiles}]
    return [{"entity": entity, "profiles": written} for entity, written in of_entity.items()]


def own_version() -> str:
    """Return name and version of this package, for the foot of a page."""
    from bftembed import __version__

    return f"bftembed {__version__}"


def _ends(interval: dict[str, float]) -> str:
    """Return the ends of an interval in short, one of them where they look the same: ``"0.41–0.53"``."""
    texts = [decimal(interval[k], 2).replace("-", "−") for k in ("low", "high")]
    return "–".join(dict.fromkeys(texts))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
