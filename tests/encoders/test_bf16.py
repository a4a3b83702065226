"""bf16, batches by length, and several devices, on the packaged MiniLM."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from bftembed.encoders.base import encoder_from_spec
from bftembed.encoders.loading import start_pool
from bftembed.errors import BftembedError
from bftembed.machine import cpu_has_bf16

pytestmark = pytest.mark.model
torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

MINILM = "builtin:all-minilm-l6-v2,device=cpu"
WORDS = ["kinase", "phosphorylates", "the", "receptor", "BRCA1", "tumour-suppressor", "membrane", "β-catenin", "Wnt"]


def texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=int(k))) for k in rng.integers(2, 90, size=n)]


@pytest.fixture(scope="module")
def fp32():
    return encoder_from_spec(f"{MINILM},batch_size=8")


@pytest.mark.skipif(not cpu_has_bf16(), reason="this processor has no bf16 units")
def test_bf16_is_close_to_fp32_for_texts_of_every_length(fp32):
    encoder = encoder_from_spec(f"{MINILM},dtype=bf16,batch_size=8")
    given = texts(24)
    vectors, exact = encoder.encode(given), fp32.encode(given)
    assert (encoder.spec.dtype, vectors.dtype) == ("bf16", np.float32)
    cosines = (vectors * exact).sum(axis=1)
    assert 0.9997 < cosines.min() < 1
    # What the vectors are for: the same neighbors.
    nearest = [np.argsort(-(v @ v.T), axis=1)[:, 1] for v in (vectors, exact)]
    assert (nearest[0] == nearest[1]).mean() > 0.9


def test_bf16_is_refused_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr("bftembed.encoders.loading.cpu_has_bf16", lambda: False)
    with pytest.raises(BftembedError, match="no bf16 units.*Leave it out, or run on a GPU"):
        encoder_from_spec(f"{MINILM},dtype=bf16")
    encoder_from_spec(MINILM)


def test_batches_hold_texts_of_one_length(fp32, monkeypatch):
    shapes = []
    forward = fp32._model.forward

    def noted(features, **how):
        shapes.append(tuple(features["input_ids"].shape))
        return forward(features, **how)

    monkeypatch.setattr(fp32._model, "forward", noted)
    # More than is given to the model at once, so that sorting within that would not do.
    given = ["cell " * n for n in np.random.default_rng(0).permutation(np.tile(np.arange(1, 9), 24))]
    fp32.encode(given)
    assert sum(rows for rows, _ in shapes) == len(given)
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)
    assert sum(rows * width for rows, width in shapes) == sum(len(text.split()) + 2 for text in given)


def test_more_devices_than_there_are_is_refused():
    there = torch.cuda.device_count()
    with pytest.raises(BftembedError, match=f"there are {there} CUDA devices. Leave it out"):
        encoder_from_spec(f"builtin:all-minilm-l6-v2,devices={there + 2}")
    with pytest.raises(BftembedError, match="devices=0 must be at least 1"):
        encoder_from_spec("builtin:all-minilm-l6-v2,devices=0")


@pytest.mark.slow
def test_a_pool_of_processes_gives_the_same_vectors_in_order(fp32):
    """Two processes on the CPU stand in for two CUDA devices: the pool is the same."""
    encoder = encoder_from_spec(f"{MINILM},batch_size=8")
    encoder._pool = start_pool(encoder._model, ["cpu", "cpu"])
    running = [process.pid for process in encoder._pool["processes"]]
    given = texts(40, seed=3)
    np.testing.assert_allclose(encoder.encode(given), fp32.encode(given), atol=1e-5)
    for pid in running:
        os.kill(pid, 0)
    del encoder
    gc.collect()
    for pid in running:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
