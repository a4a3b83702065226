"""Second half of vllm_check.sh: compare the two stores, then try sampling and long prompts for real."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from bftembed.llm.base import Request
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import get_prompt

sys.path.append(str(Path(__file__).parent.parent))
from llm_tools import Sampled

MODEL = "builtin:smollm2-135m-instruct"
FAST = "dtype=fp32,extra.enforce_eager=true,extra.max_model_len=1024,extra.gpu_memory_utilization=0.2"


def profiles(folder):
    with AnswerStore.open(folder) as store:
        return {p.entity: p for p in store.answers()}


def requests(names):
    prompt = get_prompt(None, "gene")
    return [Request(f"{i + 1:08x}" * 8, prompt.messages(name)) for i, name in enumerate(names)]


def compare_stores():
    ours, reference = profiles("vllm_store"), profiles("transformers_store")
    assert len(ours) == 16
    assert ours.keys() == reference.keys()
    same = [e for e in ours if ours[e].text == reference[e].text]
    print(f"texts equal to transformers: {len(same)} of 16; different: {sorted(set(ours) - set(same))}")
    for what in ("finish_reason", "prompt_tokens", "completion_tokens"):
        print(f"{what} equal: {sum(getattr(ours[e], what) == getattr(reference[e], what) for e in ours)} of 16")
    print("finish reasons:", dict(Counter(p.finish_reason for p in ours.values())))
    assert len(same) >= 15
    assert len(Path("vllm.out").read_text().splitlines()) < 40, "vLLM's log is in stdout"
    assert "INFO" not in Path("vllm.out").read_text(), "vLLM's log is in stdout"


def try_the_rest():
    engine = Sampled(f"vllm:{MODEL},{FAST},max_new_tokens=60,temperature=0.7,seed=7")
    genes = ["TP53", "LYZ", "CD3D", "EGFR"]
    sampled = {c.id: c.text for c in engine.generate(requests(genes))}
    again = {c.id: c.text for c in engine.generate(requests(genes)[::-1])}
    print(f"sampled: {sum(again[k] == t for k, t in sampled.items())} of 4 equal in reversed order")

    engine.sampling = replace(engine.sampling, temperature=0.0)
    start = time.monotonic()
    tokens = sum(c.completion_tokens for c in engine.generate(requests(genes)))
    print(f"4 at once: {tokens} tokens in {time.monotonic() - start:.1f} s")

    short = Request("a" * 64, ({"role": "user", "content": "Say OK and nothing else."},))
    long = Request("b" * 64, ({"role": "user", "content": "gene " * 3000},))
    found = {c.id: c for c in engine.generate([long, short])}
    print("short:", found[short.id])
    print("long:", found[long.id].error)
    assert found[short.id].finish_reason == "stop"
    assert "exceeds the model's context of 1024" in found[long.id].error

    options = [Request(f"{i}", prompt=f"{gene} is a", options=(" gene", " cell line")) for i, gene in enumerate(genes)]
    exact = {c.id: c.scores for c in Sampled(f"{MODEL},dtype=fp32").generate(options)}
    scores = {c.id: c.scores for c in engine.generate(options)}
    difference = max(abs(a - b) for name in exact for a, b in zip(exact[name], scores[name], strict=True))
    print(f"option scores: largest difference to transformers {difference:.1e}")
    assert difference < 1e-3

    # Abandoned in the middle, as by Ctrl-C: the engine forgets what was in flight.
    running = engine.generate([*requests(genes), short])
    next(running)
    running.close()
    assert {c.id for c in engine.generate(requests(genes[:1]))} == {requests(genes[:1])[0].id}
    print("abandoned requests are forgotten")


if __name__ == "__main__":
    compare_stores()
    try_the_rest()
    print("check-vllm: done")
