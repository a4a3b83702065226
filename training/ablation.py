"""The ablation: one small model, one recipe, the same genes, and only the objective differs.

Usage: python training/ablation.py --texts refseq_gene_summary_human.tsv.gz [--samples 256] [--processes 2] …

SmolLM2-135M is tuned on RefSeq summaries with every objective and seed, then held to the summaries of genes that no
training text names: NLL of all tokens and of gene names, and what its answers to 20 questions on lung cancer contain
(appendix A.2 of arXiv 2511.21075). ``--sweep training/window_sweep.yaml`` takes objectives, windows and recipe from a
file, on longer texts. A run that is done has its ``result.json`` and is not repeated: stop it and start
it again at will. The table goes to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

#: The sample coefficient of the recorded result, which was the default then.
RECORDED = {"sample_coefficient": "two_minus_min"}
OBJECTIVES = {
    "sft": {"name": "sft"},
    "dft": {"name": "dft"},
    "bft-token": {"name": "bft-token"},
    "bft-sample": {"name": "bft-sample", **RECORDED},
    "bft": {"name": "bft", **RECORDED},
    "bft one_minus_min": {"name": "bft", "sample_coefficient": "one_minus_min"},
}
MAIN_WINDOW = 32
WINDOWS = (16, 32, 64, 128, 256)
RECIPE = {"learning_rate": 5e-5, "batch_size": 8, "schedule": "cosine", "warmup_ratio": 0.05}
#: What a file of ``--sweep`` may change: rows are `texts_per_row` summaries, `max_length` tokens at most.
SETTINGS: dict[str, Any] = {"recipe": RECIPE, "max_length": 320, "texts_per_row": 1, "main_window": MAIN_WINDOW}
TOPICS = (
    "EGFR exon 19 deletions",
    "KRAS G12C",
    "ALK rearrangements",
    "ROS1 fusions",
    "MET amplification",
    "BRAF V600E",
    "ERBB2 insertions",
    "RET fusions",
    "loss of TP53",
    "loss of STK11",
    "KEAP1 mutations",
    "PD-L1 expression",
    "the PI3K-AKT pathway",
    "the MAPK pathway",
    "epithelial-mesenchymal transition",
    "resistance to osimertinib",
    "tumour hypoxia",
    "loss of RB1",
    "NTRK fusions",
    "tumour-infiltrating T cells",
)
#: An amino-acid change as papers write it (V600E, p.Gly12Cys) or an HGVS change of DNA (c.35G>T).
MUTATION = re.compile(
    r"\b(?:p\.)?(?:[ACDEFGHIKLMNPQRSTVWY]\d{2,4}[ACDEFGHIKLMNPQRSTVWY]|[A-Z][a-z]{2}\d+[A-Z][a-z]{2})\b|\bc\.\d+[ACGT]>[ACGT]"
)


def runs(seeds: list[int]) -> dict[str, dict[str, Any]]:
    """Return the grid, in the order in which it is most useful when it is cut short: seed by seed."""
    grid: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        for label, objective in OBJECTIVES.items():
            grid[f"{label.replace(' ', '_')}-s{seed}"] = {
                "label": label,
                "seed": seed,
                "window": MAIN_WINDOW,
                **objective,
            }
    for seed in seeds:
        for window in WINDOWS:
            if window != MAIN_WINDOW:
                grid[f"bft-g{window}-s{seed}"] = {
                    "label": f"bft g={window}",
                    "seed": seed,
                    "window": window,
                    "name": "bft",
                    **RECORDED,
                }
    return grid


def sweep(seeds: list[int]) -> dict[str, dict[str, Any]]:
    """Return the grid of ``--sweep``: every objective at every window, at equal learning rate and equal mean weight."""
    grid: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        for label, objective in SETTINGS["objectives"].items():
            swept = objective["name"].startswith("bft")
            for window in SETTINGS["windows"] if swept else [SETTINGS["main_window"]]:
                for equal in [False, True] if SETTINGS["equal_mean_weight"] and objective["name"] != "sft" else [False]:
                    run = {"label": label + f" g={window}" * swept + " equal weight" * equal, "seed": seed}
                    name = run["label"].replace(" ", "-").replace("=", "")
                    grid[f"{name}-s{seed}"] = {**run, "window": window, "equal_mean_weight": equal, **objective}
    return grid


def joined(conversations: list[Any], n: int) -> list[Any]:
    """Return rows of `n` genes each: one question, their texts one after the other."""
    from bftembed.tuning.data import Conversation, Turn

    groups = [conversations[i : i + n] for i in range(0, len(conversations) - n + 1, n)] if n > 1 else []
    return [
        Conversation(
            group[0].where,
            (
                Turn("user", f"Tell me about the genes {', '.join(map(gene, group))}."),
                Turn("assistant", "\n\n".join(c.turns[1].content.strip() for c in group)),
            ),
        )
        for group in groups
    ] or conversations


def gene(conversation: Any) -> str:
    """Return the gene that a pair asks about."""
    return str(conversation.turns[0].content.split()[-1].rstrip("."))


def prepare(work: Path, texts: Path, seeds: list[int], samples: int, held_out: int) -> None:
    """Write the held-out pairs, and the training pairs of every seed, once."""
    from bftembed.tuning.data import gene_texts, write_conversations
    from bftembed.tuning.encoding import encode

    if (work / "held_out.jsonl").exists():
        return
    from transformers import AutoTokenizer

    from bftembed.llm.models import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("language-model", MODEL).path)
    n = SETTINGS["texts_per_row"]
    longest = SETTINGS["max_length"] // n
    conversations = [c for c in gene_texts(texts) if 80 <= len(encode(c, tokenizer).input_ids) <= longest]
    order = random.Random(0)
    order.shuffle(conversations)
    chosen, rest = conversations[: held_out * n], conversations[held_out * n :]
    names = set(map(gene, chosen))
    named = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, sorted(names))) + r")(?![\w-])")
    rest = [c for c in rest if not any(named.search(t.content) for t in c.turns)]
    for seed in seeds:
        rows = joined(random.Random(seed).sample(rest, samples * n), n)
        write_conversations(rows, work / f"train-s{seed}.jsonl")
    write_conversations(joined(chosen, n), work / "held_out.jsonl")


MODEL = "builtin:smollm2-135m-instruct"


def one(name: str, run: dict[str, Any] | None, work: Path, threads: int, keep: bool) -> None:
    """Tune (None: leave the model as it is), evaluate, write ``result.json``, remove the weights or keep them."""
    import torch

    from bftembed.config import TuneConfig
    from bftembed.tuning.run import tune

    torch.set_num_threads(threads)
    folder, started = work / name, time.monotonic()
    model, report = MODEL, None
    if run is not None:
        options = {k: run[k] for k in ("window", "sample_coefficient", "gamma", "clip") if k in run}
        recipe = dict(SETTINGS["recipe"])
        if run.get("equal_mean_weight"):
            recipe["learning_rate"] /= mean_weight(work / f"train-s{run['seed']}.jsonl", run["name"], options)
        config = TuneConfig.model_validate(
            {
                "model": MODEL,
                "out": str(folder / "tune"),
                "objective": {"name": run["name"], **options},
                "data": {"train": str(work / f"train-s{run['seed']}.jsonl"), "max_length": SETTINGS["max_length"]},
                "training": {**recipe, "seed": run["seed"], "threads": threads, "log_every": 4},
            }
        )
        report = tune(config)
        model = report.model
    tuned = time.monotonic()
    result = {
        "run": run,
        "steps": report.steps if report else 0,
        "train": report.final if report else {},
        "held_out": held_out(model, work / "held_out.jsonl"),
        "learning_rate": recipe["learning_rate"] if run else None,
        "profile_words": profile_words(
            model, work / "held_out.jsonl", folder / "profiles", SETTINGS.get("profiles", 0)
        ),
        "answers": answers(model, seed=run["seed"] if run else 0),
        "seconds": {"tune": round(tuned - started, 1), "evaluate": round(time.monotonic() - tuned, 1)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json.part").write_text(json.dumps(result))
    (folder / "result.json.part").rename(folder / "result.json")
    if not keep:
        shutil.rmtree(folder / "tune", ignore_errors=True)


def mean_weight(path: Path, objective: str, options: dict[str, Any]) -> float:
    """Return the mean of w · s over the tokens of the training rows, under the model before tuning."""
    import numpy as np

    from bftembed.llm.models import load_language_model
    from bftembed.tuning.data import read_conversations
    from bftembed.tuning.diagnostic import objective_weights, token_confidence
    from bftembed.tuning.encoding import encode

    kept = path.with_suffix(".npz")
    if not kept.exists():
        loaded, tokenizer, _ = load_language_model(MODEL, "float32")
        found = token_confidence(loaded, [encode(c, tokenizer) for c in read_conversations(path)])
        with (temporary := path.with_suffix(f".{os.getpid()}")).open("wb") as handle:
            np.savez(handle, *found)
        temporary.rename(kept)
    with np.load(kept) as stored:
        return float(objective_weights(list(stored.values()), objective, **options).mean())


def profile_words(model: str, path: Path, folder: Path, n: int) -> float | None:
    """Return the share of the words of genes' full names in profiles of `n` held-out genes; None for none."""
    from bftembed.profiles.generate import generate_profiles
    from bftembed.tasks.profile_quality import score_profiles
    from bftembed.tuning.data import read_conversations

    if not n:
        return None
    asked = " ".join(c.turns[0].content.partition("gene")[2].lstrip("s") for c in read_conversations(path))
    genes = re.findall(r"[^\s,]+", asked.replace(".", " "))[:n]
    source = model if model.startswith("builtin:") else f"transformers:{model}"
    generate_profiles(genes, out=folder, generator=f"{source},max_new_tokens=96")
    rows = score_profiles(folder)
    row = rows[(rows["metric"] == "full-name-word-recall") & (rows["kind"] == "subject")].iloc[0]
    return float(row["value"])


