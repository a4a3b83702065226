"""Part of state_check.sh: hold what STATE loaded, trained and predicted to the export, and its scores to ours.

``state_compare.py break EXPORT BROKEN`` copies an export and takes one vector out; it prints whose.
``state_compare.py compare FOLDER RESULTS`` checks every run, prints a table and writes RESULTS when all of it holds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from functools import cache
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from bftembed.metrics.perturbation import discrimination, mean_absolute_error, pearson_delta
from bftembed.report.manifest import versions

CONTROL, WHAT = "non-targeting", "simulated data; tiny undertrained models: plumbing, not quality"
SPLITS = ("train", "val", "test")
#: STATE has float32 means; of ranks, rounding alone.
TOLERANCE = {"mae": 1e-5, "pearson_delta": 1e-5, "discrimination_score_l1": 1e-9}


def break_export(export, broken):
    """Copy an export without the vector of a held-out gene, and return the gene's label."""
    import torch

    shutil.copytree(export, broken, ignore=shutil.ignore_patterns("runs"))
    for path in (*broken.glob("*.toml"), *broken.glob("*.sh")):
        path.write_text(path.read_text().replace(str(export.resolve()), str(broken.resolve())))
    missing = held_out_genes(broken)["test"][0]
    features = torch.load(broken / "pert_features.pt", weights_only=True)
    del features[missing]
    torch.save(features, broken / "pert_features.pt")
    return missing


def held_out_genes(export):
    """Return the genes of val and of test that unseen_gene.toml holds out of every cell type."""
    lists = list(tomllib.loads((export / "unseen_gene.toml").read_text())["fewshot"].values())
    assert all(one == lists[0] for one in lists), "unseen_gene.toml: cell types hold out different genes"
    return lists[0]


@cache
def screen_of(place):
    """Return the simulated cells as they were before the export, and cell name → row."""
    adata = anndata.concat([anndata.read_h5ad(path) for path in sorted((place / "screen").glob("*.h5ad"))])
    assert adata.obs_names.is_unique
    return adata, pd.Series(np.arange(adata.n_obs), index=adata.obs_names)


def expected_splits(place, question):
    """Return split → perturbed cells, from the TOML file and the cells before the export."""
    toml = tomllib.loads((place / "export" / f"{question}.toml").read_text())
    split_of = {name.partition(".")[2]: split for name, split in toml.get("zeroshot", {}).items()}
    lists = {name.partition(".")[2]: one for name, one in toml.get("fewshot", {}).items()}
    found = {split: set() for split in SPLITS}
    for cell, cell_type, label in screen_of(place)[0].obs[["cell_type", "gene"]].itertuples():
        if label == CONTROL:
            continue
        held = next((s for s in ("test", "val") if label in lists.get(cell_type, {}).get(s, ())), "train")
        found[split_of.get(cell_type, held)].add(cell)
    return found


def wrong_in_splits(place, run, told):
    """Yield what is wrong in what STATE's own loader put into train, validation and test."""
    expected, obs = expected_splits(place, run.question), screen_of(place)[0].obs
    perturbed, controls = {}, {}
    for split in SPLITS:
        labelled = [(cell, t, p) for t, labels in told["splits"][split].items() for p in labels for cell in labels[p]]
        if any(obs.loc[cell, "cell_type"] != t or obs.loc[cell, "gene"] != p for cell, t, p in labelled):
            yield f"{split}: STATE has cells under other labels than the data"
        perturbed[split] = {cell for cell, _, p in labelled if p != CONTROL}
        controls[split] = {t for _, t, p in labelled if p == CONTROL}
        conditions = {tuple(one) for one in obs.loc[list(perturbed[split])].to_numpy()[:, :2].tolist()}
        if conditions != {tuple(one) for one in obs.loc[list(expected[split])].to_numpy()[:, :2].tolist()}:
            yield f"{split}: STATE has other perturbations than {run.question}.toml says"
        if not perturbed[split] <= expected[split]:
            yield f"{split}: STATE has {len(perturbed[split] - expected[split])} cells of another split"
    if perturbed["test"] != expected["test"]:
        yield "test: STATE left out held-out cells"
    if controls["train"] != set(obs["cell_type"]):
        yield f"train: controls of {sorted(controls['train'])} alone"
    if any(perturbed["train"] & perturbed[split] for split in ("val", "test")):
        yield "held-out cells are among those of training"
    if told["zero_features"] != ([] if told["one_hot"] else [CONTROL]):
        yield f"perturbations with a zero vector: {told['zero_features']}"


