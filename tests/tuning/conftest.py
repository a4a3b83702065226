"""A tiny language model with a chat template, and conversations for it."""

from __future__ import annotations

import json
import random

import pytest

WORDS = ["the", "gene", "protein", "cell", "kinase", "binds", "signal", "receptor", "growth", "factor", "of", "in"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Give the folder of a random Llama of two layers with a byte tokenizer."""
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory):
    """Give 24 prompt/completion rows of different lengths."""
    rng = random.Random(0)
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"prompt": f"What is G{i}?", "completion": " ".join(rng.choices(WORDS, k=rng.randint(2, 14)))}
        for i in range(24)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="session")
def config_of(tiny_model, pairs_file):
    """Make a `TuneConfig` on the tiny model; keys such as ``training__max_steps`` reach into the parts."""
    from bftembed.config import TuneConfig

    def make(out, **changes):
        values = {
            "model": str(tiny_model),
            "out": str(out),
            "objective": {"window": 16},
            "data": {"train": str(pairs_file), "max_length": 256},
            "training": {"precision": "fp32", "learning_rate": 0.01, "batch_size": 4, "max_steps": 3, "threads": 1},
        }
        for key, value in changes.items():
            part, _, name = key.partition("__")
            if name:
                values[part][name] = value
            else:
                values[part] = value
        return TuneConfig.model_validate(values)

    return make


@pytest.fixture
def make_config(config_of, tmp_path):
    """Make a config of a run in the test's folder."""
    return lambda out=None, **changes: config_of(out or tmp_path / "run", **changes)
