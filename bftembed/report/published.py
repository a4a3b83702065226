"""Published scores of the paper and of GenePT's notebooks, shown apart from measured ones.

Tables 2, 4 and 5 of the paper (arXiv 2511.21075): single values, without seeds or deviations, of other data or label
files. The notebooks of GenePT (github.com/yiqunchen/GenePT): means and population standard deviations over five folds,
and three values that are read from a plot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bftembed.report.table import Cell, Column, Row, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NOTEBOOK_LOGISTIC = "GenePT notebook, logistic regression"
NOTEBOOK_FOREST = "GenePT notebook, random forest"
_NOTEBOOK_PLOT = "GenePT notebook, read from a plot"

#: Columns of table 4, named as the tasks are here.
TASKS = ("tf-range", "dosage", "no-methy", "lys4", "ggi", "ppi")

#: Encoder and author of the profiles → ROC-AUC of each of `TASKS`. scGPT has vectors of its own.
_TABLE_4: dict[str, tuple[float, ...]] = {
    "scGPT": (0.557, 0.853, 0.804, 0.847, 0.635, 0.661),
    "ada-002, profiles by GPT-4o (GenePT)": (0.585, 0.891, 0.910, 0.939, 0.806, 0.681),
    "ada-002, profiles by dft": (0.519, 0.808, 0.761, 0.793, 0.598, 0.604),
    "ada-002, profiles by sft": (0.534, 0.838, 0.769, 0.812, 0.616, 0.622),
    "ada-002, profiles by bft": (0.629, 0.913, 0.927, 0.910, 0.823, 0.769),
    "BioBERT, profiles by dft": (0.495, 0.806, 0.755, 0.777, 0.566, 0.583),
    "BioBERT, profiles by sft": (0.505, 0.836, 0.763, 0.798, 0.584, 0.596),
    "BioBERT, profiles by bft": (0.591, 0.872, 0.879, 0.864, 0.741, 0.707),
}

#: Columns of table 2, named as the metrics are here. Those of scIB that it does not show went into its aggregates.
INTEGRATION_METRICS = (
    *("isolated_labels", "nmi_ari_cluster_labels_kmeans_nmi", "clisi_knn"),
    *("silhouette_batch", "ilisi_knn", "graph_connectivity"),
    *("batch_correction", "bio_conservation", "total"),
)
#: Method → score of each of `INTEGRATION_METRICS`: RNA and protein cells as two batches.
TABLE_2: dict[str, tuple[float, ...]] = {
    "scMODAL": (0.54, 0.66, 1.00, 0.87, 0.46, 0.69, 0.62, 0.67, 0.65),
    "BFT": (0.52, 0.61, 0.98, 0.96, 0.34, 0.52, 0.50, 0.62, 0.57),
    "Harmony": (0.48, 0.44, 0.98, 0.75, 0.08, 0.48, 0.38, 0.58, 0.50),
    "BBKNN": (0.52, 0.51, 0.99, 0.48, 0.00, 0.45, 0.19, 0.60, 0.44),
}

#: What the cells of table 5 are grouped by, and the scores of each grouping, named as the metrics are here (ASW: raw).
_CELL_LABELS, _CELL_METRICS = ("phenotype", "cell type"), ("ari", "ami", "silhouette")
#: Encoder and author of the profiles → the scores of the phenotypes, then those of the cell types.
_TABLE_5: dict[str, tuple[float, ...]] = {
    "PCA": (0.14, 0.16, 0.011, 0.15, 0.28, 0.031),
    "scGPT": (0.11, 0.13, 0.011, 0.26, 0.32, 0.039),
    "GenePT": (0.13, 0.12, 0.019, 0.30, 0.46, 0.041),
    "ada-002, profiles by dft": (0.09, 0.11, 0.003, 0.10, 0.21, 0.016),
    "ada-002, profiles by sft": (0.11, 0.13, 0.006, 0.12, 0.25, 0.021),
    "ada-002, profiles by bft": (0.17, 0.25, 0.022, 0.34, 0.58, 0.061),
    "BioBERT, profiles by dft": (0.07, 0.09, 0.002, 0.08, 0.18, 0.012),
    "BioBERT, profiles by sft": (0.09, 0.11, 0.005, 0.10, 0.22, 0.018),
    "BioBERT, profiles by bft": (0.13, 0.18, 0.015, 0.27, 0.41, 0.043),
}

#: Task → (mean, standard deviation) of the ROC-AUC over five folds: logistic regression, then random forest.
_NOTEBOOK: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "tf-range": ((0.726, 0.261), (0.635, 0.070)),
    "dosage": ((0.889, 0.030), (0.899, 0.031)),
    "no-methy": ((0.912, 0.062), (0.922, 0.059)),
    "lys4": ((0.941, 0.034), (0.952, 0.036)),
}
#: Accuracy of the logistic regression (not converged) on the types of genes, one split.
_NOTEBOOK_GENE_TYPE = 0.9564
#: Embedding → ROC-AUC on the gene-gene interactions. The plot's title says random forest, its code logistic regression.
_NOTEBOOK_GGI = {"GenePT": 0.83, "random vectors": 0.49, "Gene2vec": 0.67}


def integration_table() -> Table:
    """Return table 2 of the paper: RNA and protein cells of another data set as two batches."""
    titles = (
        *("isolated labels", "KMeans NMI", "cLISI", "silhouette batch", "iLISI", "graph connectivity"),
        *("batch correction", "bio conservation", "total"),
    )
    columns = [Column(key, title, digits=2) for key, title in zip(INTEGRATION_METRICS, titles, strict=True)]
    note = "Single values of other data. The aggregates hold metrics that the table does not show."
    return _published("table 2 of the BFT paper (arXiv 2511.21075)", columns, _rows(TABLE_2, columns), note)


def clustering_table() -> Table:
    """Return table 5 of the paper: cells of a data set that the paper does not name."""
    titles = {"ari": ("ARI", 2), "ami": ("AMI", 2), "silhouette": ("ASW", 3)}
    columns = [
        Column(f"{label} {metric}", titles[metric][0], label, digits=titles[metric][1])
        for label in _CELL_LABELS
        for metric in _CELL_METRICS
    ]
    note = (
        "Single values of other data, which the paper does not name; its row of GenePT is within .01 of the aorta "
        "table of the GenePT paper (GenePT-s), so it is likely that set (inferred). ASW is the raw silhouette."
    )
    return _published("table 5 of the BFT paper (arXiv 2511.21075)", columns, _rows(_TABLE_5, columns), note)


def gene_table(tasks: Iterable[str]) -> Table:
    """Return table 4 of the paper and the scores of GenePT's notebooks, for those of `tasks` that are in them."""
    wanted = set(tasks)
    columns = {task: Column(task, task, "ROC-AUC") for task in TASKS}
    rows = _rows(_TABLE_4, list(columns.values()))
    columns["gene-type"] = Column("gene-type", "gene-type", "accuracy")
    for i, source in enumerate((NOTEBOOK_LOGISTIC, NOTEBOOK_FOREST)):
        cells = {task: Cell(of[i][0], text=f"± {of[i][1]:.3f}") for task, of in _NOTEBOOK.items()}
        rows[source] = cells if i else cells | {"gene-type": Cell(_NOTEBOOK_GENE_TYPE)}
    rows |= {f"{name}, {_NOTEBOOK_PLOT}": {"ggi": Cell(value)} for name, value in _NOTEBOOK_GGI.items()}
    note = (
        "Other models and texts, and in part other label files. The paper gives single values; ± is the standard "
        "deviation over five folds. GenePT's notebooks embed NCBI summaries by ada-002."
    )
    chosen = [column for task, column in columns.items() if task in wanted]
    title = "table 4 of the BFT paper (arXiv 2511.21075) and notebooks of GenePT"
    return _published(title, chosen, rows, note)


def _rows(scores: Mapping[str, Sequence[float]], columns: Sequence[Column]) -> dict[str, dict[str, Cell]]:
    keys = [column.key for column in columns]
    return {name: dict(zip(keys, map(Cell, values), strict=True)) for name, values in scores.items()}


def _published(title: str, columns: Sequence[Column], rows: Mapping[str, Mapping[str, Cell]], note: str) -> Table:
    kept = {name: {c.key: cells[c.key] for c in columns if c.key in cells} for name, cells in rows.items()}
    shown = tuple(Row(name, cells, "reference") for name, cells in kept.items() if cells)
    return Table(f"Published: {title}", tuple(columns), shown, footnotes=(note,), published=True)
