"""A tiny model whose template opens a thought, as DeepSeek-R1's does: tuned, asked, converted and served, for real."""

from __future__ import annotations

import json

import pytest
from llm_tools import LlamaServer, gene_requests

from bftembed.llm.chat import prompt_text
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import generate_profiles
from bftembed.tuning.run import tune

pytest.importorskip("trl")
gguf, _ = pytest.importorskip("gguf", reason="needs the extra [local]"), pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.model

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoConfig, AutoTokenizer  # noqa: E402

OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
GENES, ANSWER = ["TP53", "CD3D", "LYZ"], "DNA"


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    """Give the tiny model with a template that opens a thought, and one merge: llama.cpp takes no tokenizer without."""
    folder = tmp_path_factory.mktemp("r1") / "base"
    config = AutoConfig.from_pretrained(tiny_model)
    config.max_position_embeddings = 2048
    config.save_pretrained(folder)
    (folder / "model.safetensors").symlink_to(tiny_model / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = tokenizer.chat_template.partition("{% if add_generation_prompt")[0] + OPENS
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    written = json.loads(file.read_text())
    written["model"]["vocab"]["th"], written["model"]["merges"] = 299, [["t", "h"]]
    file.write_text(json.dumps(written))
    return folder


def write_gguf(folder, file):
    """Write a Llama and its byte-level tokenizer in llama.cpp's format, in float32."""
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    names = {i: name for name, i in tokenizer.get_vocab().items()}
    special = set(tokenizer.added_tokens_decoder)
    kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(config.vocab_size)]
    writer.add_token_list([names.get(i, f"<unused{i}>") for i in range(config.vocab_size)])
    writer.add_token_types([kind if i in names else gguf.TokenType.UNUSED for i, kind in enumerate(kinds)])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in load_file(folder / "model.safetensors").items():
        values = tensor.numpy()
        for part, n in heads.items():
            if f".{part}." in name:  # llama.cpp rotates pairs of neighbors, transformers the two halves of a head
                values = values.reshape(n, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(known.get_name(name, try_suffixes=(".weight",)), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def answers(spec, out):
    report = generate_profiles(GENES, generator=f"{spec},max_new_tokens=20", out=out)
    assert (report.written, report.failed) == (3, ())
    with AnswerStore.open(out) as store:
        return {answer.entity: answer.text for answer in store.answers()}


def test_it_answers_what_it_was_tuned_to_from_transformers_and_from_a_server(make_config, base, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    data = tmp_path / "rows.jsonl"
    rows = [{"messages": [*r.messages, {"role": "assistant", "content": ANSWER}]} for r in gene_requests(GENES)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"data__max_length": 2048, "training__max_steps": 80, "training__batch_size": 3}
    config = make_config(model=str(base), data__train=str(data), objective__name="sft", **options)
    tuned = tune(config).model
    request = gene_requests(GENES[:1])[0]
    opening, closing = (AutoTokenizer.from_pretrained(folder) for folder in (base, tuned))
    assert prompt_text(closing, request.messages) == prompt_text(opening, request.messages) + "</think>\n\n"
    expected = dict.fromkeys(GENES, ANSWER)
    assert answers(f"transformers:{tuned},dtype=fp32", tmp_path / "local") == expected
    write_gguf(tmp_path / "run" / "model", tmp_path / "tiny.gguf")
    server = LlamaServer(tmp_path / "log", tmp_path / "tiny.gguf", "DEEPSEEK")
    server.start()
    try:
        assert answers(f"openai:{server.model},base_url={server.base_url}", tmp_path / "served") == expected
    finally:
        server.kill()