def held_out(model: str, path: Path) -> list[dict[str, float]]:
    """Return per held-out summary the sums of NLL and tokens, all and of gene names; in float32."""
    import numpy as np

    from bftembed.llm.models import load_language_model
    from bftembed.tuning.data import read_conversations
    from bftembed.tuning.diagnostic import token_confidence
    from bftembed.tuning.encoding import encode
    from bftembed.tuning.tagging import gene_spans, tag_tokens

    loaded, tokenizer, _ = load_language_model(model, "float32")
    conversations = read_conversations(path)
    encoded = [encode(c, tokenizer) for c in conversations]
    found = []
    for conversation, confidence in zip(conversations, token_confidence(loaded, encoded), strict=True):
        text = conversation.turns[-1].content.strip()
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        spans = [(first, last) for first, last, _ in gene_spans(text)]
        entity = tag_tokens(offsets, spans, []) == 0
        nll = -np.log(np.maximum(confidence[: len(offsets)].astype(np.float64), 1e-30))
        found.append(
            {"nll": nll.sum(), "tokens": len(nll), "entity_nll": nll[entity].sum(), "entities": int(entity.sum())}
        )
    return found


def answers(model: str, seed: int, tokens: int = 128) -> list[dict[str, float]]:
    """Return the counts of appendix A.2 in the model's answers to 20 questions, sampled at temperature 0.6."""
    from bftembed.io import sha256_text
    from bftembed.llm import model_from_spec
    from bftembed.llm.base import Request
    from bftembed.tuning.tagging import connective_spans, gene_spans

    source = model if model.startswith("builtin:") else f"transformers:{model}"
    generator, sampling = model_from_spec(f"{source},max_new_tokens={tokens},temperature=0.6,seed={seed}")
    requests = [
        Request(
            sha256_text(topic),
            ({"role": "user", "content": f"Explain the mechanism of {topic} in non-small cell lung cancer."},),
            sampling=sampling,
        )
        for topic in TOPICS
    ]
    return [
        {
            "entities": len({symbol for _, _, symbol in gene_spans(completion.text)}),
            "connectives": len(connective_spans(completion.text)),
            "characters": len(completion.text),
            "mutation": float(bool(MUTATION.search(completion.text))),
        }
        for completion in sorted(generator.generate(requests), key=lambda c: c.id)
    ]


