"""Record gseapy's over-representation test, the oracle of tests/tasks/llm/test_geneagent.py.

Usage: python tests/manual/gseapy_enrichment.py DATA OUT.json

Needs gseapy 1.3.1 alone. DATA holds gene_sets.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import gseapy

GENES = ["PEX1", "PEX2", "PEX3", "PEX5", "PEX6", "TP53"]


def main(data: Path, out: Path) -> None:
    with gzip.open(data / "gene_sets" / "wikipathways_20220610.gmt.gz", "rt") as handle:
        lines = [line.rstrip("\n").split("\t") for line in handle]
    sets = {f"{name}\t{number}": [gene for gene in genes if gene] for number, (name, _, *genes) in enumerate(lines)}
    background = sorted({gene for genes in sets.values() for gene in genes})
    found = gseapy.enrich(GENES, sets, background=background, outdir=None).results
    rows = sorted([r["Term"].split("\t")[0], r["Overlap"], r["P-value"]] for _, r in found.iterrows())
    out.write_text(json.dumps({"gseapy": gseapy.__version__, "genes": GENES, "terms": rows}) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
