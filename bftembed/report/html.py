"""One HTML file that needs nothing else: style, figures and a few lines of script inside, all texts escaped."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed._version import __version__
from bftembed.errors import BftembedError
from bftembed.io import write_text
from bftembed.report.figure import legend, table_svg
from bftembed.report.manifest import Manifest, read_points
from bftembed.report.maps import scatter
from bftembed.report.table import BASELINE_KINDS, LIMITS, interval, number

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from bftembed.report.manifest import ExampleProfile
    from bftembed.report.table import Table

MAX_TEXT = 2000


def write_page(
    path: str | os.PathLike[str],
    sections: Mapping[str, Sequence[Table]],
    *,
    title: str = "",
    manifests: Mapping[Path, Manifest] | None = None,
    sources: Sequence[str] = (),
) -> Path:
    """Write tables and manifests as one HTML file, atomically.

    The page is readable without script; with it, columns can be sorted and baselines hidden.

    Parameters
    ----------
    path
        File to write.
    sections
        Heading → its tables.
    title
        Title; default that of the first manifest.
    manifests
        Folder → manifest of the run that lies there.
    sources
        Names of the results files, for the foot of the page.
    """
    shown = [
        {
            "name": name,
            "tables": [
                {
                    "table": table.plain(),
                    "svg": "" if table.published else table_svg(table, f"s{i}t{j}"),
                    "legend": legend([table]),
                }
                for j, table in enumerate(tables)
            ],
        }
        for i, (name, tables) in enumerate(sections.items())
    ]
    found = manifests or {}
    page = render(
        "page.html.j2",
        title=title or next((m.title for m in found.values() if m.title), "Benchmark of embeddings"),
        records=[_shown(manifest, folder, i) for i, (folder, manifest) in enumerate(found.items())],
        sections=shown,
        sources=sources,
        versions={"written by": f"bftembed {__version__}"},
    )
    write_text(path, page)
    return Path(path)


def render(template: str, **values: Any) -> str:
    """Fill one of the packaged templates; every value is escaped, and no control character gets through."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bftembed.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["baselines"] = (*BASELINE_KINDS, *LIMITS)
    environment.filters["number"] = lambda cell, c: number(cell.value, c.digits, c.signed).replace("-", "−")
    environment.filters["interval"] = lambda cell, c: interval(cell, c).replace("-", "−")
    environment.filters["duration"] = _duration
    environment.filters["groups"] = lambda columns: [
        (name, list(part)) for name, part in itertools.groupby(columns, key=lambda c: c.group)
    ]
    page = environment.get_template(template).render(longest=MAX_TEXT, **values)
    # Control characters and halves of surrogate pairs have no place in HTML; a model may emit them all the same.
    page = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "�", page)
    return page.encode("utf-8", "replace").decode("utf-8")


def _shown(manifest: Manifest, folder: Path, number: int) -> dict[str, Any]:
    """Return the manifest with its UMAPs drawn; points that cannot be read leave their reason in the figure's place."""
    drawn = []
    for i, umap in enumerate(manifest.umaps):
        try:
            points = read_points(umap, folder)
            plot = scatter(points, f"{umap.title}: {len(points):,} points. {umap.caption}", f"u{number}n{i}")
            drawn.append({"umap": umap, "svg": plot[0], "legend": plot[1]})
        except BftembedError as err:
            drawn.append({"umap": umap, "svg": "", "missing": str(err)})
    return {"record": manifest, "umaps": drawn, "profiles": _side_by_side(manifest.profiles)}


def _side_by_side(profiles: tuple[ExampleProfile, ...]) -> list[dict[str, Any]]:
    """Return a row per entity where several generators wrote of one; else all profiles as one row without heading."""
    of_entity: dict[str, list[ExampleProfile]] = {}
    for profile in profiles:
        of_entity.setdefault(profile.entity, []).append(profile)
    if len(of_entity) == len(profiles):
        return [{"entity": "", "profiles": profiles}]
    return [{"entity": entity, "profiles": written} for entity, written in of_entity.items()]


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
