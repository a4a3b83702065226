"""GenePT's tasks on real text: RefSeq summaries, HGNC facts, and SmolLM2 before and after tuning.

Usage: BFTEMBED_DATA=FOLDER python benchmarks/genes.py [--folder runs/genes] [--genes 3000] [--steps profiles …]

``profiles`` tunes SmolLM2 on RefSeq summaries of other genes, writes profiles of the evaluation genes with the model
before and after, and encodes everything. ``text`` scores RefSeq summaries and facts of all genes that have them, by
MiniLM (TF-IDF of the same texts is among the baselines). ``model`` scores all sets of texts on the evaluation genes.
Every step goes on where it stopped.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
MINILM = "builtin:all-minilm-l6-v2"
SMOLLM2 = "builtin:smollm2-135m-instruct"
MARKS = "truncated,looping,off-topic"


def call(*arguments: object) -> None:
    """Run a command of bftembed; some failed items are no failure."""
    command = [sys.executable, "-c", "from bftembed.cli import main; main()", *map(str, arguments)]
    started = time.monotonic()
    done = subprocess.run(command)
    print(f"{' '.join(map(str, arguments))}: exit {done.returncode}, {time.monotonic() - started:.0f} s", flush=True)
    if done.returncode not in (0, 3):
        sys.exit(done.returncode)


def evaluation_genes(n: int) -> list[str]:
    """Return the genes of the dosage task and those with the most pairs and pathways."""
    from bftembed.datasets import load
    from bftembed.tasks.genes import get_task

    summaries = load("refseq-summaries")
    counts: collections.Counter[str] = collections.Counter()
    for name in ("ggi", "ppi", "kegg"):
        task = get_task(name)
        rank = collections.Counter(task.items[task.labels.reshape(len(task), -1).any(axis=1)].ravel().tolist())
        for place, (gene, _) in enumerate(rank.most_common()):
            counts[task.genes[gene]] += n / (n + place)
    first = [g for g in get_task("dosage").genes if g in summaries]
    return list(dict.fromkeys([*first, *(g for g, _ in counts.most_common() if g in summaries)]))[:n]


def profiles(folder: Path, n: int) -> None:
    from bftembed.datasets import find_file
    from bftembed.entities.genes import GeneIndex

    names, coding = folder / "genes.txt", folder / "coding.txt"
    names.write_text("\n".join(evaluation_genes(n)))
    index = GeneIndex.default()
    coding.write_text(
        "\n".join(s for s in index if (r := index.get(s)) and r.locus_type == "gene with protein product")
    )
    summaries = find_file("refseq-summaries")
    pairs = folder / "pairs.jsonl"
    if not pairs.exists():
        call("tune", "pairs", summaries, "--out", pairs, "--leave-out", names)
    recipe = yaml.safe_load((HERE.parent / "configs" / "tune" / "smollm2_cpu.yaml").read_text())
    recipe["out"], recipe["data"]["train"] = str(folder / "tuned"), str(pairs)
    (folder / "tune.yaml").write_text(yaml.safe_dump(recipe))
    call("tune", folder / "tune.yaml")
    writers = {"base": SMOLLM2, "tuned": f"transformers:{folder / 'tuned' / 'model'}"}
    for name, spec in writers.items():
        call("profiles", "generate", names, "--generator", f"{spec},max_new_tokens=40", "--out", folder / name)
    call("profiles", "generate", coding, "--generator", "facts", "--out", folder / "facts")
    for name in (*writers, "facts"):
        for encoder, spec in (("MiniLM", f"{MINILM},dtype=bf16"), ("TF-IDF", "tfidf:dim=256")):
            out = folder / f"{name}-{encoder}.safetensors"
            if not out.exists():
                call("genes", "embed", folder / name, "--encoder", spec, "--allow-marks", MARKS, "--out", out)
    refseq(folder)


def refseq(folder: Path) -> None:
    from bftembed import embed_genes
    from bftembed.datasets import load

    for encoder, spec in (("MiniLM", f"{MINILM},dtype=bf16"), ("TF-IDF", "tfidf:dim=256")):
        out = folder / f"refseq-{encoder}.safetensors"
        if not out.exists():
            embed_genes(load("refseq-summaries"), spec, out=out)


def bench(folder: Path, name: str, sets: list[str], encoders: list[str], tasks: str, *more: object) -> None:
    embeddings, texts = [], []
    for of in sets:
        for encoder in encoders:
            embeddings.append(f"{of}-{encoder}={folder / f'{of}-{encoder}.safetensors'}")
            source = "dataset:refseq-summaries" if of == "refseq" else folder / of
            texts += ["--texts", f"{of}-{encoder}={source}"]
    out = folder / f"{name}.parquet"
    call("bench", "genes", *embeddings, "--jobs", 2, "--tasks", tasks, *texts, "--out", out, *more)
    for suffix in (".png", ".html"):
        call("report", out, "--out", out.with_suffix(suffix))


def text(folder: Path) -> None:
    sets, both = ["refseq", "facts"], ("--protocol", "strict,genept")
    bench(folder, "genes-dosage", sets, ["MiniLM", "TF-IDF"], "dosage", *both)
    bench(folder, "genes-text", sets, ["MiniLM"], "tf-vs-other,gene-type,kegg", "--no-own")
    bench(folder, "genes-pairs", sets, ["MiniLM"], "ggi,ppi", *both, "--no-own")


def model(folder: Path) -> None:
    sets = ["base", "tuned", "refseq", "facts"]
    bench(folder, "genes-model", sets, ["MiniLM"], "dosage,ggi,ppi,kegg", "--no-own")


def record(folder: Path, out: Path) -> None:
    """Write the scores over all folds and seeds of the tables that are there as one JSON."""
    from bftembed.report.manifest import versions
    from bftembed.tasks.base import read_results

    found: dict[str, Any] = {"environment": versions()}
    for name in ("genes-dosage", "genes-text", "genes-pairs", "genes-model"):
        if (folder / f"{name}.parquet").exists():
            table = read_results(folder / f"{name}.parquet")
            table = table[table["seed"].isna()].drop(columns=["note", "seed"]).round(4)
            found[name] = json.loads(table.to_json(orient="records"))
    out.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/genes"))
    parser.add_argument("--genes", type=int, default=3000)
    parser.add_argument(
        "--steps", nargs="+", choices=("profiles", "text", "model"), default=["profiles", "text", "model"]
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "genes.json")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for step in options.steps:
        globals()[step](options.folder, *([options.genes] if step == "profiles" else []))
        record(options.folder, options.out)


if __name__ == "__main__":
    main()