def wrong_in_predictions(place, run, names):
    """Yield what is wrong in adata_pred.h5ad and adata_real.h5ad."""
    predicted, real = run.predicted, run.real
    screen, rows = screen_of(place)
    held = expected_splits(place, run.question)["test"]
    types = set(screen.obs.loc[list(held), "cell_type"])
    controls = set(screen.obs_names[(screen.obs["gene"] == CONTROL) & screen.obs["cell_type"].isin(types)])
    if not predicted.obs.equals(real.obs):
        yield "predictions and truth are of different cells"
    cells = predicted.obs["pert_cell_barcode"].astype(str)
    if not cells.is_unique or set(cells) != held | controls:
        yield "not every held-out cell and control is predicted once"
    if predicted.shape != (len(held) + len(controls), len(names)) or real.shape != predicted.shape:
        yield f"{predicted.shape} predictions and {real.shape} true values for {len(held | controls)} cells"
        return
    for column in ("gene", "cell_type"):
        if (predicted.obs[column].astype(str).to_numpy() != screen.obs.loc[cells, column].astype(str)).any():
            yield f"predictions have another {column} than the data"
    if not np.isfinite(predicted.X).all() or predicted.X.min() < 0 or predicted.X.max() >= 14:
        yield f"predictions range from {predicted.X.min()} to {predicted.X.max()}"
    # Genes have lost their names: these are the right ones when the truth is what was simulated, value by value.
    if not np.array_equal(real.X, screen[:, names].X[rows[cells]]):
        yield "the true values are not those simulated for genes of these names"


class Run:
    """Predictions of a run, and means per cell type and perturbation."""

    def __init__(self, place, line):
        self.name, self.question, self.embed_key, self.features = line[:4]
        self.steps, self.train_seconds, self.predict_seconds = int(line[4]), float(line[5]), float(line[6])
        self.folder = place / "export" / "runs" / self.name / "eval_final.ckpt"
        self.predicted, self.real = (anndata.read_h5ad(self.folder / f"adata_{x}.h5ad") for x in ("pred", "real"))

    def means(self, adata, cell_type, labels):
        kept = (adata.obs["cell_type"] == cell_type).to_numpy()
        own = adata.obs["gene"].to_numpy()
        return np.array([adata.X[kept & (own == label)].mean(axis=0, dtype=np.float64) for label in labels])

    def scores(self, targets):
        """Return our scores, one row per condition: as cell-eval counts them, and as they should be."""
        tables = []
        for cell_type in sorted(set(self.predicted.obs["cell_type"])):
            kept = self.predicted.obs["cell_type"] == cell_type
            labels = sorted(set(self.predicted.obs["gene"][kept]) - {CONTROL})
            predicted, real = (self.means(x, cell_type, labels) for x in (self.predicted, self.real))
            own_control, control = (self.means(x, cell_type, [CONTROL]) for x in (self.predicted, self.real))
            columns = {
                "mae": mean_absolute_error(predicted, real),
                "pearson_delta": pearson_delta(predicted - own_control, real - control),
                "discrimination_score_l1": as_in_cell_eval(discrimination(predicted - own_control, real - control, [])),
                "pearson_delta_true_control": pearson_delta(predicted - control, real - control),
                "pds": discrimination(predicted - control, real - control, [targets[x] for x in labels]),
                "mae_of_control_mean": mean_absolute_error(control, real),
            }
            tables.append(pd.DataFrame({"cell_type": cell_type, "perturbation": labels, **columns}))
        return pd.concat(tables, ignore_index=True)


def as_in_cell_eval(scores):
    """Return 1 - rank / n of 1 - rank / (n - 1): cell-eval 0.8 divides by n."""
    return 1 - (1 - scores) * (len(scores) - 1) / len(scores)


def differences(run, ours):
    """Return metric → largest difference to what cell-eval wrote for STATE; infinite where a value is lacking."""
    theirs = pd.concat(
        [
            pd.read_csv(path).assign(cell_type=path.name.removesuffix("_results.csv"))
            for path in run.folder.glob("*_results.csv")
            if not path.name.endswith("_agg_results.csv")
        ]
    )
    both = ours.merge(theirs, on=["cell_type", "perturbation"], how="outer", suffixes=("", "_theirs"), indicator=True)
    if (both["_merge"] != "both").any():
        return dict.fromkeys(TOLERANCE, np.inf)
    apart = {name: (both[name] - both[f"{name}_theirs"]).abs() for name in TOLERANCE}
    return {name: float(one.fillna(np.inf).max()) for name, one in apart.items()}


