"""One HTML file with style, figures and script inside; the tables are in ``templates/parts.html.j2``."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed._version import __version__
from bftembed.errors import BftembedError
from bftembed.io import write_text
from bftembed.progress import duration
from bftembed.report.figure import scatter, table_svg
from bftembed.report.manifest import Manifest, read_points
from bftembed.report.table import BASELINE_KINDS, LIMITS

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from bftembed.report.manifest import ExampleProfile
    from bftembed.report.table import Table

_MAX_TEXT = 2000


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
        {"name": name, "tables": [(t, "" if t.published else table_svg(t, f"s{i}t{j}")) for j, t in enumerate(tables)]}
        for i, (name, tables) in enumerate(sections.items())
    ]
    found = manifests or {}
    page = render(
        "page.html.j2",
        title=title or next((m.title for m in found.values() if m.title), "Benchmark results"),
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
    environment.filters["number"] = lambda cell, c: c.number(cell.value).replace("-", "−")
    environment.filters["interval"] = lambda cell, c: c.interval(cell).replace("-", "−")
    environment.filters["duration"] = duration
    environment.filters["groups"] = lambda columns: [
        (name, list(part)) for name, part in itertools.groupby(columns, key=lambda c: c.group)
    ]
    page = environment.get_template(template).render(longest=_MAX_TEXT, **values)
    # Control characters and halves of surrogate pairs have no place in HTML; a model may emit them all the same.
    page = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "�", page)
    return page.encode("utf-8", "replace").decode("utf-8")


def _shown(manifest: Manifest, folder: Path, number: int) -> dict[str, Any]:
    """Return the manifest with its UMAPs drawn; points that cannot be read leave their reason in the figure's place."""
    drawn = []
    for i, umap in enumerate(manifest.umaps):
        try:
            points = read_points(umap, folder)
            svg = scatter(points, f"{umap.title}: {len(points):,} points. {umap.caption}", f"u{number}n{i}")
            drawn.append({"umap": umap, "svg": svg})
        except BftembedError as err:
            drawn.append({"umap": umap, "svg": "", "missing": str(err)})
    of_entity: dict[str, list[ExampleProfile]] = {}
    for profile in manifest.profiles:
        of_entity.setdefault(profile.entity, []).append(profile)
    return {"record": manifest, "umaps": drawn, "profiles": of_entity}
