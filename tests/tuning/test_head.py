"""Joined rows give the hidden states, losses and gradients of padded rows."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from bftembed.tuning.head import _join_rows, add_nll_head  # noqa: E402

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
#: Model type → options beside the sizes, and whether its rows are joined.
MODELS = {
    "llama": ({}, True),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, True),
    "gemma": ({}, True),
    "mistral": ({"sliding_window": 4}, False),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, False),
}


def model_of(kind, **options):
    torch.manual_seed(0)
    given, joins = MODELS[kind]
    config = AutoConfig.for_model(kind, **{**SIZES, **given, **options})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="sdpa").eval(), joins


def batch(common, lengths, side="right", seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (len(lengths), max(lengths)), generator=generator)
    ids[:, :common] = ids[0, :common]
    at, n = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
    mask = at < n if side == "right" else at >= max(lengths) - n
    labels = ids.masked_fill(~mask, -100)
    labels[:, :3] = -100
    return {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long(), "labels": labels}


def losses(model, given, scale, joined):
    """Return the NLL and the gradient of its sum by `scale`, by full logits or by the model's own head."""
    model.zero_grad()
    if joined:
        nll = model(**given, nll=True, use_cache=False).nll
    else:
        inputs = {k: v for k, v in given.items() if k != "labels"}
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), given["labels"][:, 1:], reduction="none")
    (nll * scale).sum().backward()
    return [nll.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


ROWS = [(5, [9, 12, 6]), (0, [4, 11]), (8, [8, 8, 8]), (0, [7]), (4, [6, 20])]


@pytest.mark.parametrize("kind", MODELS)
def test_losses_and_gradients_are_those_of_padded_rows(kind):
    model, joins = model_of(kind)
    given = [batch(*rows) for rows in ROWS] + [batch(0, [5, 9], side="left")]
    scales = [torch.rand_like(g["labels"][:, 1:], dtype=torch.float64) for g in given]
    before = [losses(model, g, s, joined=False) for g, s in zip(given, scales, strict=True)]
    add_nll_head(model)
    assert (model.config._attn_implementation != "sdpa") == joins
    for g, s, wanted in zip(given, scales, before, strict=True):
        for a, b in zip(losses(model, g, s, joined=True), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_recomputed_activations_give_the_same():
    model, _ = model_of("llama")
    given = batch(5, [9, 12, 6])
    scale = torch.rand_like(given["labels"][:, 1:], dtype=torch.float64)
    add_nll_head(model)
    wanted = losses(model, given, scale, joined=True)
    model.train()
    model.gradient_checkpointing_enable()
    for a, b in zip(losses(model, given, scale, joined=True), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_other_calls_and_the_saved_config_stay(implementation, tmp_path):
    model, _ = model_of("llama")
    model.set_attn_implementation(implementation)
    given = {k: v for k, v in batch(5, [9, 12, 6]).items() if k != "labels"}
    before = model(**given).logits
    assert _join_rows(model) == (implementation == "sdpa")
    assert torch.equal(model(**given).logits, before)
    model.save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_a_common_beginning_is_held_once():
    model, _ = model_of("llama")
    add_nll_head(model)
    seen = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: seen.append(out.shape[:2]))
    model(**batch(5, [9, 12, 6]), nll=True, use_cache=False)
    assert seen == [(1, 5 + 4 + 7 + 1)]
