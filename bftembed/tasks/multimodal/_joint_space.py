"""RNA and proteins of a CITE-seq experiment in one space: sums of gene and protein vectors, and linked features."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bftembed.cells.pipeline import Aggregation, vectors_of
from bftembed.cells.transforms import GeneTransform
from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.genes import GeneIndex
from bftembed.entities.proteins import ProteinIndex
from bftembed.errors import BftembedError, examples, require, unknown_name
from bftembed.expression.features import GENE_WORDS, PROTEIN_WORDS, match_genes
from bftembed.expression.normalize import log_cp10k
from bftembed.expression.source import Expression, expression_of_anndata
from bftembed.hdf5 import open_h5ad
from bftembed.metrics.clustering import LeidenGraph, nearest_neighbors
from bftembed.tasks.baselines import pca, whole_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.cells.aggregate import Weights
    from bftembed.cells.report import CellEmbeddingReport

#: Neighbors, itself included, and resolution of the clusters that stand in for labels.
_N_NEIGHBORS, _RESOLUTION = 15, 1.0


@dataclass(frozen=True, eq=False)
class _Modality:
    """A matrix of an AnnData, `choice` as of `expression_of_anndata`, and the rows of the paired cells (None: all)."""

    data: Any
    choice: Mapping[str, Any]
    rows: NDArray[np.int64] | None = None

    @functools.cached_property
    def expression(self) -> Expression:
        """The expression of all cells of the data, paired or not."""
        return expression_of_anndata(self.data, **self.choice)

    def vectors(self, embeddings: GeneEmbeddings, how: Aggregation) -> tuple[NDArray[Any], CellEmbeddingReport]:
        """Return the vectors of the paired cells, float32 (n_cells, d), NaN for those without one, and the report."""
        vectors, report = vectors_of(self.expression, embeddings, how)
        return (vectors if self.rows is None else vectors[self.rows]), report


@dataclass(frozen=True, eq=False)
class Modalities:
    """The RNA and the proteins of the same cells; labels are None where missing, or where no column was named."""

    rna: _Modality
    protein: _Modality
    n_cells: int
    labels: NDArray[Any] | None
    stem: str
    notes: tuple[str, ...] = ()


def read_modalities(
    data: Any,
    *,
    protein_data: Any = None,
    label: str | None = None,
    rna: str | None = None,
    adt: str | None = None,
    obsm: str | None = None,
    **choice: Any,
) -> Modalities:
    """Read RNA and proteins into memory; the content of a file decides about its kind, not its name.

    Cells of MuData and of two files are paired by name: those of the RNA that the proteins have too, in its order.
    """
    held, stem, where = _in_memory(data)
    holders: list[Any] = [held]
    notes: list[str] = []
    if (protein_data is not None) + (obsm is not None) + hasattr(held, "mod") > 1:
        raise BftembedError(f"The proteins of {where} are named twice: by MuData, protein_data or obsm.")
    if hasattr(held, "mod"):
        holders += [held.mod[_modality(list(held.mod), *asked, where)] for asked in ((rna, "rna"), (adt, "adt"))]
        one, other = _Modality(holders[1], choice), _Modality(holders[2], {"kind": "protein"})
    elif rna is not None or adt is not None:
        raise BftembedError(f"{where} is one AnnData: it has no modalities by name (rna, adt).")
    elif protein_data is not None:
        holders.append(_in_memory(protein_data)[0])
        one, other = _Modality(held, choice), _Modality(holders[1], {"kind": "protein"})
    else:
        one, other, notes = _of_one(held, choice, obsm, where)
    if one.data is not other.data:
        one, other, notes = _paired(one, other)
    names = one.data.obs_names if one.rows is None else one.data.obs_names[one.rows]
    labels = None if label is None else _labels(label, holders, names, where)
    return Modalities(one, other, len(names), labels, stem, tuple(notes))


def _in_memory(data: Any) -> tuple[Any, str, str]:
    """Return AnnData or MuData, the name of the data for the run, and what messages call it."""
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        try:
            with warnings.catch_warnings():
                # Columns of one gene are summed, and CD4 is also an antibody.
                warnings.filterwarnings("ignore", message=".*names are not unique")
                return _read(path), path.name.removesuffix(".gz").rsplit(".", 1)[0], str(path)
        except BftembedError:
            raise
        except Exception as err:  # scanpy, anndata, mudata and zarr each raise their own for a damaged file
            told = (str(err) or type(err).__name__).splitlines()[0]
            raise BftembedError(f"{path} cannot be read ({told}).") from err
    if not hasattr(data, "obs_names"):
        raise BftembedError(f"Expected an AnnData, a MuData or a path, got {type(data).__name__}.")
    stem = Path(data.filename).stem if data.filename else "cells"
    return (data.to_memory() if data.isbacked else data), stem, "the MuData" if hasattr(data, "mod") else "the AnnData"


def _read(path: Path) -> Any:
    import anndata
    import scanpy

    mudata = functools.partial(require, "mudata", "scib")
    if any((path / name).is_file() for name in ("matrix.mtx.gz", "matrix.mtx")):
        return scanpy.read_10x_mtx(path, gex_only=False, make_unique=False)
    if path.is_dir():
        return mudata().read_zarr(path) if (path / "mod").is_dir() else anndata.read_zarr(path)
    with open_h5ad(path) as handle:
        members = set(handle)
    if "mod" in members and "X" not in members:
        # Until mudata 0.4 columns of the modalities were copied into the table of all cells, with a warning.
        option = getattr(mudata(), "set_options", None)
        with option(pull_on_update=False) if option else contextlib.nullcontext():
            return mudata().read_h5mu(path)
    return anndata.read_h5ad(path) if "obs" in members else scanpy.read_10x_h5(path, gex_only=False)


def _modality(known: list[str], name: str | None, what: str, where: str) -> str:
    """Return the modality of that name, or the one with a usual name."""
    if name is not None and name not in known:
        raise unknown_name("modality", name, known, where=where)
    usual = GENE_WORDS if what == "rna" else PROTEIN_WORDS
    found = [one for one in known if one.lower() in usual] if name is None else [name]
    if len(found) != 1:
        raise BftembedError(f"{where} has the modalities {', '.join(known) or '(none)'}: name one by {what}.")
    return found[0]


def _of_one(
    held: Any, choice: Mapping[str, Any], obsm: str | None, where: str
) -> tuple[_Modality, _Modality, list[str]]:
    """Find the proteins in ``.obsm``, or among the features by their types."""
    rna, notes = _Modality(held, choice), []
    usual = [key for key in held.obsm if key.lower() in PROTEIN_WORDS]
    if obsm is None and len(usual) == 1:
        obsm, notes = usual[0], [f"Proteins: obsm[{usual[0]!r}], by its usual name"]
    if obsm is not None:
        return rna, _Modality(held, {"obsm": obsm}), notes
    protein = _Modality(held, {**choice, "gene_column": None, "kind": "protein"})
    # Without features of the type protein, `protein` has the genes, too.
    if not rna.expression.n_other_features or protein.expression.genes == rna.expression.genes:
        known = examples(list(held.obsm)) or "none"
        raise BftembedError(f"{where} has no proteins by feature type. Name a key of .obsm ({known}) or protein_data.")
    return rna, protein, notes


def _paired(rna: _Modality, protein: _Modality) -> tuple[_Modality, _Modality, list[str]]:
    """Pair the cells of two tables by name."""
    ours, theirs = rna.data.obs_names, protein.data.obs_names
    if twice := examples([*ours[ours.duplicated()], *theirs[theirs.duplicated()]]):
        raise BftembedError(f"Cells cannot be paired: names occur more than once ({twice}).")
    shared = ours.intersection(theirs, sort=False)
    if shared.empty:
        raise BftembedError(f"No cell has RNA and proteins by name ({examples(ours)}; {examples(theirs)}).")
    rows = [names.get_indexer(shared) for names in (ours, theirs)]
    alone, of = len(ours) - len(shared), len(theirs) - len(shared)
    notes = [f"Cells left out: {alone} of the RNA and {of} of the proteins without a partner"] if alone or of else []
    return _Modality(rna.data, rna.choice, rows[0]), _Modality(protein.data, protein.choice, rows[1]), notes


def _labels(label: str, holders: list[Any], cells: Any, where: str) -> NDArray[Any]:
    """Return a column of the first of the tables that has it, None where missing."""
    for holder in holders:
        if label in holder.obs:
            column = holder.obs[label] if len(holders) == 1 else holder.obs[label].reindex(cells)
            return column.to_numpy(dtype=object, na_value=None)
    raise unknown_name("obs column", label, dict.fromkeys(c for h in holders for c in h.obs), where=where)


@dataclass(frozen=True)
class JointAggregation:
    """How vectors of genes and of proteins become vectors of cells; options as in `bftembed.cells.embed.embed_cells`.

    Center and components of `gene_matrix` are those of the genes of the RNA, for both modalities; `protein_normalize`
    is that of the proteins, and `center_cells` subtracts the mean of the cells of each modality.
    """

    weights: Weights = "expression"
    gene_matrix: str = "raw"
    protein_normalize: str = "clr"
    center_cells: bool = False


class _JointVectors(NamedTuple):
    """Cells of both modalities in one space, float32 (n_cells, d), NaN for a cell that expresses nothing embedded."""

    rna: NDArray[Any]
    protein: NDArray[Any]
    note: str
    normalize: str


def joint_vectors(
    cells: Modalities, genes: GeneEmbeddings, proteins: GeneEmbeddings | None, how: JointAggregation, name: str
) -> _JointVectors:
    """Embed the cells of both modalities; without protein embeddings by `_antibody_embeddings`."""
    if proteins is not None and proteins.dim != genes.dim:
        raise BftembedError(f"{name}: genes have {genes.dim} dimensions, proteins {proteins.dim}: use one encoder.")
    antibodies = cells.protein.expression.genes
    own = _antibody_embeddings(antibodies, genes) if proteins is None else proteins
    matched = match_genes(antibodies, own.ids, ProteinIndex.default().resolve, where=f"{name}: the proteins").rows >= 0
    if how.gene_matrix != "raw":
        expression = cells.rna.expression
        rows = match_genes(expression.genes, genes.ids, GeneIndex.default().resolve, where=expression.where).rows
        # Centered each on its own, a protein and its gene, the same vector before, would no longer be near.
        shared = GeneTransform.fit(genes.matrix[np.unique(rows[rows >= 0])], how.gene_matrix)
        genes, own = _mapped(genes, shared), _mapped(own, shared)
    rna, of_rna = cells.rna.vectors(genes, Aggregation("gene", weights=how.weights))
    protein, _ = cells.protein.vectors(own, Aggregation("protein", how.protein_normalize, how.weights))
    if how.center_cells:
        rna, protein = _centered(rna), _centered(protein)
    without = [a for a, has in zip(antibodies, matched, strict=True) if not has]
    note = (
        f"{how.weights} weights, {how.gene_matrix} gene matrix{', less the mean of the modality' * how.center_cells}; "
        f"{of_rna.n_matched:,} of {of_rna.n_genes:,} genes with a vector ({of_rna.coverage:.1%} of the RNA); "
        f"{int(matched.sum())} of {len(antibodies)} antibodies with a vector{' of their genes' * (proteins is None)}"
        f"{f' (without: {examples(without)})' if without else ''}"
    )
    return _JointVectors(rna, protein, note, of_rna.normalize)


def antibody_genes(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return entity → symbols of its genes, of the antibodies that are known: CD3 has three, the isoform CD45RA one."""
    return {found.entity: found.genes for found in ProteinIndex.default().resolve(names) if found.genes}


