"""Effects of perturbations on genes: differential expression and its direction (VCWorld, PerturbQA)."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.io import sha256_text, write_text
from bftembed.llm.base import Request, Sampling
from bftembed.tasks.base import Metric
from bftembed.tasks.llm.base import Evaluation, Question, mean_of
from bftembed.tasks.llm.multiple_choice import read_choice

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.llm.base import Answer
    from bftembed.tasks.llm.base import Statistic

    #: Data folder, "de" or "dir" → training and test rows: cell_line, pert, gene, label (0 or 1).
    Reader = Callable[[Path, str], tuple[pd.DataFrame, pd.DataFrame]]

#: Labels 1 and 0 in words.
_WORDS = {"de": ("yes", "no"), "dir": ("increase", "decrease")}
_ASKED = {
    "de": "Does {pert} change the expression of {gene} in {line} cells?",
    "dir": "In {line} cells {pert} changes the expression of {gene}. Does it increase or decrease?",
}
#: Examples in a prompt.
N_EVIDENCE = 10
_SAMPLING = Sampling(max_new_tokens=1024, temperature=0.6, top_p=0.9)
_ONE_WORD = Sampling(max_new_tokens=8)


class VCWorld(Evaluation):
    """Questions (cell line, perturbation, gene), with true results of training experiments as evidence.

    Parameters
    ----------
    name, title, source
        As in `Evaluation`.
    kind
        ``"de"``: differentially expressed or not; ``"dir"``: increase or decrease.
    read
        Gives training and test rows.
    folder
        Of the data.
    drugs
        Whether perturbations are drugs; else they are genes.
    same_line
        Whether training rows are of the cell line of the question; else of the training lines.
    form
        ``"options"``: yes and no are scored; ``"reasoned"``: the answer is generated, with "insufficient evidence" as a
        third one; ``"word"``: it is generated, one word.
    n_evidence
        Number of examples in a prompt.
    random_labels
        Give the examples random results, as the published batch pipeline does: an ablation.
    """

    def __init__(
        self,
        name: str,
        title: str,
        source: str,
        kind: str,
        read: Reader,
        folder: str,
        *,
        drugs: bool = False,
        same_line: bool = True,
        form: str = "options",
        n_evidence: int = N_EVIDENCE,
        random_labels: bool = False,
    ) -> None:
        self.name, self.title, self.source, self.folder = name, title, source, folder
        self._kind, self._read, self._drugs, self._same_line = kind, read, drugs, same_line
        self._form, self._n_evidence, self._random = form, n_evidence, random_labels
        hows = {
            "options": "option scores, no chat template",
            "reasoned": "generated answer, temperature 0.6",
            "word": "one word, greedy",
        }
        examples = f"{n_evidence} examples{', random results' if random_labels else ''}"
        self.protocol = f"{examples if n_evidence else 'no examples'}; {hows[form]}"
        self.metrics = (
            Metric("accuracy", "accuracy"),
            Metric("accuracy_answered", "of answered", concludes=False),
            Metric("abstention", "abstention", better="lower", concludes=False),
            Metric("macro_f1", "macro F1", concludes=False),
            Metric("auroc_within_gene", "AUROC within gene", concludes=False),
        )

    def questions(self, data: Path) -> list[Question]:
        """Return a question per test row, without evidence; its group is the cell line, its cluster the perturbation.

        What the baselines answer stands in its data: the majority of the training rows, the share of training
        perturbations that changed the gene, and the same for this perturbation in other cell lines.
        """
        train, test = self._read(data, self._kind)
        found = []
        for line, rows in test.groupby("cell_line", sort=True):
            scope = self._scope(train, line)
            if scope.empty:
                raise BftembedError(f"{self.name}: no training row for {line}.")
            share = float(scope["label"].mean())
            of_gene = scope.groupby("gene")["label"].mean()
            elsewhere = train[train["cell_line"] != line].groupby(["pert", "gene"])["label"].mean()
            frequency = rows["gene"].map(of_gene).fillna(share)
            keys = list(zip(rows["pert"], rows["gene"], strict=True))
            same_pair = elsewhere.reindex(keys).to_numpy(float)
            for i, (pert, gene) in enumerate(keys):
                known = {"majority": share, "gene frequency": float(frequency.iloc[i])}
                if math.isfinite(same_pair[i]):
                    known["same pair in other lines"] = float(same_pair[i])
                found.append(self._question(line, pert, gene, rows["label"].iloc[i], known))
        return found

    def training_questions(self, data: Path, n: int, *, seed: int = 0, balanced: bool = False) -> list[Question]:
        """Return questions of training rows, as they are asked.

        Examples are of other perturbations in the line of the question, or of other lines: as for test rows.
        """
        rows = self._read(data, self._kind)[0].sample(frac=1, random_state=seed)
        if balanced:
            rows = rows.assign(turn=rows.groupby("label").cumcount()).sort_values(["turn", "label"])
            rows = rows[rows["turn"] < rows["label"].value_counts().min()]
        columns = (rows[name].iloc[: n or None] for name in ("cell_line", "pert", "gene", "label"))
        return self.prepare([self._question(*row) for row in zip(*columns, strict=True)], data, {})

    def _question(
        self, line: str, pert: str, gene: str, label: int, baselines: Mapping[str, float] | None = None
    ) -> Question:
        of = {"gene": gene, "pert": pert, "baselines": dict(baselines or {})}
        answer = _WORDS[self._kind][1 - int(label)]
        request = self._request(line, pert, gene, "")
        return Question(f"{line}/{pert}/{gene}", request, answer, line, f"{line}/{pert}", of)

    def prepare(self, questions: Sequence[Question], data: Path, vectors: Mapping[str, NDArray[Any]]) -> list[Question]:
        """Add examples to questions: true results of training experiments, the closest kind first.

        First the same perturbation and gene in other lines, then the gene under other perturbations, then other genes;
        perturbations by the cosine of their `vectors` to that of the question, without vectors in random order. Half of
        the examples have each result, as far as there are.
        """
        if not self._n_evidence:
            return list(questions)
        train, _ = self._read(data, self._kind)
        unit = {name: v / max(float(np.linalg.norm(v)), 1e-12) for name, v in vectors.items()}
        scopes: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {}
        found = []
        for q in questions:
            if q.group not in scopes:
                scope = self._scope(train, q.group)
                scopes[q.group] = scope, scope.groupby("gene").indices
            scope, by_gene = scopes[q.group]
            evidence = self._evidence(q, scope, by_gene, unit)
            request = self._request(q.group, q.data["pert"], q.data["gene"], evidence)
            found.append(replace(q, request=request))
        return found

    def _scope(self, train: pd.DataFrame, line: str) -> pd.DataFrame:
        return train[train["cell_line"] == line] if self._same_line else train[train["cell_line"] != line]

    def _evidence(
        self, q: Question, scope: pd.DataFrame, by_gene: Mapping[str, Any], unit: Mapping[str, NDArray[Any]]
    ) -> str:
        pert, gene, n = q.data["pert"], q.data["gene"], self._n_evidence
        same_gene, others = scope.iloc[by_gene.get(gene, [])], scope[:0]
        if self._same_line:  # a training row is its own answer, and no test perturbation is here
            same_gene = same_gene[same_gene["pert"] != pert]
        if len(same_gene) < n:
            others = scope[(scope["gene"] != gene) & ((scope["pert"] != pert) | (not self._same_line))]
            others = others.sample(min(len(others), 500), random_state=_seed(q.id))
        words, lines = _WORDS[self._kind], []
        rows: list[tuple[tuple[Any, ...], Any]] = []
        for level, held in ((0, same_gene), (1, others)):
            for row in held.itertuples(index=False):
                near = float(unit[pert] @ unit[row.pert]) if pert in unit and row.pert in unit else 0.0
                order = (level, row.pert != pert, -near, sha256_text(f"{q.id}:{row.cell_line}:{row.pert}:{row.gene}"))
                rows.append((order, row))
        rows.sort(key=lambda pair: pair[0])
        chosen: list[Any] = []
        for label in (1, 0):
            chosen += [row for _, row in rows if row.label == label][: n // 2]
        chosen += [row for _, row in rows if row not in chosen][: n - len(chosen)]
        ranked = {id(row): i for i, (_, row) in enumerate(rows)}
        for row in sorted(chosen, key=lambda row: ranked[id(row)]):
            label = _seed(f"{q.id}:{row.pert}:{row.gene}") % 2 if self._random else int(row.label)
            asked = _ASKED[self._kind].format(pert=self._phrase(row.pert), gene=row.gene, line=row.cell_line)
            lines.append(f"{asked} {words[1 - label].capitalize()}.")
        return "\n".join(lines)

    def _phrase(self, pert: str) -> str:
        return f"treatment with {pert}" if self._drugs else f"knock-down of {pert}"

    def _request(self, line: str, pert: str, gene: str, evidence: str) -> Request:
        words = _WORDS[self._kind]
        asked = _ASKED[self._kind].format(pert=self._phrase(pert), gene=gene, line=line)
        known = f"Results of other experiments:\n{evidence}\n\n" if evidence else ""
        if self._form == "word":
            text = f"{known}{asked}\nAnswer with one word: {' or '.join(words)}."
            return Request("", messages=({"role": "user", "content": text},), sampling=_ONE_WORD)
        if self._form == "options":
            text = f"{known}{asked}\nAnswer ({' or '.join(words)}):"
            return Request("", prompt=text, options=tuple(f" {word}" for word in words))
        text = (
            f"{known}Question: {asked}\n\nConsider the mechanism of the perturbation, the function and regulation of "
            "the gene, the cell line, and the results above. End with one line: "
            f'"Answer: {words[0]}", "Answer: {words[1]}" or "Answer: insufficient evidence".'
        )
        return Request("", messages=({"role": "user", "content": text},), sampling=_SAMPLING)

    def grade(self, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return whether the answer is right; an abstention and an answer that cannot be read are wrong."""
        answer = answers[-1] if answers else None
        words = _WORDS[self._kind]
        if answer is None or answer.error:
            return dict.fromkeys(("accuracy", "accuracy_answered", "abstention"), math.nan)
        score = math.nan
        if self._form == "word":
            parsed = read_choice(answer.text, words)
        elif self._form == "reasoned":
            parsed = read_conclusion(answer.text, words)
        else:
            yes, no = (-math.inf if s is None else s for s in answer.scores)
            parsed = "" if yes == no else words[0] if yes > no else words[1]
            score = yes - no if math.isfinite(yes) and math.isfinite(no) else math.nan
        predicted = math.nan if parsed not in words else float(parsed == words[0])
        return _graded(question, words, predicted, score) | {"parsed": parsed}

    def baselines(self, questions: Sequence[Question]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
        """Return the majority, the frequency of the gene, and the same pair in other lines (the gene where unknown)."""
        words = _WORDS[self._kind]
        found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        for name in ("majority", "gene frequency", "same pair in other lines"):
            if any(name in q.data["baselines"] for q in questions):
                shares = {q.id: q.data["baselines"].get(name, q.data["baselines"]["gene frequency"]) for q in questions}
                found["baseline", name] = {
                    q.id: _graded(q, words, float(shares[q.id] >= 0.5), shares[q.id]) for q in questions
                }
        return found | {("chance", "chance"): {q.id: {"accuracy": 0.5} for q in questions}}

    def statistics(self) -> dict[str, Statistic]:
        """Return shares of right answers, macro F1 over both classes, and AUROC within genes."""
        shares = {name: mean_of(name) for name in ("accuracy", "accuracy_answered", "abstention")}
        return shares | {"macro_f1": _macro_f1, "auroc_within_gene": _auroc_within_gene}


def read_conclusion(text: str, words: Sequence[str]) -> str:
    """Return the last of `words`, or ``"insufficient"``, that stands behind "answer:", or is all of the text."""
    any_of = "|".join((*words, "insufficient"))
    named = re.findall(rf"answer\s*(?:is|:)?[\s\W]*({any_of})\b", text, re.IGNORECASE)
    alone = re.fullmatch(rf"\W*({any_of})(?: evidence)?\W*", text, re.IGNORECASE)
    return named[-1].lower() if named else alone[1].lower() if alone else ""


def prepare_questions(
    screen: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    perturbation: str,
    control: str,
    cell_line: str | None = None,
    min_cells: int = 30,
    train_share: float = 0.3,
    seed: int = 42,
) -> dict[str, Any]:
    """Make questions of a perturbation screen by VCWorld's rule, for ``vcworld-de`` and ``vcworld-dir``.

    Counts are normalized to 10,000 and log1p-transformed; genes of each perturbation are compared with the controls of
    its cell line by scanpy's Wilcoxon test. Differentially expressed: adjusted p < 0.05 and absolute log2 fold change
    > 0.25; not: p > 0.1, at most 200 genes of a perturbation. Training and test rows are of different perturbations.

    Parameters
    ----------
    screen
        h5ad of raw counts or log-normalized values in X.
    out
        Data folder; ``vcworld/LINE-de.csv`` and ``vcworld/LINE-dir.csv`` are written there.
    perturbation, control
        Column of obs with the perturbations, and its value for controls.
    cell_line
        Column of obs with the cell lines; default one line, the name of the file.
    min_cells
        Perturbations with fewer cells, and lines with fewer control cells, are left out.
    train_share
        Share of the perturbations that give training rows, between 0 and 1.
    seed
        Of the split and of the choice of unchanged genes.

    Returns
    -------
    dict
        Rows by cell line and kind, and what was left out.

    Raises
    ------
    BftembedError
        For missing columns or values, or when no question can be made.
    """
    import anndata
    import scanpy

    from bftembed.expression.normalize import examined
    from bftembed.expression.source import open_expression

    cells = anndata.read_h5ad(screen)
    for column in filter(None, (perturbation, cell_line)):
        if column not in cells.obs:
            raise BftembedError(f"{screen} has no obs column {column!r}; it has {', '.join(cells.obs.columns)}.")
    with open_expression(screen) as expression:
        decision = examined(expression)[1]
    if decision.normalize == "log1p-cp10k":
        scanpy.pp.normalize_total(cells, target_sum=1e4)
        scanpy.pp.log1p(cells)
    lines = cells.obs[cell_line].astype(str) if cell_line else [Path(screen).stem] * cells.n_obs
    cells.obs["_line"], cells.obs["_pert"] = lines, cells.obs[perturbation].astype(str)
    if control not in set(cells.obs["_pert"]):
        raise BftembedError(f"{screen}: no cell has {perturbation} = {control!r}.")
    report: dict[str, Any] = {"rows": {}, "left_out": {}}
    for line, held in cells.obs.groupby("_line", sort=True):
        sizes = held["_pert"].value_counts()
        enough = sorted(p for p, n in sizes.items() if n >= min_cells and p != control)
        small = [p for p, n in sizes.items() if n < min_cells]
        if sizes.get(control, 0) < min_cells or len(enough) < 2:
            report["left_out"][line] = (
                f"{sizes.get(control, 0)} control cells, {len(enough)} perturbations of {min_cells}"
            )
            continue
        if small:
            report["left_out"][line] = f"{len(small)} perturbations of fewer than {min_cells} cells"
        part = cells[held.index[held["_pert"].isin([*enough, control])]].copy()
        scanpy.tl.rank_genes_groups(part, "_pert", groups=enough, reference=control, method="wilcoxon")
        draw = np.random.default_rng(seed)
        trained = set(draw.permutation(enough)[: max(1, round(train_share * len(enough)))].tolist())
        tables: dict[str, list[str]] = {"de": [], "dir": []}
        for pert in enough:
            split = "train" if pert in trained else "test"
            found = scanpy.get.rank_genes_groups_df(part, pert)
            found = found[found["names"] != pert]
            changed = found[(found["pvals_adj"] < 0.05) & (found["logfoldchanges"].abs() > 0.25)]
            same = found.loc[found["pvals"] > 0.1, "names"].to_numpy(str)
            labeled = [*((g, 1) for g in changed["names"]), *((g, 0) for g in draw.permutation(same)[:200])]
            tables["de"] += [f"{pert},{g},{label},{split}" for g, label in labeled]
            ups = zip(changed["names"], changed["logfoldchanges"] > 0, strict=True)
            tables["dir"] += [f"{pert},{g},{int(up)},{split}" for g, up in ups]
        folder = Path(out) / "vcworld"
        folder.mkdir(parents=True, exist_ok=True)
        for kind, rows in tables.items():
            report["rows"][f"{line}-{kind}"] = len(rows)
            write_text(folder / f"{line}-{kind}.csv".replace("/", "_"), "\n".join(["pert,gene,label,split", *rows, ""]))
    if not any(report["rows"].values()):
        told = "; ".join(f"{line}: {why}" for line, why in report["left_out"].items())
        raise BftembedError(f"{screen} gives no question ({told or 'no gene is differentially expressed'}).")
    return report


def _graded(q: Question, words: Sequence[str], predicted: float, score: float) -> dict[str, Any]:
    truth = float(q.answer == words[0])
    answered = math.isfinite(predicted)
    return {
        "accuracy": float(predicted == truth),
        "accuracy_answered": float(predicted == truth) if answered else math.nan,
        "abstention": float(not answered),
        "truth": truth,
        "predicted": predicted,
        "score": score,
        "gene": q.data["gene"],
    }


def _macro_f1(graded: pd.DataFrame, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean F1 of both classes over the questions that were asked; an abstention is a miss of its class."""
    if "predicted" not in graded:
        return np.full(len(weights), math.nan)
    asked = graded["accuracy"].notna().to_numpy()
    truth, predicted = (graded[name][asked].to_numpy(float) for name in ("truth", "predicted"))
    w = weights[:, asked]
    scores = []
    for label in (0.0, 1.0):
        hits = w @ ((truth == label) & (predicted == label)).astype(float)
        size = w @ (truth == label).astype(float) + w @ (predicted == label).astype(float)
        scores.append(np.divide(2 * hits, size, out=np.zeros_like(size), where=size > 0))
    return np.mean(scores, axis=0)


def _auroc_within_gene(graded: pd.DataFrame, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the AUROC of the scores within each gene that has both classes, averaged over genes (PerturbQA)."""
    if "score" not in graded:
        return np.full(len(weights), math.nan)
    found = []
    held = graded.reset_index(drop=True)
    for _, rows in held[held["score"].notna()].groupby("gene"):
        truth, score, at = rows["truth"].to_numpy() == 1, rows["score"].to_numpy(float), rows.index.to_numpy()
        if truth.all() or not truth.any():
            continue
        above = np.sign(score[truth][:, None] - score[~truth][None, :]) / 2 + 0.5
        positive, negative = weights[:, at[truth]], weights[:, at[~truth]]
        with np.errstate(invalid="ignore"):
            pairs = positive.sum(axis=1) * negative.sum(axis=1)
            found.append(((positive @ above) * negative).sum(axis=1) / pairs)
    if not found:
        return np.full(len(weights), math.nan)
    stacked = np.array(found)
    there = np.isfinite(stacked)
    return np.where(there, stacked, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)


def _seed(text: str) -> int:
    return int(sha256_text(text)[:8], 16)


def _perturbqa(data: Path, kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    return _tables(data / "perturbation" / "perturbqa", kind, ("k562", "rpe1", "hepg2", "jurkat"))


def _own(data: Path, kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = data / "vcworld"
    return _tables(folder, kind, sorted(p.name.removesuffix(f"-{kind}.csv") for p in folder.glob(f"*-{kind}.csv")))


def _tables(folder: Path, kind: str, lines: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read ``LINE-KIND.csv`` (or ``.csv.gz``) of columns pert, gene, label, split."""
    import pandas as pd

    frames = []
    for line in lines:
        path = next((p for p in (folder / f"{line}-{kind}.csv", folder / f"{line}-{kind}.csv.gz") if p.is_file()), None)
        if path is None:
            raise BftembedError(f"{line}-{kind}.csv is missing from {folder}.")
        table = pd.read_csv(path, keep_default_na=False, dtype={"pert": str, "gene": str})
        if missing := [c for c in ("pert", "gene", "label", "split") if c not in table]:
            raise BftembedError(f"{path}: the column {missing[0]!r} is missing; it has {', '.join(table.columns)}.")
        if not set(table["label"]) <= {0, 1} or not set(table["split"]) <= {"train", "test"}:
            raise BftembedError(f"{path}: labels must be 0 or 1, and splits train or test.")
        frames.append(table.assign(cell_line=line))
    if not frames:
        raise BftembedError(f"No LINE-{kind}.csv in {folder}: bftembed eval prepare makes them of a screen.")
    both = pd.concat(frames, ignore_index=True).drop_duplicates(["cell_line", "pert", "gene"])
    leaked = both.groupby(["cell_line", "pert"])["split"].nunique()
    if (leaked > 1).any():
        raise BftembedError(f"{folder}: {leaked.idxmax()[1]} has training and test rows in {leaked.idxmax()[0]}.")
    return both[both["split"] == "train"], both[both["split"] == "test"]


def _tahoe(data: Path, kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read Tahoe-100M's signatures: significant up-regulated genes, against unchanged or most negative ones."""
    import pandas as pd

    path = data / "perturbation" / "tahoe100m_signatures_10lines.tsv.gz"
    if not path.is_file():
        raise BftembedError(f"No {path.name} in {path.parent}.")
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    table = table[table["kind"].isin(["up", "middle" if kind == "de" else "bottom"])].copy()
    table["label"] = (table["kind"] == "up").astype(int)
    table = table.rename(columns={"drug": "pert"})[["cell_line", "set", "pert", "gene", "label"]]
    table = table.sort_values("label", ascending=False).drop_duplicates(["cell_line", "pert", "gene"])
    return table[table["set"] == "train"], table[table["set"] == "vcworld"]


_QA = "perturbation/perturbqa/LINE-{de,dir}.csv.gz (PerturbQA, CC BY 4.0)"
_TAHOE = "perturbation/tahoe100m_signatures_10lines.tsv.gz (Tahoe-100M, CC0)"
_OWN = "vcworld/LINE-{de,dir}.csv, made of a screen by bftembed eval prepare"


def _family(prefix: str, title: str, source: str, read: Reader, folder: str, **options: Any) -> dict[str, VCWorld]:
    found = {}
    variants: dict[str, dict[str, Any]] = {
        "": {},
        "-generated": {"form": "reasoned"},
        "-word": {"form": "word", "n_evidence": 0},
        "-word-evidence": {"form": "word"},
        "-random-evidence": {"random_labels": True},
    }
    for kind, what in (("de", "differential expression"), ("dir", "direction")):
        for ending, more in variants.items():
            name = f"{prefix}-{kind}{ending}"
            found[name] = VCWorld(name, f"{title}, {what}", source, kind, read, folder, **options, **more)
    return found


_ALL = {
    **_family("perturbqa", "PerturbQA", _QA, _perturbqa, "perturbation"),
    **_family("tahoe", "Tahoe-100M", _TAHOE, _tahoe, "perturbation", drugs=True, same_line=False),
    **_family("vcworld", "VCWorld questions", _OWN, _own, "vcworld"),
}


def __getattr__(name: str) -> VCWorld:
    """Return an evaluation by its name in the list, such as ``"perturbqa-de"``."""
    if name not in _ALL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _ALL[name]
