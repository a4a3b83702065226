"""The operator without logits equals cross entropy on full logits, in value and gradient."""

from __future__ import annotations

import pytest

from bftembed.errors import BftembedError

torch = pytest.importorskip("torch")

from torch.nn.functional import cross_entropy  # noqa: E402

from bftembed.objectives import linear_nll  # noqa: E402

VOCABULARY, WIDTH = 97, 12


def inputs(shape, dtype=torch.float64, with_bias=False, ignored=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(*shape, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64).to(dtype) if with_bias else None
    labels = torch.randint(VOCABULARY, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < ignored] = -100
    return hidden, weight, labels, bias


def reference(hidden, weight, labels, bias):
    logits = hidden.double() @ weight.double().T
    logits = logits if bias is None else logits + bias.double()
    return cross_entropy(logits.reshape(-1, VOCABULARY), labels.reshape(-1), reduction="none").reshape(labels.shape)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 1000, "auto"])
@pytest.mark.parametrize("shape", [(3, 11), (5,), (2, 3, 4)])
def test_value_and_gradients_equal_full_logits(with_bias, frozen, chunk, shape):
    hidden, weight, labels, bias = inputs(shape, with_bias=with_bias)
    scale = torch.rand(shape, dtype=torch.float64)
    grads = []
    for operator in (lambda *a: linear_nll(*a[:3], bias=a[3], chunk_tokens=chunk), reference):
        h = hidden.clone().requires_grad_()
        w = weight.clone().requires_grad_(not frozen)
        b = None if bias is None else bias.clone().requires_grad_(not frozen)
        nll = operator(h, w, labels, b)
        (nll * scale).sum().backward()
        grads.append([nll.detach(), h.grad, w.grad, None if b is None else b.grad])
    for ours, theirs in zip(*grads, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 4e-2)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("chunk", [16, "auto"])
@pytest.mark.parametrize("wide", [False, True], ids=["one dtype", "float32 weight"])
def test_low_precision_gives_float32_nll_near_the_exact_one(dtype, tolerance, frozen, chunk, wide):
    hidden, weight, labels, _ = inputs((4, 50), dtype)
    h = hidden.clone().requires_grad_()
    w = weight.to(torch.float32 if wide else dtype, copy=True).requires_grad_(not frozen)
    nll = linear_nll(h, w, labels, chunk_tokens=chunk)
    assert nll.dtype == torch.float32
    exact = reference(hidden, weight, labels, None)
    torch.testing.assert_close(nll.double(), exact, rtol=tolerance, atol=tolerance)
    nll.mean().backward()
    h64, w64 = hidden.double().requires_grad_(), weight.double().requires_grad_()
    reference(h64, w64, labels, None).mean().backward()
    for ours, theirs in [(h.grad, h64.grad)] + ([] if frozen else [(w.grad, w64.grad)]):
        assert ours.dtype == (torch.float32 if wide and ours is w.grad else dtype)
        assert float((ours.double() - theirs).norm() / theirs.norm()) < tolerance


@pytest.mark.parametrize("frozen", [False, True])
def test_all_labels_ignored_gives_a_connected_zero(frozen):
    hidden, weight, labels, _ = inputs((2, 5), ignored=2.0)
    h, w = hidden.requires_grad_(), weight.requires_grad_(not frozen)
    nll = linear_nll(h, w, labels)
    assert nll.tolist() == [[0.0] * 5] * 2
    nll.sum().backward()
    assert float(h.grad.abs().sum()) == 0


def test_kept_probabilities_serve_one_backward_pass():
    hidden, weight, labels, _ = inputs((6,))
    nll = linear_nll(hidden, weight.requires_grad_(), labels).sum()
    nll.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        nll.backward()


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_kept_for_the_backward_pass(frozen, monkeypatch):
    hidden, weight, labels, _ = inputs((600,), torch.float32, ignored=0)

    def sizes_kept():
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            linear_nll(hidden.clone().requires_grad_(), weight.clone().requires_grad_(not frozen), labels)
        return max(kept)

    assert (sizes_kept() == 600 * VOCABULARY) != frozen
    monkeypatch.setattr("bftembed.objectives.nll.KEPT_BYTES", 4 * 600 * VOCABULARY - 1)
    assert sizes_kept() == 600 * WIDTH


def test_large_logits_do_not_overflow():
    hidden, weight, labels, _ = inputs((8,), torch.float32, ignored=0)
    nll = linear_nll(hidden * 1e4, weight, labels)
    assert bool(torch.isfinite(nll).all())
    torch.testing.assert_close(nll.double(), reference(hidden * 1e4, weight, labels, None), rtol=1e-4, atol=1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.zeros(VOCABULARY, 5)},
        {"labels": torch.zeros(3, dtype=torch.long)},
        {"bias": torch.zeros(3)},
        {"weight": torch.zeros(VOCABULARY, WIDTH, dtype=torch.bfloat16)},
        {"labels": torch.full((4,), VOCABULARY)},
        {"labels": torch.full((4,), -1)},
        {"chunk_tokens": 0},
    ],
)
def test_wrong_input_is_refused(change):
    given = {"hidden": torch.zeros(4, WIDTH), "weight": torch.zeros(VOCABULARY, WIDTH)}
    given |= {"labels": torch.zeros(4, dtype=torch.long), **change}
    with pytest.raises(BftembedError):
        linear_nll(given.pop("hidden"), given.pop("weight"), given.pop("labels"), **given)