def table(work: Path, grid: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per label: means over seeds, and the paired difference to sft with its bootstrap interval."""
    import numpy as np

    of_label: dict[str, list[dict[str, Any]]] = {}
    for name, run in {"base": None, **grid}.items():
        file = work / name / "result.json"
        if file.exists():
            of_label.setdefault(run["label"] if run else "base", []).append(json.loads(file.read_text()))

    def per_gene(results: list[dict[str, Any]], total: str, count: str) -> Any:
        """Return sums (seeds, genes) of NLL and tokens."""
        return np.array([[[g[total], g[count]] for g in r["held_out"]] for r in results], dtype=float)

    rows = []
    generator = np.random.default_rng(0)
    for label, results in of_label.items():
        row: dict[str, Any] = {"label": label, "seeds": [r["run"]["seed"] for r in results if r["run"]]}
        for metric, total, count in (("nll", "nll", "tokens"), ("entity_nll", "entity_nll", "entities")):
            mine = per_gene(results, total, count)
            by_seed = mine[..., 0].sum(1) / mine[..., 1].sum(1)
            row[metric] = round(float(by_seed.mean()), 4)
            row[f"{metric}_sd"] = round(float(by_seed.std(ddof=1)), 4) if len(by_seed) > 1 else None
            sft = per_gene(of_label.get("sft", []), total, count)
            if label in ("base", "sft") or len(sft) != len(mine):
                continue
            draws = []
            for _ in range(2000):
                s = generator.integers(len(mine), size=len(mine))
                g = generator.integers(mine.shape[1], size=mine.shape[1])
                a, b = mine[np.ix_(s, g)].sum((0, 1)), sft[np.ix_(s, g)].sum((0, 1))
                if a[1]:  # a few genes may name no other gene
                    draws.append(a[0] / a[1] - b[0] / b[1])
            row[f"{metric}_minus_sft"] = round(
                float(by_seed.mean() - (sft[..., 0].sum(1) / sft[..., 1].sum(1)).mean()), 4
            )
            row[f"{metric}_minus_sft_interval"] = [round(float(x), 4) for x in np.quantile(draws, [0.025, 0.975])]
        for count in ("entities", "connectives", "characters", "mutation"):
            row[count] = round(float(np.mean([[a[count] for a in r["answers"]] for r in results])), 3)
        for measure in ("mean_token_weight", "mean_sample_coefficient", "sft_mass_kept", "share_short"):
            if measure in results[0]["train"]:
                row[measure] = round(float(np.mean([r["train"][measure] for r in results])), 4)
        for measure in ("learning_rate", "profile_words"):
            if results[0].get(measure) is not None:
                row[measure] = float(np.mean([r[measure] for r in results]))
        row["seconds_tune"] = round(float(np.mean([r["seconds"]["tune"] for r in results])), 1)
        rows.append(row)
    return rows


def write(options: argparse.Namespace, grid: dict[str, dict[str, Any]]) -> None:
    """Write the table with its settings and environment."""
    from bftembed.report.manifest import versions

    done = sum((options.work / name / "result.json").exists() for name in grid)
    result = {
        "environment": {"versions": versions(), "threads_per_run": options.threads},
        "model": MODEL,
        "settings": {
            **{k: getattr(options, k) for k in ("samples", "held_out", "seeds")},
            **{k: v for k, v in SETTINGS.items() if k != "main_window"},
            "window_of_the_main_grid": SETTINGS["main_window"],
        },
        "runs": {"done": done, "of": len(grid)},
        "rows": table(options.work, grid),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Run what is not done yet, and write the table after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help="Table with columns symbol and summary (RefSeq).")
    parser.add_argument("--sweep", type=Path, help="Objectives, windows and recipe (YAML).")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="Folder of data and finished runs.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation.json"))
    parser.add_argument("--samples", type=int, default=256, help="Training summaries per run.")
    parser.add_argument("--held-out", type=int, default=64, help="Held-out summaries.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2, help="Runs at a time.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of each.")
    parser.add_argument("--only", nargs="+", help="Names of the runs, such as sft-s0; default all.")
    parser.add_argument("--keep", action="store_true", help="Keep the tuned models, in the folder tune of each run.")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sweep:
        SETTINGS.update(yaml.safe_load(options.sweep.read_text()))
    grid = sweep(options.seeds) if options.sweep else runs(options.seeds)
    if options.one:
        one(options.one, grid.get(options.one), options.work, options.threads, options.keep)
        return
    if not (options.work / "held_out.jsonl").exists() and options.texts is None:
        parser.error("--texts is needed to prepare the data")
    if options.texts is not None:
        prepare(options.work, options.texts, options.seeds, options.samples, options.held_out)
    waiting = [name for name in options.only or ["base", *grid] if not (options.work / name / "result.json").exists()]
    working: dict[str, subprocess.Popen[bytes]] = {}
    failed = []
    while waiting or working:
        while waiting and len(working) < options.processes:
            name = waiting.pop(0)
            (options.work / name).mkdir(parents=True, exist_ok=True)
            command = [sys.executable, __file__, "--one", name, "--work", str(options.work), "--seeds"]
            command += [*map(str, options.seeds), "--threads", str(options.threads), *["--keep"] * options.keep]
            command += ["--sweep", str(options.sweep)] if options.sweep else []
            environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
            log = (options.work / name / "log.txt").open("wb")
            working[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        time.sleep(1)
        for name in [n for n, p in working.items() if p.poll() is not None]:
            code = working.pop(name).returncode
            failed += [name] * bool(code)
            print(f"{name}: {'failed, see its log.txt' if code else 'done'}; {len(waiting)} wait", flush=True)
            write(options, grid)
    write(options, grid)
    print(options.out)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