def _antibody_embeddings(names: Sequence[str], genes: GeneEmbeddings) -> GeneEmbeddings:
    """Return a vector for each antibody: that of its name or gene, of several genes the mean of those that have one."""
    by_name: dict[str, tuple[str, ...]] = {name: (name,) for name in names if name in genes}
    means = {}
    for entity, symbols in (by_name | antibody_genes(names) | by_name).items():
        known = [s for s in symbols if s in genes]
        if known and (mean := genes.matrix[genes.rows(known)].mean(axis=0)).any():
            means[entity] = mean
    if not means:
        raise BftembedError(f"None of the {len(names)} proteins ({examples(names)}) has a gene with an embedding.")
    return GeneEmbeddings(list(means), np.stack(list(means.values())), genes.provenance)


def _mapped(embeddings: GeneEmbeddings, transform: GeneTransform) -> GeneEmbeddings:
    """Return embeddings mapped; one that becomes zero (the mean itself) has no direction and is left out."""
    matrix = transform.of(embeddings.matrix)
    kept = np.flatnonzero(matrix.any(axis=1))
    if not kept.size:
        raise BftembedError("All embeddings are equal: no direction is left about their mean. Take gene_matrix='raw'.")
    return GeneEmbeddings([embeddings.ids[i] for i in kept], matrix[kept], embeddings.provenance)