def benched(place, question):
    """Return embedding → metric → value: what `bench perturbation --state` says of the conditions held out."""
    frame = pd.read_parquet(place / f"{question}.parquet")
    frame = frame[(frame["protocol"] == "held-out-by-state") & (frame["reference"] == "") & frame["seed"].isna()]
    frame = frame[frame["kind"] == "reference"]
    frame = frame[frame["metric"].isin(["mae", "pearson_delta", "pds_l1"])]
    return frame.pivot(index="subject", columns="metric", values="value")


def rounded(frame):
    """Return a table with 4 decimals; what has no value is None, which JSON has a word for."""
    frame = frame.round(4).astype(object)
    return frame.where(frame.notna(), None)


def wrong_in_bench(place, question, row):
    """Yield where `bench perturbation` scores predictions otherwise than `row` of the table does."""
    found = benched(place, question)
    found = found[found.index.str.startswith("STATE")]
    if len(found) != 1:
        yield f"bench perturbation has {len(found)} rows of STATE"
        return
    for name, ours in (("mae", "mae"), ("pearson_delta", "pearson_delta_true_control"), ("pds_l1", "pds")):
        if not abs(found[name].iloc[0] - row[ours]) <= 1e-6:
            yield f"bench perturbation: {name} is {found[name].iloc[0]}, not {row[ours]}"


def wrong_in_features(place, told, runs, manifest):
    """Yield what is wrong in how vectors, one-hot features, and a missing vector, are taken."""
    held = held_out_genes(place / "export")
    missing, n_labels = held["test"][0], manifest["n_perturbations"] + 1
    for run in runs:
        one = told[f"export/{run.name}"]
        expected = (run.features == "onehot", n_labels if run.features == "onehot" else manifest["dim"])
        if (one["one_hot"], one["pert_dim"]) != expected:
            yield f"{run.name}: features of {one['pert_dim']} dimensions, not {expected[1]}"
        if one["input_dim"] != {"X_bft": manifest["dim"], "X_hvg": manifest["n_hvg"]}[run.embed_key]:
            yield f"{run.name}: cells of {one['input_dim']} dimensions"
        unseen = sorted([*held["val"], *held["test"]]) if run.question == "unseen_gene" else []
        if one["one_hot"] and one["without_gradient"] != unseen:
            yield f"{run.name}: one-hot weights that nothing trained are of {one['without_gradient']}, not {unseen}"
    for run in runs:
        if run.features == "text":
            other = next(x for x in runs if x.name == run.name.removesuffix("text") + "onehot")
            for cell_type in sorted(set(run.predicted.obs["cell_type"])):
                text, one_hot = (x.means(x.predicted, cell_type, held["test"]) for x in (run, other))
                if not (np.abs(text - one_hot).max(axis=1) > 0.01).all():
                    yield f"{run.name}: text predicts in {cell_type} what one-hot predicts"
    broken = told["broken/unseen_gene-X_bft-text"]
    if broken["zero_features"] != sorted([CONTROL, missing]):
        yield f"without the vector of {missing}, cell-load has zeros for {broken['zero_features']}"
    if not any("Set 1 missing perturbations to zero vectors" in line for line in broken["log"]):
        yield "cell-load does not log the zeros"
    if any(missing in line for line in broken["log"]):
        yield f"cell-load's log names {missing}"
    if re.search(r"missing|zero vector", (place / "logs" / "broken.train.log").read_text(), re.IGNORECASE):
        yield "STATE's training says that a vector is missing"
    if missing not in (place / "logs" / "broken.check.log").read_text():
        yield f"export check does not name {missing}"


def loaded(told):
    """Return question → split → perturbed cells and controls that STATE's loader yields in one epoch."""
    found = {}
    for question in ("zeroshot_celltype", "unseen_gene"):
        splits = told[f"export/{question}-X_bft-text"]["splits"]
        cells = {
            split: [(p == CONTROL, len(x)) for t in splits[split].values() for p, x in t.items()] for split in SPLITS
        }
        found[question] = {
            split: {"perturbed": sum(n for c, n in some if not c), "controls": sum(n for c, n in some if c)}
            for split, some in cells.items()
        }
    return found


