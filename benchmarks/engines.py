"""The same model through three engines, and how alike their profiles of 2,000 genes are.

Usage: python benchmarks/engines.py [--genes 2000] [--max-new-tokens 24] [--store FOLDER]

SmolLM2 writes through transformers (bf16 or fp32), through llama.cpp in the process, and through an OpenAI-compatible
server (llama.cpp's, on loopback). A store that is there already is gone on with. The last two read the quantised
weights of the packaged file, transformers reads the same weights dequantised.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests" / "llm"))


def compared(profiles: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Compare the profiles of each pair of engines, gene by gene."""
    from difflib import SequenceMatcher

    found = {}
    engines = list(profiles)
    for i, one in enumerate(engines):
        for other in engines[i + 1 :]:
            shared = sorted(profiles[one].keys() & profiles[other].keys())
            texts = [(profiles[one][g].text.split(), profiles[other][g].text.split()) for g in shared]
            same = [SequenceMatcher(None, a, b, autojunk=False).ratio() for a, b in texts]
            found[f"{one} and {other}"] = {
                "genes": len(shared),
                "equal_texts": sum(profiles[one][g].text == profiles[other][g].text for g in shared),
                "median_share_of_equal_words": round(statistics.median(same), 3),
                "mean_share_of_equal_words": round(statistics.fmean(same), 3),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--engines", nargs="+", default=None, help="only these; all are needed for the comparison")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "engines.json")
    options = parser.parse_args()

    from conftest import LlamaServer

    from bftembed.entities.genes import GeneIndex
    from bftembed.llm.store import AnswerStore
    from bftembed.report.manifest import versions

    index = GeneIndex.default()
    coding = [s for s in index if (record := index.get(s)) and record.locus_type == "gene with protein product"]
    with tempfile.TemporaryDirectory() as name:
        folder = options.store or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        names = folder / "genes.txt"
        names.write_text("\n".join(coding[:: len(coding) // options.genes][: options.genes]))
        server = LlamaServer(folder / "server.log")
        limit = f"max_new_tokens={options.max_new_tokens}"
        specs = {
            "transformers": f"builtin:smollm2-135m-instruct,{limit}",
            "transformers fp32": f"builtin:smollm2-135m-instruct,{limit},dtype=fp32",
            "llamacpp": f"llamacpp:builtin:smollm2-135m-instruct,{limit},threads=1",
            "openai": f"openai:{server.model},{limit}",
        }
        environment = os.environ | {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "none"}
        result: dict[str, Any] = {"environment": versions(), "max_new_tokens": options.max_new_tokens, "engines": {}}
        profiles = {}
        for engine, spec in specs.items():
            if options.engines and engine not in options.engines:
                continue
            if engine == "openai":
                server.start()
            call = [sys.executable, "-c", "from bftembed.cli import main; main()", "profiles", "generate", str(names)]
            call += ["--generator", spec, "--out", str(folder / engine.replace(" ", "-")), "--json"]
            started = time.monotonic()
            done = subprocess.run(call, env=environment, stdout=subprocess.PIPE, text=True)
            assert done.returncode in (0, 3), done
            report = json.loads(done.stdout)
            with AnswerStore.open(folder / engine.replace(" ", "-")) as store:
                written = store.answers()
            profiles[engine] = {p.entity: p for p in written}
            marks = collections.Counter(mark for p in written for mark in p.marks)
            result["engines"][engine] = {
                "written": report["written"],
                "already_stored": report["already_stored"],
                "seconds": round(time.monotonic() - started, 1),
                "tokens": sum(p.completion_tokens for p in written),
                "finish_reasons": dict(collections.Counter(p.finish_reason for p in written)),
                "marks": dict(marks),
            }
            print(engine, result["engines"][engine], flush=True)
            if engine == "openai":
                server.kill()
        result["compared"] = compared(profiles)
    print(json.dumps(result["compared"], indent=1))
    if not options.engines:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
