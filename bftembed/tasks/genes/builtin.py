"""Built-in gene tasks, made of public files: those of GenePT and three more."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bftembed.datasets import FILES, DataNotFoundError, find_files, load
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.tasks.genes.definition import TEST, TRAIN, UNUSED, GeneTask, TaskInfo, load_task, make_task

_SEED = 2023
_TRAIN_SHARE = 0.7
#: The notebook keeps the gene types with more genes than this.
_RARE_TYPE = 75
_SET_SIZES = range(20, 301)

_RANGE_WORDS = "long-range, long range, short-range, short range"
_METHYLATION_WORDS = "bivalent, H3K4me3, H3K27me3, methylation"
_DOSAGE_WORDS = "dosage, haploinsufficient, haploinsufficiency, haplosufficient, triplosensitive, triplosensitivity"
_FACTOR_WORDS = (
    "transcription factor, transcriptional activator, transcriptional repressor, transcriptional regulator, "
    "DNA-binding, DNA binding"
)
_TYPE_WORDS = (
    "protein coding, protein-coding, non-coding RNA, noncoding RNA, lncRNA, pseudogene, microRNA, miRNA, "
    "small nuclear RNA, snRNA, small nucleolar RNA, snoRNA, ribosomal RNA, rRNA, immunoglobulin, T cell receptor"
)

_Read = Callable[[str], Any]


def get_task(name_or_folder: str | os.PathLike[str]) -> GeneTask:
    """Return a built-in task, or read one from its folder.

    Parameters
    ----------
    name_or_folder
        A key of `TASKS`, or the path of a folder (`load_task`); a folder called like a built-in task is ``./NAME``.

    Raises
    ------
    UnknownNameError
        For a name that is neither.
    bftembed.datasets.DataNotFoundError
        When the data of the task are not on this machine.
    BftembedError
        For data or a folder that cannot be used, and for a folder whose task is called like a built-in one.
    """
    text = os.fspath(name_or_folder)
    if text in _BUILTIN:
        return _made(text, _BUILTIN[text])
    if os.sep not in text and not Path(text[:255]).is_dir():
        raise unknown_name("task", text[:80], [*_BUILTIN, "or a folder such as ./my_task"])
    task = load_task(text)
    if task.info.name in _BUILTIN:
        raise BftembedError(f"{text}: {task.info.name!r} is a built-in task. Change 'name' in task.yaml.")
    return task


def list_tasks() -> list[dict[str, Any]]:
    """Return ``name``, ``kind``, ``description`` and ``here`` (whether its data are on this machine) of each task."""
    there = {name for name, found in find_files().items() if isinstance(found, Path)}
    return [
        {"name": name, "kind": task.kind, "description": task.description}
        | {"here": any(there.issuperset(names.split()) for names in task.files)}
        for name, task in _BUILTIN.items()
    ]


class _Builtin(NamedTuple):
    """Kind, description, function from a reader of files to arguments of `make_task`, and alternative sets of files."""

    kind: str
    description: str
    make: Callable[[_Read], dict[str, Any]]
    files: tuple[str, ...]


def _made(name: str, task: _Builtin) -> GeneTask:
    used: list[str] = []

    def read(file: str) -> Any:
        found = load(file)
        used.append(file)
        return found

    try:
        arguments = task.make(read)
    except BftembedError as err:
        err.args = (f"Task {name}: {err}",)
        raise
    source, license = (
        "; ".join(dict.fromkeys(getattr(FILES[f], key) for f in used)) for key in ("citation", "licence")
    )
    return make_task(TaskInfo(name, f"{source} [{', '.join(used)}]", license), task.kind, **arguments)


def _tf_range(read: _Read) -> dict[str, Any]:
    lists = read("tf-range")
    return _two_classes(lists.positive, lists.negative, _RANGE_WORDS)


def _dosage(read: _Read) -> dict[str, Any]:
    notes = []
    try:
        lists = read("geneformer-dosage")
    except DataNotFoundError:
        lists = read("dosage-cx0")
        notes.append("labels of dosage-cx0, a public copy of the same lists: geneformer-dosage is not on this machine")
    return _two_classes(lists.positive, lists.negative, _DOSAGE_WORDS, notes, ensembl=True)


def _bivalent(others: str) -> Callable[[_Read], dict[str, Any]]:
    return lambda read: _two_classes(read(_BIVALENT), read(others), _METHYLATION_WORDS, ensembl=True)


def _transcription_factors(read: _Read) -> dict[str, Any]:
    index = GeneIndex.default()
    found = index.resolve(read("transcription-factors"))
    factors = [r.entity for r in found]
    known = set(factors)
    coding = (s for s in index if (record := index.get(s)) and record.locus_type == "gene with protein product")
    notes = []
    if renamed := sum(r.status == "mapped" for r in found):
        notes.append(f"{renamed} factors are listed by an earlier name; here by their approved symbol")
    if strange := [r.name for r in found if not r.symbol]:
        notes.append(f"{len(strange)} factors have no approved symbol; kept as listed: {examples(strange)}")
    return _two_classes(factors, [symbol for symbol in coding if symbol not in known], _FACTOR_WORDS, notes)


def _gene_type(read: _Read) -> dict[str, Any]:
    import pandas as pd

    rows = pd.DataFrame(read("gene-biotypes"), columns=["id", "gene", "type"])
    named = rows[rows["gene"] != ""]
    types = named.groupby("gene", sort=False)["type"].agg(["nunique", "first"])
    of_gene = types.loc[types["nunique"] == 1, "first"]
    sizes = of_gene.value_counts()
    kept = sorted(sizes.index[sizes > _RARE_TYPE])
    chosen = of_gene[of_gene.isin(kept)]
    notes = [
        f"{len(rows) - len(named)} of {len(rows)} Ensembl genes have no name and are left out",
        f"{len(types) - len(of_gene)} names of genes of two types are left out",
        f"{len(of_gene) - len(chosen)} genes of the {len(sizes) - len(kept)} types with no more than {_RARE_TYPE} "
        "genes are left out",
    ]
    labels = np.searchsorted(kept, chosen.to_list())
    words = {"label_names": kept, "label_words": _TYPE_WORDS.split(", ")}
    return {"items": chosen.index.to_list(), "labels": labels, "notes": notes, **words}


def _kegg(read: _Read) -> dict[str, Any]:
    sets = read("kegg")
    symbol, notes = _symbols([gene for genes in sets.values() for gene in genes], "Entrez")
    mapped = {of: {symbol[gene]: None for gene in genes if gene in symbol} for of, genes in sets.items()}
    kept = {of: genes for of, genes in mapped.items() if len(genes) in _SET_SIZES}
    row = {gene: i for i, gene in enumerate(dict.fromkeys(gene for genes in kept.values() for gene in genes))}
    labels = np.zeros((len(row), len(kept)), dtype=bool)
    for j, genes in enumerate(kept.values()):
        labels[[row[gene] for gene in genes], j] = True
    few, many = _SET_SIZES.start, _SET_SIZES.stop - 1
    n = len(sets) - len(kept)
    notes.append(f"{n} of {len(sets)} pathways have fewer than {few} or more than {many} genes and are left out")
    return {"items": list(row), "labels": labels, "label_names": list(kept), "notes": notes}


def _ggi(read: _Read) -> dict[str, Any]:
    found: dict[str, list[Any]] = {"items": [], "labels": [], "split": []}
    for part, role in (("train", TRAIN), ("valid", UNUSED), ("test", TEST)):
        text = read(f"gene2vec-{part}-text")
        found["items"] += text
        found["labels"] += read(f"gene2vec-{part}-label")
        found["split"] += [role] * len(text)
    return found


def _ppi(read: _Read) -> dict[str, Any]:
    """Make a task of HuRI: a construction of ours, since the paper names none (docs/decisions/gene-benchmarks.md)."""
    ensembl, searched = read("huri"), read("huri-space")
    symbol, notes = _symbols([*(gene for pair in ensembl for gene in pair), *searched], "Ensembl")
    pairs = [(symbol[a], symbol[b]) for a, b in ensembl if a in symbol and b in symbol]
    notes.append(f"{len(ensembl) - len(pairs)} of {len(ensembl)} pairs of HuRI have a gene without a symbol")
    notes.append(f"{sum(a == b for a, b in pairs)} positives are self-pairs")
    space = sorted({symbol[gene] for gene in searched if gene in symbol})
    genes = sorted({*space, *(gene for pair in pairs for gene in pair)})
    rng = np.random.default_rng(_SEED)
    order = rng.permutation(len(genes))
    in_train = {genes[i] for i in order[: round(_TRAIN_SHARE * len(genes))]}
    split = [UNUSED if (a in in_train) != (b in in_train) else TRAIN if a in in_train else TEST for a, b in pairs]
    taken, labels = {frozenset(pair) for pair in pairs}, [1] * len(pairs)
    for part in (TRAIN, TEST):
        of_part = [gene for gene in space if (gene in in_train) == (part == TRAIN)]
        sampled = _negatives(of_part, split.count(part), taken, rng)
        pairs += sampled
        labels += [0] * len(sampled)
        split += [part] * len(sampled)
    return {"items": pairs, "labels": labels, "split": split, "notes": notes}


def _negatives(
    genes: Sequence[str], n: int, taken: set[frozenset[str]], rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Sample `n` different pairs of different genes, uniformly, none of them in `taken`."""
    sampled: dict[frozenset[str], tuple[str, str]] = {}
    while len(sampled) < n:
        for i, j in rng.integers(len(genes), size=(n, 2)).tolist():
            pair = frozenset((genes[i], genes[j]))
            if i != j and pair not in taken and len(sampled) < n:
                sampled.setdefault(pair, (genes[i], genes[j]))
    return list(sampled.values())