def _centered(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return the vectors of the cells of a modality less their mean, of length 1 again."""
    moved = vectors.astype(np.float64) - np.nanmean(vectors, axis=0, dtype=np.float64)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.divide(moved, length, out=np.full_like(moved, np.nan), where=length > 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _LinkedFeatures:
    """Antibodies and the RNA of their genes, float32 (n_cells, n_features): normalized counts, mean normalized RNA."""

    rna: NDArray[Any]
    protein: NDArray[Any]
    note: str

    def scaled(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return each feature with mean 0 and variance 1 within its modality; those alone that vary in both."""
        parts = [part.astype(np.float64) for part in (self.rna, self.protein)]
        varies = np.logical_and(*(part.std(axis=0) > 0 for part in parts))
        if not varies.any():
            raise BftembedError("No antibody varies between cells in its counts and in its RNA: no linked features.")
        rna, protein = (
            ((x - x.mean(axis=0)) / np.where(varies, x.std(axis=0), 1))[:, varies].astype(np.float32) for x in parts
        )
        return rna, protein


def linked_features(cells: Modalities, protein_normalize: str) -> _LinkedFeatures:
    """Return the antibodies of which the data have the RNA of a gene, and that RNA; the mean of several genes.

    Integrations of RNA and proteins (MaxFuse, scMODAL) start from this space.
    """
    antibodies, names = cells.protein.expression.genes, cells.rna.expression.genes
    genes_of = antibody_genes(antibodies)
    wanted = sorted({gene for genes in genes_of.values() for gene in genes})
    rows = match_genes(names, wanted, GeneIndex.default().resolve, where="linked features: the RNA").rows
    present = {wanted[row] for row in rows[rows >= 0]}
    features = {entity: [g for g in genes if g in present] for entity, genes in genes_of.items() if present & {*genes}}
    linked = sorted({g for genes in features.values() for g in genes})
    link = np.array([[(g in genes) / len(genes) for genes in features.values()] for g in linked], dtype=np.float32)
    rna = _summed(cells.rna, GeneEmbeddings(linked, link), Aggregation("gene", l2=False))
    eye = GeneEmbeddings(list(features), np.eye(len(features), dtype=np.float32))
    protein = _summed(cells.protein, eye, Aggregation("protein", protein_normalize, l2=False))
    note = f"{len(features)} of {len(antibodies)} antibodies with the RNA of their genes, normalized"
    return _LinkedFeatures(rna, protein, note)


def _summed(modality: _Modality, link: GeneEmbeddings, how: Aggregation) -> NDArray[Any]:
    """Return the sums of normalized values that `link` (features × sums) names; 0 for a cell with none of them."""
    vectors, report = modality.vectors(link, how)
    return np.nan_to_num(vectors * np.float32(report.n_genes), nan=0.0)  # "all-genes" divides by their number


def rna_clusters(rna: _Modality, normalize: str) -> NDArray[Any]:
    """Return Leiden clusters of the RNA's principal components as labels, object (n_cells,)."""
    matrix = whole_matrix(rna.expression)
    matrix = (matrix if rna.rows is None else matrix[rna.rows]).astype(np.float32)
    if matrix.shape[0] < _N_NEIGHBORS:
        raise BftembedError(f"Clusters of the RNA need {_N_NEIGHBORS} cells, not {matrix.shape[0]}: name a label.")
    if normalize == "log1p-cp10k":
        log_cp10k(matrix)
    found = LeidenGraph(nearest_neighbors(pca(matrix), _N_NEIGHBORS)).clusters(_RESOLUTION, seed=0)
    return np.array([f"RNA cluster {cluster}" for cluster in found], dtype=object)
