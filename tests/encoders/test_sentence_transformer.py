"""The packaged MiniLM and plain BERT folders, against sentence-transformers and transformers used directly."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bftembed.encoders.base import encoder_from_spec
from bftembed.errors import BftembedError
from bftembed.llm.models import resolve_model
from bftembed.machine import cpu_has_bf16

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.model
pytest.importorskip("sentence_transformers")

MINILM = "builtin:all-minilm-l6-v2"
WORDS = ["kinase", "phosphorylates", "the", "receptor.", "BRCA1", "(a", "tumour-suppressor)", "membrane,", "β-catenin"]
SHORT = ["TP53 is a tumour suppressor.", "EGFR", "HLA-DRA presents peptides to T cells.", "β-catenin, in Wnt"]


def long_text(n_words: int, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, size=n_words))


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve_model("encoder", MINILM).path


@pytest.fixture(scope="module")
def reference(folder: Path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def minilm():
    return encoder_from_spec(f"{MINILM},device=cpu")


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A BERT of 2 layers without ``modules.json``, as BioBERT comes, with MiniLM's vocabulary."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    path = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(path)
    return path


def test_spec_says_what_the_model_is(minilm) -> None:
    spec = minilm.spec
    assert (spec.name, spec.dim, spec.max_tokens, spec.pooling) == (MINILM, 384, 256, "mean")
    assert (spec.normalised, spec.dtype, spec.long) == (True, "fp32", "chunk")
    assert spec.revision.startswith("sha256:")
    assert set(spec.versions) == {"torch", "transformers", "sentence-transformers"}
    json.dumps(spec.to_dict())


def test_short_texts_equal_sentence_transformers_bit_for_bit(minilm, reference) -> None:
    vectors = minilm.encode(SHORT)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, reference.encode(SHORT))
    report = minilm.report
    assert (report.n_texts, report.n_over_limit, report.n_chunks, report.n_tokens_dropped) == (4, 0, 0, 0)
    assert report.n_tokens_total == sum(len(reference.tokenizer.tokenize(t)) for t in SHORT)


def pack_words(text: str, reference, room: int) -> list[tuple[str, int]]:
    """Fill pieces word by word, a tokenizer call for each: slow and plain."""
    pieces, current = [], []
    for word in text.split(" "):
        if len(reference.tokenizer.tokenize(" ".join([*current, word]))) > room:
            pieces.append(current)
            current = []
        current.append(word)
    texts = [" ".join(words) for words in [*pieces, current]]
    return [(t, len(reference.tokenizer.tokenize(t))) for t in texts]


def test_long_text_is_the_token_weighted_mean_of_its_pieces(minilm, reference) -> None:
    texts = [long_text(90, 0), SHORT[0], long_text(200, 1)]
    vectors = minilm.encode(texts)
    n_chunks = 0
    for text, vector in zip([texts[0], texts[2]], vectors[[0, 2]], strict=True):
        pieces = pack_words(text, reference, 254)
        n_chunks += len(pieces)
        assert len(pieces) > 1
        weights = np.array([count for _, count in pieces])
        mean = (reference.encode([t for t, _ in pieces]) * weights[:, None]).sum(axis=0) / weights.sum()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(vectors[1], reference.encode([SHORT[0]])[0], atol=1e-6)
    report = minilm.report
    assert (report.n_texts, report.n_chunked, report.n_chunks, report.n_truncated) == (3, 2, n_chunks, 0)
    assert report.n_tokens_total == sum(len(reference.tokenizer.tokenize(t)) for t in texts)
    assert report.n_tokens_dropped == 0


def test_text_exactly_at_the_limit_is_not_cut(minilm, reference) -> None:
    text = "cell " * 254
    np.testing.assert_array_equal(minilm.encode([text]), reference.encode([text]))
    assert minilm.report.n_over_limit == 0
    minilm.encode([text + "cell"])
    assert (minilm.report.n_chunked, minilm.report.n_chunks) == (1, 2)


def test_truncation_drops_the_rest_and_counts_it(reference) -> None:
    encoder = encoder_from_spec(f"{MINILM},long=truncate,device=cpu")
    texts = [long_text(200, 1), SHORT[0]]
    np.testing.assert_array_equal(encoder.encode(texts), reference.encode(texts))
    n_tokens = len(reference.tokenizer.tokenize(texts[0]))
    report = encoder.report
    assert (report.n_truncated, report.n_chunked) == (1, 0)
    assert report.n_tokens_dropped == n_tokens - 254
    assert encoder.spec.long == "truncate"


def test_order_and_batch_size_do_not_matter_and_a_repeat_is_equal(minilm) -> None:
    texts = [long_text(int(n), i) for i, n in enumerate(np.random.default_rng(5).integers(1, 70, size=14))]
    first = minilm.encode(texts)
    np.testing.assert_array_equal(minilm.encode(texts), first)
    np.testing.assert_allclose(minilm.encode(texts[::-1])[::-1], first, atol=1e-5)
    other = encoder_from_spec(f"{MINILM},batch_size=5,device=cpu")
    np.testing.assert_allclose(other.encode(texts), first, atol=1e-5)


@pytest.mark.skipif(not cpu_has_bf16(), reason="this processor has no bf16 units")
def test_bf16_is_opt_in_and_close(minilm) -> None:
    encoder = encoder_from_spec(f"{MINILM},dtype=bf16,device=cpu")
    vectors = encoder.encode(SHORT)
    assert (encoder.spec.dtype, vectors.dtype) == ("bf16", np.float32)
    cosines = (vectors * minilm.encode(SHORT)).sum(axis=1)
    assert 0.999 < cosines.min() <= cosines.max() < 1.00001
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert not np.array_equal(vectors, minilm.encode(SHORT))


def test_options_change_limit_pooling_and_scale(minilm, reference) -> None:
    encoder = encoder_from_spec(f"{MINILM},max_tokens=12,pooling=cls,normalize=false,device=cpu")
    assert (encoder.spec.max_tokens, encoder.spec.pooling, encoder.spec.normalised) == (12, "cls", False)
    vector = encoder.encode(["EGFR"])[0]
    tokens = reference.encode(["EGFR"], output_value="token_embeddings")[0]
    np.testing.assert_allclose(vector, tokens[0], atol=1e-5)
    encoder.encode(["cell " * 25])
    assert encoder.report.n_chunks == 3


@pytest.mark.parametrize("max_tokens", [2, 513, 0])
def test_limit_out_of_range_is_refused(max_tokens: int) -> None:
    with pytest.raises(BftembedError, match="from 3 to 512"):
        encoder_from_spec(f"{MINILM},max_tokens={max_tokens}")


@pytest.mark.parametrize("text", ["", "  ", "\u200b\u200b", "\x01"])
def test_text_without_a_token_is_refused_with_its_index(minilm, text: str) -> None:
    with pytest.raises(BftembedError, match="Text 1 "):
        minilm.encode(["fine", text])


def test_progress_reaches_the_total(tiny_bert: Path) -> None:
    told = []
    encoder = encoder_from_spec(f"st:{tiny_bert},device=cpu")
    encoder.encode([f"gene {i}" for i in range(600)], lambda done, total, note: told.append((done, total)))
    assert told == [(512, 600), (600, 600)]


def test_plain_bert_folder_is_mean_pooled(tiny_bert: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    encoder = encoder_from_spec(f"st:{tiny_bert},device=cpu")
    assert (encoder.spec.dim, encoder.spec.max_tokens, encoder.spec.pooling) == (32, 64, "mean")
    assert not encoder.spec.normalised
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_bert), AutoModel.from_pretrained(tiny_bert)
    expected = []
    with torch.inference_mode():
        for text in SHORT:
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            expected.append(states.mean(dim=0).numpy())
    np.testing.assert_allclose(encoder.encode(SHORT), expected, atol=1e-5)


def test_unscaled_model_keeps_the_plain_mean_unless_asked(tiny_bert: Path) -> None:
    text = "cell " * 100
    plain = encoder_from_spec(f"st:{tiny_bert},device=cpu")
    scaled = encoder_from_spec(f"st:{tiny_bert},normalize=true,device=cpu")
    pieces = plain.encode(["cell " * 62, "cell " * 38])
    mean = (pieces[0] * 62 + pieces[1] * 38) / 100
    np.testing.assert_allclose(plain.encode([text])[0], mean, atol=1e-5)
    np.testing.assert_allclose(scaled.encode([text])[0], mean / np.linalg.norm(mean), atol=1e-5)
    assert scaled.spec.normalised


def test_transformer_part_of_minilm_alone_gives_its_vectors(folder: Path, tmp_path: Path, minilm) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(folder / name, tmp_path)
    encoder = encoder_from_spec(f"st:{tmp_path},normalize=true,device=cpu")
    np.testing.assert_allclose(encoder.encode(SHORT), minilm.encode(SHORT), atol=1e-6)


def test_bin_weights_need_consent(tiny_bert: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model = tmp_path / "bin"
    shutil.copytree(tiny_bert, model)
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(BftembedError, match="allow_bin=true"):
        encoder_from_spec(f"st:{model}")
    vectors = encoder_from_spec(f"st:{model},allow_bin=true,device=cpu").encode(SHORT)
    np.testing.assert_allclose(vectors, encoder_from_spec(f"st:{tiny_bert},device=cpu").encode(SHORT), atol=1e-6)


def test_nan_weights_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "nan"
    shutil.copytree(tiny_bert, model)
    weights = load_file(model / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][:] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BftembedError, match=r"NaN or infinite values for 4 of 4 texts.*TP53"):
        encoder_from_spec(f"st:{model}").encode(SHORT)


def test_damaged_folder_is_one_clear_error(tiny_bert: Path, tmp_path: Path) -> None:
    model = tmp_path / "cut"
    shutil.copytree(tiny_bert, model)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(BftembedError, match="cannot be loaded as an encoder"):
        encoder_from_spec(f"st:{model}")
    (model / "model.safetensors").unlink()
    with pytest.raises(BftembedError, match="holds no weights"):
        encoder_from_spec(f"st:{model}")


def test_code_in_a_model_folder_is_not_run(tiny_bert: Path, tmp_path: Path) -> None:
    model = tmp_path / "hostile"
    shutil.copytree(tiny_bert, model)
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    (model / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))
    with pytest.raises(BftembedError, match="cannot be loaded as an encoder"):
        encoder_from_spec(f"st:{model}")
    assert not (tmp_path / "ran").exists()


def test_loading_and_encoding_print_nothing(capfd: pytest.CaptureFixture) -> None:
    encoder_from_spec(f"{MINILM},device=cpu").encode([*SHORT, long_text(300, 3)])
    assert capfd.readouterr() == ("", "")
