"""A model whose chat template opens a thought, as DeepSeek-R1's does: tuned, converted, served and asked, for real."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path

import pytest
from llm_tools import LlamaServer, Sampled, answer_of, gene_requests

from bftembed.config import TuneConfig
from bftembed.llm.chat import prompt_text, template_in
from bftembed.llm.models import _packaged_file, resolve_model
from bftembed.llm.store import AnswerStore
from bftembed.profiles.generate import generate_profiles
from bftembed.tuning.run import read_sets, tune

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.usefixtures("no_openai_environment")]
gguf = pytest.importorskip("gguf", reason="needs the extra [local]")

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip() }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
FACTS = {
    "TP53": "a tumor suppressor that halts the cell cycle after DNA damage",
    "EGFR": "a receptor tyrosine kinase that binds epidermal growth factor",
    "MYC": "a transcription factor that drives growth and division",
    "KRAS": "a small GTPase that carries signals from growth factor receptors",
    "BRCA1": "a protein of double-strand break repair and a ubiquitin ligase",
    "CD3D": "a chain of the T cell receptor complex",
    "CD8A": "a coreceptor of cytotoxic T cells that binds MHC class I",
    "MS4A1": "the B cell surface antigen CD20",
    "LYZ": "lysozyme, which breaks down the walls of bacteria",
    "NKG7": "a protein of cytotoxic granules in natural killer cells",
    "IL7R": "the receptor of interleukin 7, which naive T cells need",
    "GNLY": "granulysin, which kills microbes and infected cells",
}
GENES = ["TP53", "CD3D", "LYZ"]
SMOLLM = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Give the folder of SmolLM2 with a template that opens a thought and drops those of earlier turns."""
    from transformers import AutoTokenizer

    folder, source = tmp_path_factory.mktemp("r1") / "base", resolve_model("language-model", f"builtin:{SMOLLM}").path
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / name).symlink_to(source / name)
    yield folder
    shutil.rmtree(folder.parent)  # two gigabytes by then


@pytest.fixture(scope="module")
def config(base):
    rows = [
        {"messages": [*request.messages, {"role": "assistant", "content": f"{gene} is {fact}."}]}
        for (gene, fact), request in zip(FACTS.items(), gene_requests(FACTS), strict=True)
    ]
    file = base.parent / "facts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TuneConfig.model_validate(
        {
            "model": str(base),
            "out": str(base.parent / "run"),
            "objective": {"window": 16},
            "data": {"train": str(file), "max_length": 256},
            "lora": {"rank": 8},
            "training": {"precision": "fp32", "learning_rate": 1e-3, "batch_size": 4, "max_steps": 6, "threads": 1},
        }
    )


@pytest.fixture(scope="module")
def tuned(config):
    return Path(tune(config).model)


@pytest.fixture(scope="module")
def files(tuned):
    """Give the tuned model in llama.cpp's format, with its own template and with the one that it was made of."""
    own, opening = (tuned.parent / f"{name}.gguf" for name in ("own", "opening"))
    write_gguf(tuned, template_in(tuned), own)
    write_gguf(tuned, TEMPLATE, opening)
    return {"own": own, "opening": opening}


