"""The gene tasks that come with this package: GenePT's, and a few that it has not. Their data are public files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.datasets import FILES, DataNotFoundError, find_files, load
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.tasks.genes.definition import TEST, TRAIN, UNUSED, GeneTask, pair_task, single_task
from bftembed.tasks.genes.folder import load_task
from bftembed.tasks.info import TaskInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bftembed.datasets.parsers import LabelLists

_SEED = 2023
_TRAIN_SHARE = 0.7
#: The notebook keeps the gene types with more genes than this.
_RARE_KIND = 75
_SET_SIZES = range(20, 301)

_FOLDS = "genept: 5 stratified folds in file order, not shuffled; strict: shuffled stratified folds"
_METHYLATION_WORDS = ("bivalent", "H3K4me3", "H3K27me3", "methylation")
_DOSAGE_WORDS = (
    "dosage",
    "haploinsufficient",
    "haploinsufficiency",
    "haplosufficient",
    "triplosensitive",
    "triplosensitivity",
)
_FACTOR_WORDS = (
    "transcription factor",
    "transcriptional activator",
    "transcriptional repressor",
    "transcriptional regulator",
    "DNA-binding",
    "DNA binding",
)
_KIND_WORDS = (
    "protein coding",
    "protein-coding",
    "non-coding RNA",
    "noncoding RNA",
    "lncRNA",
    "pseudogene",
    "microRNA",
    "miRNA",
    "small nuclear RNA",
    "snRNA",
    "small nucleolar RNA",
    "snoRNA",
    "ribosomal RNA",
    "rRNA",
    "immunoglobulin",
    "T cell receptor",
)


def get_task(name_or_folder: str | os.PathLike[str]) -> GeneTask:
    """Return a task by name, or read one of the user's own from its folder.

    Parameters
    ----------
    name_or_folder
        A key of `TASKS`, or the path of a folder as `bftembed.tasks.genes.folder.load_task` reads it. A name of
        `TASKS` is always the task of that name; a folder called so is ``./NAME``.

    Raises
    ------
    UnknownNameError
        For a name that is neither.
    bftembed.datasets.DataNotFoundError
        When the task's data are not on this machine; says how to get them.
    BftembedError
        For data or a folder that cannot be used, and for a folder whose task has the name of one of `TASKS`.
    """
    text = os.fspath(name_or_folder)
    if text in _BUILTIN:
        return _BUILTIN[text].make(text)
    is_path = any(mark in text for mark in (os.sep, os.altsep) if mark)
    if is_path or (os.path.lexists(text) and Path(text).is_dir()):
        task = load_task(text)
        if task.info.name in _BUILTIN:
            raise BftembedError(
                f"{text}: the task is called {task.info.name!r} like one of ours; rows of results would mix. Change "
                "'name' in task.yaml."
            )
        return task
    raise unknown_name("task", text[:80], [*_BUILTIN, "or a folder such as ./my_task"])


def list_tasks() -> list[dict[str, Any]]:
    """Return what there is, without reading the data.

    Returns
    -------
    list of dict
        For every task ``name``, ``kind`` (one of `KINDS`), ``description``, and ``here``: whether its data are on
        this machine.

    Raises
    ------
    BftembedError
        When a folder of ``$BFTEMBED_DATA`` does not exist.
    """
    there = {name for name, found in find_files().items() if isinstance(found, Path)}
    return [
        {"name": name, "kind": task.kind, "description": task.description, "here": task.is_here(there)}
        for name, task in _BUILTIN.items()
    ]


def _tf_range(name: str) -> GeneTask:
    lists = _load(name, "tf-range")
    words = ("long-range", "long range", "short-range", "short range")
    return _two_classes(_info(name, ["tf-range"]), lists.positive, lists.negative, words)


def _dosage(name: str) -> GeneTask:
    notes = []
    try:
        file, lists = "geneformer-dosage", _load(name, "geneformer-dosage")
    except DataNotFoundError as err:
        try:
            file, lists = "dosage-cx0", _load(name, "dosage-cx0")
        except DataNotFoundError:
            raise err from None
        notes.append("labels of dosage-cx0, a public copy of the same lists: geneformer-dosage is not on this machine")
    return _of_ensembl(_info(name, [file]), lists, _DOSAGE_WORDS, notes)


def _no_methylation(name: str) -> GeneTask:
    return _bivalent(name, "geneformer-no-methylation")


def _lys4(name: str) -> GeneTask:
    return _bivalent(name, "geneformer-lys4-only")


def _bivalent(name: str, others: str) -> GeneTask:
    from bftembed.datasets.parsers import LabelLists

    lists = LabelLists(_load(name, "geneformer-bivalent"), _load(name, others))
    return _of_ensembl(_info(name, ["geneformer-bivalent", others]), lists, _METHYLATION_WORDS, [])


def _transcription_factors(name: str) -> GeneTask:
    index = GeneIndex.default()
    found = index.resolve(_load(name, "transcription-factors"))
    factors = [r.entity for r in found]
    coding = (s for s in index if (record := index.get(s)) and record.locus_type == "gene with protein product")
    known = set(factors)
    others = [symbol for symbol in coding if symbol not in known]
    renamed = sum(r.status == "mapped" for r in found)
    strange = [r.name for r in found if not r.symbol]
    notes = []
    if renamed:
        notes.append(f"{renamed} factors are listed by an earlier name; here by their approved symbol")
    if strange:
        notes.append(f"{len(strange)} factors have no approved symbol; kept as listed: {examples(strange)}")
    info = _info(name, ["transcription-factors"], source="HGNC", licence="HGNC: CC0")
    return _two_classes(info, factors, others, _FACTOR_WORDS, notes)


def _gene_type(name: str) -> GeneTask:
    rows = _load(name, "gene-biotypes")
    kinds: dict[str, set[str]] = {}
    for _, gene, kind in rows:
        if gene:
            kinds.setdefault(gene, set()).add(kind)
    of_gene = {gene: next(iter(found)) for gene, found in kinds.items() if len(found) == 1}
    sizes: dict[str, int] = {}
    for kind in of_gene.values():
        sizes[kind] = sizes.get(kind, 0) + 1
    kept = sorted(kind for kind, size in sizes.items() if size > _RARE_KIND)
    code = {kind: i for i, kind in enumerate(kept)}
    genes = [gene for gene, kind in of_gene.items() if kind in code]
    notes = [
        f"{sum(not gene for _, gene, _ in rows)} of {len(rows)} Ensembl genes have no name and are left out",
        f"{len(kinds) - len(of_gene)} names of genes of two types are left out",
        f"{len(of_gene) - len(genes)} genes of the {len(sizes) - len(kept)} types with no more than {_RARE_KIND} genes "
        "are left out",
    ]
    rule = "genept: train_test_split(test_size=.30, random_state=2023); strict: shuffled stratified folds"
    labels = [code[of_gene[gene]] for gene in genes]
    return single_task(
        _info(name, ["gene-biotypes"], rule),
        "multiclass",
        genes,
        np.array(labels, dtype=np.int64),
        label_names=kept,
        label_words=_KIND_WORDS,
        notes=notes,
    )


def _kegg(name: str) -> GeneTask:
    sets = _load(name, "kegg")
    symbol, notes = _symbols([gene for genes in sets.values() for gene in genes], "Entrez")
    mapped = {of: {symbol[gene]: None for gene in genes if gene in symbol} for of, genes in sets.items()}
    kept = {of: genes for of, genes in mapped.items() if len(genes) in _SET_SIZES}
    row = {gene: i for i, gene in enumerate(dict.fromkeys(gene for genes in kept.values() for gene in genes))}
    labels = np.zeros((len(row), len(kept)), dtype=bool)
    for j, genes in enumerate(kept.values()):
        labels[[row[gene] for gene in genes], j] = True
    notes.append(
        f"{len(sets) - len(kept)} of {len(sets)} pathways have fewer than {_SET_SIZES.start} or more than "
        f"{_SET_SIZES.stop - 1} genes and are left out"
    )
    rule = "by the protocol, at random; not a task of GenePT"
    return single_task(
        _info(name, ["kegg"], rule), "multilabel", list(row), labels, label_names=list(kept), notes=notes
    )


def _ggi(name: str) -> GeneTask:
    pairs: list[tuple[str, str]] = []
    labels: list[int] = []
    split: list[str] = []
    for part, role in (("train", TRAIN), ("valid", UNUSED), ("test", TEST)):
        text, label = _load(name, f"gene2vec-{part}-text"), _load(name, f"gene2vec-{part}-label")
        if len(text) != len(label):
            raise BftembedError(f"Task {name}: gene2vec-{part} has {len(text)} pairs, but {len(label)} labels.")
        pairs += text
        labels += label
        split += [role] * len(text)
    rule = "as given: fit on train, score on test, valid unused; strict: gene-disjoint folds"
    return pair_task(_info(name, _GENE2VEC, rule), pairs, np.array(labels, dtype=np.int64), split=split)


def _ppi(name: str) -> GeneTask:
    ensembl, searched = _load(name, "huri"), _load(name, "huri-space")
    symbol, notes = _symbols([*(gene for pair in ensembl for gene in pair), *searched], "Ensembl")
    positives = [(symbol[a], symbol[b]) for a, b in ensembl if a in symbol and b in symbol]
    notes.append(f"{len(ensembl) - len(positives)} of {len(ensembl)} pairs of HuRI have a gene without a symbol")
    notes.append(f"{sum(a == b for a, b in positives)} positives are self-pairs")
    space = sorted({symbol[gene] for gene in searched if gene in symbol})
    genes = sorted({*space, *(gene for pair in positives for gene in pair)})
    rng = np.random.default_rng(_SEED)
    order = rng.permutation(len(genes))
    in_train = {genes[i] for i in order[: round(_TRAIN_SHARE * len(genes))]}
    split = [UNUSED if (a in in_train) != (b in in_train) else TRAIN if a in in_train else TEST for a, b in positives]
    pairs, labels, taken = list(positives), [1] * len(positives), {frozenset(pair) for pair in positives}
    for part in (TRAIN, TEST):
        of_part = [gene for gene in space if (gene in in_train) == (part == TRAIN)]
        drawn = _negatives(of_part, split.count(part), taken, rng, f"Task {name} ({part})")
        pairs += drawn
        labels += [0] * len(drawn)
        split += [part] * len(drawn)
    rule = (
        "a construction of ours, since the paper names none: 70 % of HuRI's searched genes are train, 30 % test (seed "
        "2023); pairs of both parts are unused; per part as many uniform negatives, not in HuRI; strict: gene-disjoint "
        "folds, degree-matched negatives"
    )
    return pair_task(
        _info(name, ["huri", "huri-space"], rule),
        pairs,
        np.array(labels, dtype=np.int64),
        split=split,
        notes=notes,
    )


def _negatives(
    genes: Sequence[str], n: int, taken: set[frozenset[str]], rng: np.random.Generator, what: str
) -> list[tuple[str, str]]:
    """Draw `n` different pairs of different genes, uniformly, none of them in `taken`."""
    inside = set(genes)
    possible = len(genes) * (len(genes) - 1) // 2 - sum(len(pair) == 2 and pair <= inside for pair in taken)
    if n > possible:
        raise BftembedError(
            f"{what}: {n} negatives are needed, but {len(genes)} genes have only {possible} free pairs."
        )
    drawn: dict[frozenset[str], tuple[str, str]] = {}
    while len(drawn) < n:
        for i, j in rng.integers(len(genes), size=(n, 2)).tolist():
            pair = frozenset((genes[i], genes[j]))
            if i != j and pair not in taken:
                drawn.setdefault(pair, (genes[i], genes[j]))
                if len(drawn) == n:
                    break
    return list(drawn.values())


def _of_ensembl(info: TaskInfo, lists: LabelLists, words: Sequence[str], notes: Sequence[str]) -> GeneTask:
    """Make a binary task of two lists of Ensembl ids."""
    symbol, left_out = _symbols([*lists.positive, *lists.negative], "Ensembl")
    positive, negative = (
        [symbol[gene] for gene in genes if gene in symbol] for genes in (lists.positive, lists.negative)
    )
    return _two_classes(info, positive, negative, words, [*notes, *left_out])


def _two_classes(
    info: TaskInfo, positive: Sequence[str], negative: Sequence[str], words: Sequence[str], notes: Iterable[str] = ()
) -> GeneTask:
    """Make a binary task: positives, then negatives, in the order of the file; repeats stay."""
    labels = np.repeat(np.array([1, 0], dtype=np.int64), [len(positive), len(negative)])
    genes = [*positive, *negative]
    return single_task(info, "binary", genes, labels, label_words=words, notes=list(notes), allow_both=True)


def _symbols(ids: Sequence[str], what: str) -> tuple[dict[str, str], list[str]]:
    """Return the approved symbol of every id that has one, and a note on those that have none."""
    unique = list(dict.fromkeys(ids))
    found = GeneIndex.default().resolve(unique)
    symbol = {r.name: r.symbol for r in found if r.symbol}
    lost = [gene for gene in unique if gene not in symbol]
    if not lost:
        return symbol, []
    return symbol, [f"{len(lost)} of {len(unique)} {what} ids have no approved symbol, left out: {examples(lost)}"]


def _load(task: str, file: str) -> Any:
    try:
        return load(file)
    except BftembedError as err:
        err.args = (f"Task {task}: {err}",)
        raise


def _info(name: str, files: Sequence[str], rule: str = _FOLDS, *, source: str = "", licence: str = "") -> TaskInfo:
    citations = dict.fromkeys([*(FILES[file].citation for file in files), *([source] if source else [])])
    licences = dict.fromkeys([*(FILES[file].licence for file in files), *([licence] if licence else [])])
    return TaskInfo(
        name,
        "pairs" if _BUILTIN[name].kind == "pairs" else "genes",
        f"{'; '.join(citations)} [{', '.join(files)}]",
        "; ".join(licences),
        rule,
        "roc_auc",
        "higher",
        1,
    )


@dataclass(frozen=True)
class _Builtin:
    """How a task is made, and of which files; each entry of `files` is enough."""

    kind: str
    description: str
    make: Callable[[str], GeneTask]
    files: tuple[tuple[str, ...], ...]

    def is_here(self, there: set[str]) -> bool:
        return any(there.issuperset(names) for names in self.files)


_GENE2VEC = tuple(f"gene2vec-{part}-{what}" for part in ("train", "valid", "test") for what in ("text", "label"))
_BUILTIN = {
    "tf-range": _Builtin(
        "binary", "Transcription factors that act over a long range, against a short one.", _tf_range, (("tf-range",),)
    ),
    "dosage": _Builtin(
        "binary",
        "Transcription factors sensitive to their dosage, against insensitive ones.",
        _dosage,
        (("geneformer-dosage",), ("dosage-cx0",)),
    ),
    "no-methy": _Builtin(
        "binary",
        "Genes with a bivalent promoter, against unmethylated ones.",
        _no_methylation,
        (("geneformer-bivalent", "geneformer-no-methylation"),),
    ),
    "lys4": _Builtin(
        "binary",
        "Genes with a bivalent promoter, against those with the Lys4 mark alone.",
        _lys4,
        (("geneformer-bivalent", "geneformer-lys4-only"),),
    ),
    "ggi": _Builtin("pairs", "Pairs of genes that interact, as Gene2vec has them.", _ggi, (_GENE2VEC,)),
    "ppi": _Builtin(
        "pairs",
        "Proteins that bind each other in HuRI, against pairs drawn at random.",
        _ppi,
        (("huri", "huri-space"),),
    ),
    "gene-type": _Builtin(
        "multiclass",
        "Ensembl's type of a gene: protein-coding, lncRNA, pseudogene …",
        _gene_type,
        (("gene-biotypes",),),
    ),
    "tf-vs-other": _Builtin(
        "binary",
        "Transcription factors, against the other protein-coding genes.",
        _transcription_factors,
        (("transcription-factors",),),
    ),
    "kegg": _Builtin("multilabel", "The KEGG pathways of a gene, of those with 20 to 300 genes.", _kegg, (("kegg",),)),
}

#: Name of every task → what it is.
TASKS = {name: task.description for name, task in _BUILTIN.items()}
