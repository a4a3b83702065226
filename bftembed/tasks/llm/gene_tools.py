"""Facts about sets of genes, looked up offline: enrichment, complexes, functions, interactions, summaries."""

from __future__ import annotations

import csv
import functools
import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bftembed.datasets.fetch import find_data
from bftembed.errors import BftembedError
from bftembed.io import canonical_json
from bftembed.tasks.llm.base import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bftembed.tasks.llm.base import Ask

#: Library → file below the data folder (`gmt`: name, id, symbols). All are read; see `GeneTools.enriched`.
LIBRARIES = {
    "GO biological process": "gene_sets/go_bp.gmt.gz",
    "GO cellular component": "gene_sets/go_cc.gmt.gz",
    "GO molecular function": "gene_sets/go_mf.gmt.gz",
    "Reactome": "gene_sets/reactome_20240918.gmt.gz",
    "WikiPathways": "gene_sets/wikipathways_20220610.gmt.gz",
}
_INTERACTIONS = "pairs/huri_table11_union.tsv.gz"
_SUMMARIES = "gene_text/refseq_gene_summary_human.tsv.gz"
#: Terms that share at least so much of their genes with the set in question (Jaccard index) are never shown.
LEAK_JACCARD = 0.5
#: Terms in an answer.
_N_TERMS = 5


class Term(NamedTuple):
    """A term in which genes are enriched: p value by the hypergeometric test, FDR by Benjamini and Hochberg."""

    name: str
    library: str
    overlap: int
    size: int
    p: float
    fdr: float


@dataclass(frozen=True)
class _Sets:
    names: list[str]
    libraries: list[str]
    member: Any  # scipy CSR, int32 (n_sets, n_genes)
    sizes: np.ndarray
    column: dict[str, int]


class GeneTools:
    """Tools over the files of a data folder, read on first use.

    Parameters
    ----------
    data
        Folder with ``gene_sets``, ``pairs`` and ``gene_text``.
    without
        Libraries that are left out.
    """

    #: What an agent may call → what it does.
    TOOLS = {  # noqa: RUF012
        "enrichment": "terms of GO, Reactome and WikiPathways in which the genes are enriched",
        "complexes": "cellular components and complexes in which the genes are enriched",
        "functions": "molecular functions in which the genes are enriched",
        "interactions": "measured protein interactions between the genes",
        "summary": "what is known of one gene",
    }

    def __init__(self, data: Path, without: Sequence[str] = ()) -> None:
        self._data, self._libraries = data, tuple(name for name in LIBRARIES if name not in without)

    def call(self, tool: str, genes: Sequence[str], of: Sequence[str]) -> str:
        """Return the answer of a tool as text.

        Parameters
        ----------
        tool
            A key of `TOOLS`.
        genes
            Approved symbols.
        of
            The set of genes in question, whose own term is not shown.
        """
        if tool == "interactions":
            wanted = set(genes)
            known = _interactions(self._data)
            pairs = [f"{a} with {b}" for a in sorted(wanted) for b in sorted(known.get(a, set()) & wanted) if a <= b]
            return f"Interactions (HuRI): {', '.join(pairs[:20]) or 'none was measured'}."
        if tool == "summary":
            found = [f"{g}: {_summaries(self._data).get(g, 'no summary')[:400]}" for g in genes[:1]]
            return "\n".join(found) or "No gene was named."
        chosen = {"complexes": ("GO cellular component",), "functions": ("GO molecular function",)}.get(tool)
        terms = [t for t in self.enriched(genes, of, chosen, _N_TERMS) if t.fdr < 0.05]
        told = [f"{t.name} ({t.library}): {t.overlap} of {t.size} genes, FDR {t.fdr:.1e}" for t in terms]
        return "\n".join(told) or "No term is enriched (FDR < 0.05)."

    def enriched(
        self,
        genes: Sequence[str],
        of: Sequence[str] = (),
        libraries: Sequence[str] | None = None,
        n_terms: int | None = None,
    ) -> list[Term]:
        """Return the terms with at least one of the genes, sorted by p value; the first `n_terms`, all by default.

        The hypergeometric test, one-sided, over the genes of the libraries; FDR over all their terms. Terms whose genes
        have a Jaccard index of at least `LEAK_JACCARD` with `of` are left out before FDR.
        """
        from scipy.stats import false_discovery_control, hypergeom

        sets = _gene_sets(self._data, tuple(libraries or self._libraries))
        inside, own = (np.zeros(sets.member.shape[1], dtype=np.int32) for _ in range(2))
        for counted, names in ((inside, genes), (own, of)):
            counted[[sets.column[g] for g in dict.fromkeys(names) if g in sets.column]] = 1
        overlap, shared = sets.member @ inside, sets.member @ own
        leaks = (
            shared >= LEAK_JACCARD * (sets.sizes + len(set(of)) - shared) if of else np.zeros(len(shared), dtype=bool)
        )
        tested = np.flatnonzero(~leaks)
        p = np.ones(len(tested))  # of a term without one of the genes
        some = overlap[tested] > 0
        at = tested[some]
        pairs, which = np.unique(np.stack([overlap[at], sets.sizes[at]]), axis=1, return_inverse=True)  # few differ
        p[some] = hypergeom.sf(pairs[0] - 1, len(sets.column), pairs[1], inside.sum())[which.ravel()]
        fdr = false_discovery_control(np.clip(p, 0, 1))
        order = np.argsort(p, kind="stable")
        order = order[some[order]][:n_terms]
        at = tested[order]
        return [
            Term(sets.names[i], sets.libraries[i], int(overlap[i]), int(sets.sizes[i]), float(p[k]), float(fdr[k]))
            for k, i in zip(order, at, strict=True)
        ]


