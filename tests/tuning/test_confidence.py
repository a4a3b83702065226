"""Teacher-forced confidences equal softmax of the full logits, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest

from bftembed.errors import BftembedError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from bftembed.tuning.confidence import context_of, token_confidence  # noqa: E402
from bftembed.tuning.encoding import IGNORED, Encoded  # noqa: E402

VOCABULARY = 512


def llama(dtype=torch.float32, **options):
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
        **options,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).to(dtype)


def rows(n=12, seed=0, longest=60):
    generator = np.random.default_rng(seed)
    found = []
    for i in range(n):
        prompt, answer = int(generator.integers(1, longest // 2)), int(generator.integers(0, longest // 2))
        ids = generator.integers(VOCABULARY, size=prompt + answer).tolist()
        found.append(Encoded(f"pairs.jsonl:{i + 1}", ids, [IGNORED] * prompt + ids[prompt:]))
    return found


def naive(model, item):
    """One sequence, no padding, full logits, one token after the other."""
    with torch.no_grad():
        logits = model(torch.tensor([item.input_ids])).logits[0].double()
    told = [
        float(torch.softmax(logits[t - 1], dim=0)[label])
        for t, label in enumerate(item.labels)
        if t and label != IGNORED
    ]
    return np.array(told)


def test_confidences_equal_full_logits_in_the_order_of_the_input():
    model, data = llama(), rows()
    for values, item in zip(token_confidence(model, data), data, strict=True):
        assert values.dtype == np.float32
        assert len(values) == sum(label != IGNORED for label in item.labels)
        assert ((values >= 0) & (values <= 1)).all()
        np.testing.assert_allclose(values, naive(model, item), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("batch_tokens", [1, 64, 100, 10_000])
def test_batches_do_not_change_the_values(batch_tokens):
    model, data = llama(), rows()
    alone = [token_confidence(model, [item])[0] for item in data]
    for ours, theirs in zip(token_confidence(model, data, batch_tokens=batch_tokens), alone, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_masked_tokens_inside_a_response_are_left_out():
    model = llama()
    item = rows(1, seed=3)[0]
    ids = list(range(20))
    gaps = Encoded("two answers", ids, [IGNORED] * 4 + ids[4:8] + [IGNORED] * 5 + ids[13:])
    assert len(token_confidence(model, [item, gaps])[1]) == 11
    np.testing.assert_allclose(token_confidence(model, [gaps])[0], naive(model, gaps), rtol=2e-4)


def test_logits_that_the_model_changes_after_its_head_are_followed(monkeypatch):
    """A cap that the configuration names, and one that it does not."""
    data = rows(4)
    plain = [naive(llama(), item) for item in data]
    for told in (True, False):
        model = llama()
        if told:
            model.config.final_logit_softcapping = 2.0
        forward = model.forward

        def capped(*args, _forward=forward, **kwargs):
            out = _forward(*args, **kwargs)
            out.logits = 2.0 * torch.tanh(out.logits / 2.0)
            return out

        model.forward = capped
        for values, item, other in zip(token_confidence(model, data), data, plain, strict=True):
            np.testing.assert_allclose(values, naive(model, item), rtol=2e-4)
            assert len(values) == 0 or not np.allclose(values, other, rtol=1e-2)


def test_no_logits_are_held_for_all_tokens():
    """The head is never called on a batch: on a plain model only the probe sees it."""
    model, data, seen = llama(), rows(), []
    model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    token_confidence(model, data)
    assert max(seen) <= 16


def test_bf16_is_close_to_float32():
    data = rows()
    exact = np.concatenate(token_confidence(llama(), data))
    rough = np.concatenate(token_confidence(llama(torch.bfloat16), data))
    assert rough.dtype == np.float32
    assert np.median(np.abs(rough - exact)) < 5e-3


def test_a_bias_of_the_head_counts():
    model, data = llama(), rows(3)
    head = torch.nn.Linear(64, VOCABULARY, bias=True)
    head.weight = model.lm_head.weight
    model.set_output_embeddings(head)
    for values, item in zip(token_confidence(model, data), data, strict=True):
        np.testing.assert_allclose(values, naive(model, item), rtol=2e-4, atol=1e-7)


def test_an_adapter_counts():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(llama(), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    data = rows(3)
    model.eval()
    for values, item in zip(token_confidence(model, data), data, strict=True):
        np.testing.assert_allclose(values, naive(model, item), rtol=2e-4, atol=1e-7)
    assert any(np.abs(naive(model, i) - naive(llama(), i)).max(initial=0) > 1e-4 for i in data)


def test_the_model_is_left_in_its_mode_and_without_gradients():
    model = llama(attention_dropout=0.5).train()
    first = token_confidence(model, rows(3))
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    for a, b in zip(first, token_confidence(model, rows(3)), strict=True):
        np.testing.assert_array_equal(a, b)  # dropout was off


def test_progress_reaches_the_end():
    told = []
    token_confidence(llama(), rows(), batch_tokens=64, progress=lambda done, total, note: told.append((done, total)))
    assert told[-1] == (12, 12)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_nothing_in_gives_nothing_out():
    model = llama()
    assert token_confidence(model, []) == []
    empty, prompt_only = token_confidence(model, [Encoded("a", [], []), Encoded("b", [1, 2], [IGNORED] * 2)])
    assert len(empty) == len(prompt_only) == 0


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Encoded("x.jsonl:7", [1, 2], [1, 2]), ["x.jsonl:7", "nothing predicts it"]),
        (Encoded("x.jsonl:7", [1] * 129, [IGNORED] * 129), ["x.jsonl:7", "129 tokens", "128"]),
        (Encoded("x.jsonl:7", [1, 512], [IGNORED, 512]), ["x.jsonl:7", "vocabulary of 512"]),
        (Encoded("x.jsonl:7", [1, 2, 3], [IGNORED, 2]), ["x.jsonl:7", "3 tokens, but 2 labels"]),
    ],
)
def test_what_cannot_be_forced_is_named(item, words):
    with pytest.raises(BftembedError) as caught:
        token_confidence(llama(), [Encoded("fine", [1, 2], [IGNORED, 2]), item])
    assert all(word in str(caught.value) for word in words)


def test_bad_weights_and_batches_are_errors():
    model = llama()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(BftembedError, match=r"pairs.jsonl.*no numbers"):
        token_confidence(model, rows(2, seed=1))
    with pytest.raises(BftembedError, match="batch_tokens=0"):
        token_confidence(llama(), rows(2), batch_tokens=0)


def test_the_context_is_read_from_the_configuration():
    assert context_of(llama()) == 128


@pytest.mark.model
def test_the_packaged_model_is_surer_of_sense_than_of_noise():
    from bftembed.llm.models import load_language_model
    from bftembed.tuning.data import Conversation, Turn
    from bftembed.tuning.encoding import encode

    model, tokenizer, _ = load_language_model("builtin:smollm2-135m-instruct", "float32")
    asked = Turn("user", "What is the capital of France?")
    answers = ("The capital of France is Paris.", "Lamp the seven of Paris capital oyster.")
    pairs = [encode(Conversation(a, (asked, Turn("assistant", a))), tokenizer) for a in answers]
    sense, noise = token_confidence(model, pairs)
    np.testing.assert_allclose(sense, naive(model, pairs[0]), rtol=1e-3, atol=1e-6)
    assert sense.mean() > 0.5 > noise.mean()