def write_gguf(folder, template, file):
    """Write a model in half precision, with the metadata of the packaged file."""
    from safetensors.torch import load_file

    packaged = gguf.GGUFReader(_packaged_file("language-model", SMOLLM)[0])
    replaced = {"tokenizer.chat_template": template, "general.file_type": int(gguf.LlamaFileType.MOSTLY_F16)}
    writer = gguf.GGUFWriter(file, "llama")
    for name, field in packaged.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.quantization_version"):
            value = replaced[name] if name in replaced else field.contents()
            writer.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    settings = json.loads((folder / "config.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, settings["num_hidden_layers"])
    heads = {"q_proj": settings["num_attention_heads"], "k_proj": settings["num_key_value_heads"]}
    tensors = load_file(folder / "model.safetensors")
    for name in tensors.keys() - {"lm_head.weight"}:  # the head is the embedding
        values = tensors[name].float().numpy()
        for part, n in heads.items():
            if f".{part}." in name:  # llama.cpp rotates pairs of neighbors, transformers the two halves of a head
                values = values.reshape(n, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        values = values.astype("float16") if values.ndim > 1 else values
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def profiles(spec, out):
    """Return report and profiles of a run with answers of 30 tokens."""
    report = generate_profiles(GENES, generator=f"{spec},max_new_tokens=30", out=out)
    with AnswerStore.open(out) as store:
        return report, store.answers()


def assert_texts(report, found):
    assert (report.written, report.failed) == (3, ())
    for profile in found:
        assert profile.text
        assert "think>" not in profile.text
        assert not {"empty", "failed", "reasoning"} & set(profile.marks)


def test_tuning_closes_the_thought_and_learns_what_generation_asks(config, base, tuned):
    from transformers import AutoTokenizer

    requests = gene_requests(FACTS)
    opening, closing = (AutoTokenizer.from_pretrained(folder) for folder in (base, tuned))
    asked = prompt_text(closing, requests[0].messages)
    assert asked == prompt_text(opening, requests[0].messages) + "</think>\n\n"
    engine = Sampled(f"transformers:{tuned},dtype=fp32")._load()
    rows = read_sets(config, opening)[0].learnt.rows
    for request, row in zip(requests, rows, strict=True):
        prompt = engine.prompt_tokens(request)
        assert row.input_ids[: len(prompt)] == prompt
        assert row.labels == [-100] * len(prompt) + row.input_ids[len(prompt) :]


def test_the_converted_file_is_the_tuned_model(tuned, files):
    options = "dtype=fp32,max_new_tokens=8"
    request = gene_requests(GENES[:1])[0]
    (expected,) = Sampled(f"transformers:{tuned},{options}").generate([request])
    (found,) = Sampled(f"llamacpp:{files['own']},threads=1,batch=1,max_new_tokens=8").generate([request])
    assert answer_of(found.text) == answer_of(expected.text)
    assert found.prompt_tokens == expected.prompt_tokens


@pytest.mark.parametrize("reasoning", ["NONE", "DEEPSEEK"])
def test_the_tuned_model_gives_profiles_with_and_without_a_reasoning_parser(files, tuned, tmp_path, reasoning):
    from transformers import AutoTokenizer

    server = LlamaServer(tmp_path / "log", files["own"], reasoning)
    server.start()
    try:
        assert_texts(*profiles(f"openai:{server.model},base_url={server.base_url}", tmp_path / "s"))
        messages = list(gene_requests(GENES[:1])[0].messages)
        body = json.dumps({"messages": messages}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/apply-template", body) as answer:
            rendered = json.loads(answer.read())["prompt"]
    finally:
        server.kill()
    assert rendered == prompt_text(AutoTokenizer.from_pretrained(tuned), messages)


@pytest.mark.parametrize("reasoning", ["NONE", "DEEPSEEK"])
def test_a_thought_that_a_served_model_never_closes_is_no_profile(files, tmp_path, reasoning):
    server = LlamaServer(tmp_path / "log", files["opening"], reasoning)
    server.start()
    try:
        _, found = profiles(f"openai:{server.model},base_url={server.base_url}", tmp_path / "s")
    finally:
        server.kill()
    assert all("empty" in p.marks and p.text == "" and p.reasoning for p in found)


@pytest.mark.parametrize("backend", ["transformers", "llamacpp"])
def test_a_model_that_was_not_tuned_needs_its_thought_closed(base, files, tmp_path, backend):
    spec = f"transformers:{base},dtype=fp32" if backend == "transformers" else f"llamacpp:{files['opening']},threads=1"
    report, found = profiles(spec, tmp_path / "auto")
    assert (report.written, report.failed) == (3, ())
    assert all("empty" in p.marks and p.text == "" and p.reasoning for p in found)
    assert_texts(*profiles(f"{spec},thinking=off", tmp_path / "off"))