class StoredTools:
    """Answers of tools, kept in the folder of a run, so that a run is scored again without the data.

    Parameters
    ----------
    ask
        Names the folder of the run, and the data folder.
    name
        Of the evaluation.
    without
        As for `GeneTools`.
    kind
        The tools.
    """

    def __init__(self, ask: Ask, name: str, without: Sequence[str], kind: type[GeneTools] = GeneTools) -> None:
        self.names, self._kind = kind.TOOLS, kind
        self._data, self._without = ask.data, without
        self._answers = Kept(ask.folder / f"tools-{name}.json")
        self.keep = self._answers.keep

    def call(self, tool: str, genes: Sequence[str], of: Sequence[str]) -> str:
        """Return the answer of `GeneTools.call`."""
        key = canonical_json([tool, sorted(genes), sorted(of)])
        if key not in self._answers:
            tools = self._kind(find_data(self._data, "gene_sets").parent, self._without)
            self._answers[key] = tools.call(tool, genes, of)
        return str(self._answers[key])


def _open(data: Path, name: str) -> Any:
    for path in (data / name, data / name.removesuffix(".gz")):
        if path.is_file():
            return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    raise BftembedError(f"No {name} in {data}.")


@functools.cache
def _gene_sets(data: Path, libraries: tuple[str, ...]) -> _Sets:
    from scipy import sparse

    names, of, indices, starts = [], [], [], [0]
    columns: dict[str, int] = {}
    for library in libraries:
        with _open(data, LIBRARIES[library]) as handle:
            for line in handle:
                name, _, *genes = line.rstrip("\n").split("\t")
                names.append(name)
                of.append(library)
                indices += [columns.setdefault(g, len(columns)) for g in dict.fromkeys(genes) if g]
                starts.append(len(indices))
    shape = (len(names), len(columns))
    member = sparse.csr_matrix((np.ones(len(indices), dtype=np.int32), indices, starts), shape=shape)
    return _Sets(names, of, member, np.asarray(member.sum(axis=1)).ravel(), columns)


@functools.cache
def _interactions(data: Path) -> dict[str, set[str]]:
    from bftembed.entities.genes import GeneIndex

    index = GeneIndex.default()
    symbols = {record.ensembl_gene_id: symbol for symbol in index if (record := index.get(symbol)) is not None}
    found: dict[str, set[str]] = {}
    with _open(data, _INTERACTIONS) as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            a, b = (symbols.get(row[f"Ensembl_gene_id_{end}"], "") for end in "ab")
            if a and b:
                found.setdefault(a, set()).add(b)
                found.setdefault(b, set()).add(a)
    return found


@functools.cache
def _summaries(data: Path) -> dict[str, str]:
    with _open(data, _SUMMARIES) as handle:
        return {r["symbol"]: r["summary"] for r in csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)}


def gene_set_terms(data: Path, library: str) -> list[str]:
    """Return the names of the terms of a library."""
    return _gene_sets(data, (library,)).names