def excerpt(place, told):
    """Return the telling messages of the logs, without paths."""
    wanted = re.compile(
        r"(?:Loaded custom|Set \d+ missing| +- [ZF]|Clipped|Input is found).*"
        r"|Computing metric '(?:mae|pearson_delta|discrimination_score_l1)'|.*max_steps=.*reached.*"
    )
    lines = []
    for question in ("zeroshot_celltype", "unseen_gene"):
        for log in sorted((place / "logs").glob(f"{question}-X_bft-text.*.log")):
            found = dict.fromkeys(one[0].strip() for one in wanted.finditer(log.read_text()))
            lines += [f"{log.name}: {one}" for one in found]
    log = told["broken/unseen_gene-X_bft-text"]["log"]
    lines += [f"without one vector, cell_load: {line}" for line in log if "missing" in line]
    check = (place / "logs" / "broken.check.log").read_text().splitlines()
    lines += [f"without one vector, export check: {line}" for line in check]
    return [line.replace(str(place), "DIR") for line in lines]


def compare(place, results):
    export = place / "export"
    manifest = json.loads((export / "manifest.json").read_text())
    names = manifest["hvg_names"]
    at = {name: i for i, name in enumerate(names)}
    targets = {label: [at[g] for g in x["genes"] if g in at] for label, x in manifest["perturbations"].items()}
    said = json.loads((place / "loaded.json").read_text())
    told = said["runs"]
    runs = [Run(place, line.split("\t")) for line in (place / "times.tsv").read_text().splitlines()]
    wrong = [] if len(runs) == 8 else [f"{len(runs)} runs, not 8"]
    table, apart = [], {}
    for run in runs:
        wrong += [f"{run.name}: {what}" for what in wrong_in_splits(place, run, told[f"export/{run.name}"])]
        wrong += [f"{run.name}: {what}" for what in wrong_in_predictions(place, run, names)]
        if told[f"export/{run.name}"]["gene_names"] != names:
            wrong.append(f"{run.name}: STATE has other gene names than the export")
        ours = run.scores(targets)
        apart[run.name] = differences(run, ours)
        wrong += [
            f"{run.name}: {name} differs from cell-eval's by {apart[run.name][name]:g}"
            for name, most in TOLERANCE.items()
            if not apart[run.name][name] <= most
        ]
        row = {key: getattr(run, key) for key in ("question", "embed_key", "features", "steps")}
        row |= {"train_seconds": round(run.train_seconds, 1), "predict_seconds": round(run.predict_seconds, 1)}
        row |= {"conditions": len(ours), **ours.select_dtypes("number").mean().round(9).to_dict()}
        table.append(row)
        if (run.embed_key, run.features) == ("X_bft", "text"):
            wrong += [f"{run.name}: {what}" for what in wrong_in_bench(place, run.question, row)]
    wrong += wrong_in_features(place, told, runs, manifest)

    shown = pd.DataFrame(table)
    print(f"\n{WHAT}\n{shown.round(3).to_string(index=False)}\n")
    most = {name: max(one[name] for one in apart.values()) for name in TOLERANCE}
    print("largest difference to cell-eval:", ", ".join(f"{name} {x:.1e}" for name, x in most.items()))
    if wrong:
        print(*(f"FAILED: {what}" for what in wrong), sep="\n", file=sys.stderr)
        return 1
    record = {
        "what": WHAT,
        "environment": {"bftembed": versions(), "state": said["versions"]},
        "settings": {
            "overrides": (place / "overrides.txt").read_text().split(),
            "threads": 1,
            "load_after": round(os.getloadavg()[0], 2),
        },
        "export": {
            key: manifest[key]
            for key in ("n_cells", "n_perturbations", "n_genes", "n_hvg", "dim", "mapped", "questions")
        },
        "table": rounded(shown).to_dict("records"),
        "bench_perturbation": {
            question: rounded(benched(place, question)).to_dict("index") for question in manifest["questions"]
        },
        "largest_difference_to_cell_eval": most,
        "cells_loaded_by_state": loaded(told),
        "labels_whose_one_hot_weights_nothing_trained": {
            run.name: told[f"export/{run.name}"]["without_gradient"] for run in runs if run.features == "onehot"
        },
        "log": excerpt(place, told),
    }
    results.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    verb, first, second = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if verb == "break":
        print(break_export(first, second))
    else:
        sys.exit(compare(first.resolve(), second))
