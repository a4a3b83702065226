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


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def save_tiny(path: Path, folder: Path, kind: str = "Bert", **config: int) -> Path:
    """Save a model of 2 layers with MiniLM's vocabulary, as plain transformers do."""
    import torch
    import transformers

    torch.manual_seed(0)
    given = {"vocab_size": 30522, "max_position_embeddings": 64, **SMALL, **config}
    getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**given)).save_pretrained(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A BERT without ``modules.json``, as BioBERT comes."""
    return save_tiny(tmp_path_factory.mktemp("tiny-bert"), folder)


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A model with prompts, as E5 comes."""
    from sentence_transformers import SentenceTransformer

    path = tmp_path_factory.mktemp("prompted")
    SentenceTransformer(str(tiny_bert), device="cpu", prompts={"query": "query: ", "passage": "passage: "}).save(
        str(path)
    )
    return path


def test_the_limit_is_what_the_positions_hold(folder: Path, tmp_path: Path) -> None:
    path = save_tiny(tmp_path, folder, "Roberta", max_position_embeddings=66, pad_token_id=1)
    encoder = encoder_from_spec(f"st:{path},device=cpu")
    assert encoder.spec.max_tokens == 64
    assert np.isfinite(encoder.encode(["cell " * 100])).all()
    assert encoder.report.n_chunks == 2
    with pytest.raises(BftembedError, match="from 3 to 64"):
        encoder_from_spec(f"st:{path},device=cpu,max_tokens=66")


def test_a_failure_of_the_model_names_it_and_the_text(folder: Path, tmp_path: Path) -> None:
    path = save_tiny(tmp_path, folder, vocab_size=5000)
    with pytest.raises(BftembedError, match=rf"st:{path} fails on .*text 1: 'BRCA1 xylophone"):
        encoder_from_spec(f"st:{path},device=cpu").encode(["the", "BRCA1 xylophone"])


def test_a_prompt_by_its_name_or_its_text_is_part_of_what_the_encoder_is(prompted: Path) -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(prompted), device="cpu")
    with pytest.warns(UserWarning, match=r"has prompts \(query, passage\), and none is used"):
        plain = encoder_from_spec(f"st:{prompted},device=cpu")
    assert plain.spec.options == {"device": "cpu"}
    np.testing.assert_array_equal(plain.encode(SHORT), reference.encode(SHORT))
    for given, text in (("query", "query: "), ("passage:", "passage: "), ("", None)):
        encoder = encoder_from_spec(f"st:{prompted},device=cpu,prompt={given}")
        assert encoder.spec.options.get("prompt") == text
        np.testing.assert_array_equal(encoder.encode(SHORT), reference.encode(SHORT, prompt=text))
    with pytest.raises(BftembedError, match="Did you mean 'query'"):
        encoder_from_spec(f"st:{prompted},device=cpu,prompt=qury")
    long = "cell " * 61
    encoder = encoder_from_spec(f"st:{prompted},device=cpu,prompt=query")
    encoder.encode([long])
    assert encoder.report.n_chunks == 2


def test_truncated_dimensions_have_length_1_again(minilm, reference) -> None:
    encoder = encoder_from_spec(f"{MINILM},device=cpu,truncate_dim=64")
    assert (encoder.spec.dim, encoder.spec.options["truncate_dim"], encoder.spec.normalised) == (64, 64, True)
    expected = reference.encode(SHORT)[:, :64]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(SHORT), expected, atol=1e-6)
    assert "truncate_dim" not in minilm.spec.options
    with pytest.raises(BftembedError, match="truncate_dim=385, but the vectors have 384"):
        encoder_from_spec(f"{MINILM},device=cpu,truncate_dim=385")


def test_short_texts_equal_sentence_transformers_bit_for_bit(minilm, reference) -> None:
    vectors = minilm.encode(SHORT)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, reference.encode(SHORT))
    report = minilm.report
    assert (report.n_texts, report.n_over_limit, report.n_chunks, report.n_tokens_dropped) == (4, 0, 0, 0)
    assert report.n_tokens_total == sum(len(reference.tokenizer.tokenize(t)) for t in SHORT)
    spec = minilm.spec
    assert (spec.name, spec.dim, spec.max_tokens, spec.pooling) == (MINILM, 384, 256, "mean")
    assert (spec.normalised, spec.dtype, spec.long) == (True, "fp32", "chunk")
    assert spec.revision.startswith("sha256:")
    assert set(spec.versions) == {"torch", "transformers", "sentence-transformers"}


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
    texts = [long_text(int(n), i) for i, n in enumerate(np.random.default_rng(5).integers(1, 70, size=8))]
    first = minilm.encode(texts)
    np.testing.assert_array_equal(minilm.encode(texts), first)
    np.testing.assert_allclose(minilm.encode(texts[::-1])[::-1], first, atol=1e-5)
    other = encoder_from_spec(f"{MINILM},batch_size=5,device=cpu")
    np.testing.assert_allclose(other.encode(texts), first, atol=1e-5)


def test_options_change_limit_pooling_and_scale(minilm, reference) -> None:
    encoder = encoder_from_spec(f"{MINILM},max_tokens=12,pooling=cls,normalize=false,device=cpu")
    assert (encoder.spec.max_tokens, encoder.spec.pooling, encoder.spec.normalised) == (12, "cls", False)
    vector = encoder.encode(["EGFR"])[0]
    tokens = reference.encode(["EGFR"], output_value="token_embeddings")[0]
    np.testing.assert_allclose(vector, tokens[0], atol=1e-5)
    encoder.encode(["cell " * 25])
    assert encoder.report.n_chunks == 3


def test_limits_and_texts_out_of_range_are_errors(minilm) -> None:
    for max_tokens in (2, 513):
        with pytest.raises(BftembedError, match="from 3 to 512"):
            encoder_from_spec(f"{MINILM},max_tokens={max_tokens}")
    for text in ("", "\u200b\u200b"):  # no character, no token
        with pytest.raises(BftembedError, match="Text 1 "):
            minilm.encode(["fine", text])


@pytest.mark.skipif(not cpu_has_bf16(), reason="this processor has no bf16 units")
def test_bf16_is_close_to_fp32_for_texts_of_every_length(minilm) -> None:
    encoder = encoder_from_spec(f"{MINILM},dtype=bf16,batch_size=8,device=cpu")
    given = [long_text(int(n), i) for i, n in enumerate(np.random.default_rng(0).integers(2, 90, size=24))]
    vectors, exact = encoder.encode(given), minilm.encode(given)
    assert (encoder.spec.dtype, vectors.dtype) == ("bf16", np.float32)
    cosines = (vectors * exact).sum(axis=1)
    assert 0.9997 < cosines.min() < 1
    nearest = [np.argsort(-(v @ v.T), axis=1)[:, 1] for v in (vectors, exact)]
    assert (nearest[0] == nearest[1]).mean() > 0.9


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


def test_nan_weights_are_an_error(tiny_bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "nan"
    shutil.copytree(tiny_bert, model)
    weights = load_file(model / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][:] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BftembedError, match=r"NaN or infinite values for 4 of 4 texts.*TP53"):
        encoder_from_spec(f"st:{model}").encode(SHORT)


def test_a_damaged_folder_is_an_error(tiny_bert: Path, tmp_path: Path) -> None:
    model = tmp_path / "cut"
    shutil.copytree(tiny_bert, model)
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(BftembedError, match="cannot be loaded as an encoder"):
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
