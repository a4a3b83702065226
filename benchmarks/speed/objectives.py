"""Time and peak memory of language-model head + loss, forward and backward, by four ways and two objectives.

Usage: python benchmarks/speed/objectives.py [--tokens 1024 4096] [--repeats 3] [--out FILE]

Ways: ``full`` = logits of all tokens, then cross entropy (plain SFT) or the objective on its per-token NLL; ``v1`` =
full logits and the authors' first objective; ``torch`` = ``F.linear_cross_entropy(reduction="none")`` of torch 2.13;
``ours`` = `bftembed.objectives.linear_nll`. Each runs in a process of its own. Peak memory is resident memory (CUDA:
allocated memory) at its highest minus that before the first step, less the gradients of the inputs. Times are medians
of wall seconds after one warm-up; only ratios within one run are meant to be compared. A whole training step of SmolLM2
is timed beside them. Where there is a CUDA device, the same rows are measured there in bfloat16, with Liger and
cut-cross-entropy where they are installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

WAYS = [("full", "sft"), ("full", "bft"), ("v1", "bft-v1"), ("torch", "bft"), ("ours", "sft"), ("ours", "bft")]
HEADS = {49_152: 576, 128_256: 1024}


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Peak:
    """The highest resident memory while the block runs, sampled every millisecond."""

    def __enter__(self) -> Peak:
        self.highest, self._run = resident(), True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self._run:
            self.highest = max(self.highest, resident())
            time.sleep(0.001)

    def __exit__(self, *exc: object) -> None:
        self._run = False
        self._thread.join()


def token_nll(way: str, hidden: Any, weight: Any, labels: Any) -> Any:
    """Return the NLL of each token by one way; all take and return flat rows."""
    from torch.nn import functional

    if way == "ours":
        from bftembed.objectives import linear_nll

        return linear_nll(hidden, weight, labels)
    if way == "torch":
        return functional.linear_cross_entropy(hidden, weight, labels, reduction="none")
    if way == "liger":
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        return LigerFusedLinearCrossEntropyLoss(reduction="none")(weight, hidden, labels)
    if way == "cce":
        from cut_cross_entropy import linear_cross_entropy

        return linear_cross_entropy(hidden, weight, labels, reduction="none")
    return functional.cross_entropy(hidden @ weight.T, labels, reduction="none")


def measure(
    way: str, objective: str, tokens: int, vocabulary: int, frozen: bool, repeats: int, device: str
) -> dict[str, Any]:
    import torch
    from torch.nn import functional

    from bftembed.objectives import objective_loss

    torch.manual_seed(0)
    width, cuda = HEADS[vocabulary], device == "cuda"
    like = {"device": device, "dtype": torch.bfloat16 if cuda else torch.float32}
    hidden = torch.randn(tokens, width, **like).requires_grad_()
    weight = (torch.randn(vocabulary, width, **like) * 0.05).requires_grad_(not frozen)
    labels = torch.randint(vocabulary, (tokens,), device=device)
    mask = torch.ones(8, tokens // 8, dtype=torch.bool, device=device)

    def step() -> None:
        hidden.grad = weight.grad = None
        if (way, objective) == ("full", "sft"):
            functional.cross_entropy(hidden @ weight.T, labels).backward()
        else:
            nll = token_nll(way, hidden, weight, labels).reshape(mask.shape)
            found = objective_loss(nll.float(), mask, objective)
            (found.loss_sum / found.n_samples).backward()
        if cuda:
            torch.cuda.synchronize()

    if cuda:
        step()  # kernels are compiled and work spaces made once
        hidden.grad = weight.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        highest = torch.cuda.max_memory_allocated()
    else:
        before = resident()
        with Peak() as peak:
            step()
        highest = peak.highest
    gradients = hidden.nbytes + (0 if frozen else weight.nbytes)
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.monotonic(), time.process_time()
        step()
        wall.append(time.monotonic() - started)
        cpu.append(time.process_time() - used)
    return {
        "seconds": round(statistics.median(wall), 4),
        "cpu_seconds": round(statistics.median(cpu), 4),
        "peak_mb_beyond_inputs_and_gradients": round((highest - before - gradients) / 2**20, 1),
    }


def whole_step(repeats: int) -> dict[str, Any]:
    """Time a training step of SmolLM2 (8 rows of 256 tokens, float32, AdamW) by three ways, turn by turn."""
    import torch
    from torch.nn import functional

    from bftembed.llm.models import load_language_model
    from bftembed.objectives import objective_loss
    from bftembed.tuning.head import add_nll_head

    model, _, _ = load_language_model("builtin:smollm2-135m-instruct", "float32")
    model.train()
    add_nll_head(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)
    tokens = torch.randint(1000, 40_000, (8, 256), generator=torch.Generator().manual_seed(0))
    targets, mask = tokens[:, 1:], torch.ones(8, 255, dtype=torch.bool)

    def plain() -> torch.Tensor:
        return functional.cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), targets.flatten())

    def ours(objective: str) -> torch.Tensor:
        found = objective_loss(model(tokens, labels=tokens, nll=True).nll, mask, objective)
        return found.loss_sum / found.n_samples

    ways = {"plain sft": plain, "ours sft": lambda: ours("sft"), "ours bft": lambda: ours("bft")}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, loss in ways.items():
            started = time.monotonic()
            loss().backward()
            optimiser.step()
            optimiser.zero_grad()
            times[name].append(time.monotonic() - started)
    seconds = {name: round(statistics.median(found[1:]), 3) for name, found in times.items()}
    return {
        "seconds": seconds,
        "bft_x_sft_by_our_head": round(seconds["ours bft"] / seconds["ours sft"], 3),
        "bft_x_plain_sft": round(seconds["ours bft"] / seconds["plain sft"], 3),
    }


def weights_alone(repeats: int) -> dict[str, float]:
    import torch

    from bftembed.objectives import objective_loss

    nll, mask = torch.rand(8, 1024) * 4, torch.ones(8, 1024, dtype=torch.bool)
    objective_loss(nll, mask)
    times = []
    for _ in range(max(repeats, 20)):
        started = time.monotonic()
        objective_loss(nll, mask)
        times.append(time.monotonic() - started)
    return {"milliseconds_for_8192_tokens": round(1000 * statistics.median(times), 3)}


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def cuda_ways() -> list[tuple[str, str]]:
    """Return the ways that run on CUDA alone, where their packages are installed."""
    packages = {"liger": "liger_kernel", "cce": "cut_cross_entropy"}
    return [(way, "bft") for way, package in packages.items() if find_spec(package)]


def environment() -> dict[str, Any]:
    import torch

    from bftembed.report.manifest import versions

    return {"versions": versions(), "torch_threads": torch.get_num_threads()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096], help="multiples of 8")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "objectives.json")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    rows: list[dict[str, Any]] = []
    devices = ["cpu", "cuda"] if has_cuda() else ["cpu"]
    for device, vocabulary, tokens, frozen in product(devices, options.vocabularies, options.tokens, (False, True)):
        place = {"device": device, "vocabulary": vocabulary, "tokens": tokens, "frozen": frozen}
        plain: dict[str, Any] = {}
        for way, objective in WAYS + (cuda_ways() if device == "cuda" else []):
            case = {"way": way, "objective": objective, **place, "repeats": options.repeats}
            command = [sys.executable, __file__, "--one", json.dumps(case)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout)
            plain = plain or found
            memory = found["peak_mb_beyond_inputs_and_gradients"]
            found["time_x_plain_sft"] = round(found["seconds"] / plain["seconds"], 3)
            found["memory_x_plain_sft"] = round(memory / plain["peak_mb_beyond_inputs_and_gradients"], 4)
            rows.append({**place, "way": way, "objective": objective, **found})
            print(rows[-1], flush=True)
    result = {
        "environment": environment(),
        "weights": weights_alone(options.repeats),
        "whole_step": whole_step(options.repeats),
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(result["weights"], result["whole_step"], options.out)


if __name__ == "__main__":
    main()
