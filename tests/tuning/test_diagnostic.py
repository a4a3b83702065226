"""Confidences against softmax of full logits, windows against a naive program, enrichment against hand-made numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError
from bftembed.tuning.diagnostic import (
    _TAG_COLORS,
    diagnose,
    draw_response,
    group_weights,
    in_group,
    low_tokens,
    token_confidence,
)
from bftembed.tuning.encoding import IGNORED, Encoded

VOCABULARY = 512


# ---- teacher forcing


def llama():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, initializer_range=0.3)
    return transformers.LlamaForCausalLM(config).eval()


def rows(n=8, seed=0, longest=60):
    generator = np.random.default_rng(seed)
    found = []
    for i in range(n):
        prompt, answer = int(generator.integers(1, longest // 2)), int(generator.integers(0, longest // 2))
        ids = generator.integers(VOCABULARY, size=prompt + answer).tolist()
        found.append(Encoded(f"pairs.jsonl:{i + 1}", ids, [IGNORED] * prompt + ids[prompt:]))
    return found


def naive(model, item):
    """One sequence, no padding, full logits, one token after the other."""
    import torch

    if not item.input_ids:
        return np.empty(0)
    with torch.no_grad():
        logits = model(torch.tensor([item.input_ids])).logits[0].double()
    pairs = [(t, label) for t, label in enumerate(item.labels) if t and label != IGNORED]
    return np.array([float(torch.softmax(logits[t - 1], dim=0)[label]) for t, label in pairs])


def assert_naive(model, data, **options):
    for values, item in zip(token_confidence(model, data, **options), data, strict=True):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, naive(model, item), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("batch_tokens", [1, 100])
def test_confidences_equal_full_logits_whatever_the_batches(batch_tokens):
    gaps = Encoded("two answers", list(range(20)), [IGNORED] * 4 + list(range(4, 8)) + [IGNORED] * 5 + [*range(13, 20)])
    nothing = [Encoded("a", [], []), Encoded("b", [1, 2], [IGNORED] * 2)]
    calls = []
    data = [*rows(), gaps, *nothing]
    assert_naive(llama(), data, batch_tokens=batch_tokens, progress=lambda done, total, _: calls.append((done, total)))
    assert calls[-1] == (11, 11)


def test_caps_biases_and_adapters_are_followed():
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    capped, forward = llama(), llama().forward
    capped.config.final_logit_softcapping = 2.0

    def cap(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = 2.0 * torch.tanh(out.logits / 2.0)
        return out

    capped.forward = cap
    biased = llama()
    head = torch.nn.Linear(64, VOCABULARY, bias=True)
    head.weight = biased.lm_head.weight
    biased.set_output_embeddings(head)
    adapted = peft.get_peft_model(llama(), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)).eval()
    plain = token_confidence(llama(), rows(3))
    for model in (capped, biased, adapted):
        assert_naive(model, rows(3))
        assert any(
            np.abs(a - b).max(initial=0) > 1e-4 for a, b in zip(plain, token_confidence(model, rows(3)), strict=True)
        )


def test_rows_that_cannot_be_forced_and_bad_weights_are_named():
    with pytest.raises(BftembedError, match=r"x\.jsonl:7"):
        token_confidence(llama(), [Encoded("fine", [1, 2], [IGNORED, 2]), Encoded("x.jsonl:7", [1, 2], [1, 2])])
    model = llama()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(BftembedError, match=r"pairs.jsonl.*NaN"):
        token_confidence(model, rows(2, seed=1))


# ---- windows and groups


def naive_run(low):
    best = now = 0
    for x in low:
        now = now + 1 if x else 0
        best = max(best, now)
    return best


def naive_starts(n, window, stride):
    if n <= window:
        return [0] * min(n, 1)
    starts = list(range(0, n - window + 1, stride))
    return starts if starts[-1] == n - window else [*starts, n - window]


def random_responses(seed, n=8, longest=90):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, longest, size=n)
    return [generator.random(k) for k in lengths], [generator.integers(0, 3, size=k) for k in lengths]


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 5))
def test_the_result_equals_a_naive_program(seed, window, stride):
    confidences, tags = random_responses(seed)
    try:
        result = diagnose(confidences, tags, window=window, stride=stride, resamples=2)
    except BftembedError:
        return
    rows = []
    for i, (c, tag) in enumerate(zip(confidences, tags, strict=True)):
        low = [x < np.median(c) for x in c]
        for s in naive_starts(len(c), window, stride):
            part = low[s : s + window]
            counts = [sum(1 for x, t in zip(part, tag[s : s + window], strict=True) if x and t == k) for k in range(3)]
            rows.append((i, s, len(part), sum(part) / len(part), naive_run(part), *counts))
    cuts = [np.quantile([r[k] for r in rows], q) for q in (0.25, 0.75) for k in (3, 4)]
    groups = ["A" if r[3] <= cuts[0] and r[4] <= cuts[1] else "B" if r[3] >= cuts[2] and r[4] >= cuts[3] else ""
              for r in rows]  # fmt: skip
    found = result.windows
    assert found["group"].tolist() == groups
    assert list(found.drop(columns="group").itertuples(index=False, name=None)) == rows
    sizes = [len(c) for c in confidences]
    inside = {group: in_group(found, sizes, group) for group in "AB"}
    for group, held in inside.items():
        for i, n in enumerate(sizes):
            of = [(r[1], r[2]) for r, g in zip(rows, groups, strict=True) if g == group and r[0] == i]
            assert held[i].tolist() == [any(s <= t < s + length for s, length in of) for t in range(n)]
    low = [low_tokens(c) for c in confidences]
    for k, row in enumerate(result.enrichment):
        for group, share in (("A", row["share_sparse"]), ("B", row["share_dense"])):
            sums = np.sum([r[5:] for r, g in zip(rows, groups, strict=True) if g == group], axis=0)
            assert share == (pytest.approx(sums[k] / sums.sum()) if sums.sum() else None)
        each = list(zip(low, inside["B"], tags, strict=True))
        assert row["low_dense"] == sum(int((x & h & (t == k)).sum()) for x, h, t in each)
        assert row["low_tokens"] == sum(int((x & (t == k)).sum()) for x, _, t in each)
        assert row["tokens"] == sum(int((t == k).sum()) for t in tags)


def responses(*texts):
    """Windows of 4 written as tags: a capital letter is a low-confidence token."""
    tags = [np.array(["eco".index(x.lower()) for x in t.replace(" ", "")]) for t in texts]
    return [np.array([0.1 if x.isupper() else 0.9 for x in t.replace(" ", "")]) for t in texts], tags


#: Nine of sixteen tokens are low, so the median is a low one's 0.1 and nothing lies below it; the 0.7 quantile is 0.9.
BY_FOURS = {"window": 4, "stride": 4, "tau_quantile": 0.7, "dense_quantile": 0.6}


def test_enrichment_worked_out_by_hand():
    result = diagnose(*responses("Eooo EECO oCoo EOOo"), **BY_FOURS)
    assert result.windows["group"].tolist() == ["A", "B", "A", "B"]
    assert result.thresholds == {
        "A": {"low_fraction": 0.25, "longest_run": 1.0},
        "B": {"low_fraction": pytest.approx(0.65), "longest_run": pytest.approx(2.6)},
    }
    entity, connective, other = result.enrichment
    assert (entity["share_sparse"], entity["share_dense"]) == (1 / 2, 3 / 7)
    assert entity["ratio"] == pytest.approx(6 / 7)
    assert connective["ratio"] == pytest.approx(2 / 7)
    assert [entity[name] for name in ("tokens", "low_tokens", "low_sparse", "low_dense")] == [4, 4, 1, 3]
    # One response: every resample is itself.
    assert entity["low"] == entity["high"] == entity["ratio"]
    # "other" is never low in A: more than any number, and no interval.
    assert [other[name] for name in ("share_sparse", "ratio", "low", "high", "undefined")] == [0.0, None, None, None, 0]
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (written["options"]["window"], written["counts"]["windows_dense"]) == (4, 2)


def test_responses_are_resampled_not_windows():
    """Two responses: a resample holds both, or one of them twice; so three ratios are possible."""
    texts = ("Eooo EOOO oOoo EEEO", "Eooo OOOO oCoo OOOE")
    result = diagnose(*responses(*texts), **BY_FOURS, resamples=400)
    alone = [diagnose(*responses(t), **BY_FOURS).enrichment[0]["ratio"] for t in texts]
    entity = result.enrichment[0]
    assert (entity["low"], entity["high"]) == (min(alone), max(alone))
    assert min(alone) < entity["ratio"] < max(alone)


def test_resamples_without_a_value_are_counted_and_left_out():
    """One response holds every connective: where it is not drawn, the ratio is 0 / 0."""
    connective = diagnose(*responses("Cooo CCOO oOoo OOOO", "Eooo OOOO oOoo OOOE"), **BY_FOURS).enrichment[1]
    assert 300 < connective["undefined"] < 700
    assert connective["low"] is not None
    never = diagnose(*responses("Eooo EEOO oOoo OOOO"), **BY_FOURS).enrichment[1]
    assert (never["tokens"], never["ratio"], never["low"], never["undefined"]) == (0, None, None, 2000)


def test_short_and_empty_responses_are_counted_and_the_window_fits():
    confidences, tags = random_responses(0, n=20)
    confidences += [np.array([]), np.array([0.1, 0.9, 0.2])]
    tags += [np.array([], dtype=int), np.array([0, 1, 2])]
    result = diagnose(confidences, tags, resamples=2)
    lengths = np.array([len(c) for c in confidences])
    assert result.options["window"] == 32
    assert "32 instead of the paper's 256" in result.note
    assert result.counts["empty_responses"] == (lengths == 0).sum()
    assert result.counts["short_responses"] == ((lengths > 0) & (lengths < 32)).sum()
    assert result.windows.iloc[-1][["response", "start", "length", "longest_run"]].tolist() == [21, 0, 3, 1]
    generator = np.random.default_rng(0)
    long = [generator.random(n) ** 4 for n in (300, 400, 500)]
    result = diagnose(long, [np.zeros(len(c), dtype=int) for c in long], resamples=2)
    assert (result.options["window"], result.note) == (256, "")


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ((), {}),
        (("oooooooo",), {}),  # all alike
        # The window with the longest run is not the one with the most low tokens.
        (
            ("OOOoooooo", "OoOoOoOoO", "OOooOooOo"),
            {"window": 9, "tau_quantile": 0.7, "sparse_quantile": 0.0, "dense_quantile": 1.0},
        ),
        (("Eooo EECO",), {"window": 0}),
        (("Eooo EECO",), {"tau_quantile": float("nan")}),
        (("Eooo EECO",), {"sparse_quantile": 0.8}),
    ],
)
def test_groups_that_are_empty_or_alike_and_bad_options_are_errors(texts, options):
    with pytest.raises(BftembedError):
        diagnose(*responses(*texts), **options)


# ---- weights of the objectives


def test_bft_prefers_dense_to_sparse_low_tokens_where_dft_sees_no_difference():
    """Group A is suppressed more than under DFT, relative to the mean weight, and group B is kept more."""
    pytest.importorskip("torch")
    sparse = np.where(np.arange(64) % 8, 0.9, 0.2)  # lone low tokens in a confident context
    dense = np.where(np.arange(64) % 8, 0.2, 0.9)  # runs of seven
    confidences = [np.concatenate([sparse, dense]), np.array([]), np.concatenate([dense, sparse])]
    result = diagnose(confidences, [np.zeros(len(c), dtype=int) for c in confidences], window=16, resamples=2)
    found = {row["objective"]: row for row in group_weights(confidences, result)}
    a, b = ({name: row[group] for name, row in found.items()} for group in ("sparse", "dense"))
    assert a["sft"] == b["sft"] == 1
    assert a["dft"] == pytest.approx(b["dft"]) == pytest.approx(0.2 / found["dft"]["mean"])
    for objective in ("bft", "bft-token"):
        assert a[objective] < a["dft"] < b["dft"] + 0.3 < b[objective]
    assert found["bft-token"]["mean"] > found["dft"]["mean"]


# ---- figures


def has(path, color):
    from matplotlib.image import imread

    wanted = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return bool((np.abs(imread(path)[..., :3] - wanted).max(axis=-1) < 0.02).any())


@pytest.mark.parametrize("n", [1, 45, 300])
def test_a_response_is_drawn(tmp_path, n):
    generator = np.random.default_rng(0)
    confidence, inside = generator.random(n), np.arange(n) < n // 2
    tags = [("entity", "connective", "other")[i % 3] for i in range(n)]
    tokens = ["", "\n", "$x$ $", "日本", "a" * 80][:n] + [f" w{i}" for i in range(5, n)]
    groups = {"A": inside, "B": ~inside}
    draw_response(tmp_path / "b.png", tokens, confidence, tags, groups, tau=0.5)
    assert all(has(tmp_path / "b.png", color) for color in _TAG_COLORS.values())