def _two_classes(
    positive: Sequence[str], negative: Sequence[str], words: str, notes: Sequence[str] = (), *, ensembl: bool = False
) -> dict[str, Any]:
    """Return a binary task: positives, then negatives, in the order of the file; repeats stay."""
    if ensembl:
        symbol, left_out = _symbols([*positive, *negative], "Ensembl")
        positive, negative = ([symbol[gene] for gene in genes if gene in symbol] for genes in (positive, negative))
        notes = [*notes, *left_out]
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    items = [*positive, *negative]
    return {"items": items, "labels": labels, "label_words": words.split(", "), "notes": notes, "allow_both": True}


def _symbols(ids: Sequence[str], what: str) -> tuple[dict[str, str], list[str]]:
    """Return the approved symbol of each id that has one, and a note on those that have none."""
    unique = list(dict.fromkeys(ids))
    symbol = {r.name: r.symbol for r in GeneIndex.default().resolve(unique) if r.symbol}
    lost = [gene for gene in unique if gene not in symbol]
    note = f"{len(lost)} of {len(unique)} {what} ids have no approved symbol, left out: {examples(lost)}"
    return symbol, [note] if lost else []


_BIVALENT, _NO_METHYLATION, _LYS4 = (f"geneformer-{name}" for name in ("bivalent", "no-methylation", "lys4-only"))
_GENE2VEC = " ".join(f"gene2vec-{part}-{what}" for part in ("train", "valid", "test") for what in ("text", "label"))
_BUILTIN = {
    "tf-range": _Builtin("binary", "Transcription factors of long or short range.", _tf_range, ("tf-range",)),
    "dosage": _Builtin(
        "binary", "Transcription factors, dosage-sensitive or not.", _dosage, ("geneformer-dosage", "dosage-cx0")
    ),
    "no-methy": _Builtin(
        *("binary", "Genes with a bivalent promoter or an unmethylated one."),
        *(_bivalent(_NO_METHYLATION), (f"{_BIVALENT} {_NO_METHYLATION}",)),
    ),
    "lys4": _Builtin(
        *("binary", "Genes with a bivalent promoter or the Lys4 mark alone."),
        *(_bivalent(_LYS4), (f"{_BIVALENT} {_LYS4}",)),
    ),
    "ggi": _Builtin("pairs", "Pairs of genes that interact, as Gene2vec has them.", _ggi, (_GENE2VEC,)),
    "ppi": _Builtin("pairs", "Proteins that bind each other in HuRI, or random pairs.", _ppi, ("huri huri-space",)),
    "gene-type": _Builtin(
        "multiclass", "Ensembl's type of a gene: protein-coding, lncRNA, pseudogene …", _gene_type, ("gene-biotypes",)
    ),
    "tf-vs-other": _Builtin(
        *("binary", "Transcription factors or other protein-coding genes.", _transcription_factors),
        ("transcription-factors",),
    ),
    "kegg": _Builtin("multilabel", "The KEGG pathways of a gene, of those with 20 to 300 genes.", _kegg, ("kegg",)),
}

#: Name of each task → what it is.
TASKS = {name: task.description for name, task in _BUILTIN.items()}
