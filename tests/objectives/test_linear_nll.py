"""The operator without logits equals cross entropy on full logits, in value and gradient."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy

from bftembed.errors import BftembedError
from bftembed.objectives import linear_nll, objective_loss

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


def test_gradcheck():
    hidden, weight, labels, bias = inputs((6,), with_bias=True)
    for h_grad, w_grad, b_grad in itertools.product([True, False], repeat=3):
        if not (h_grad or w_grad or b_grad):
            continue
        arguments = (
            hidden.clone().requires_grad_(h_grad),
            weight.clone().requires_grad_(w_grad),
            bias.clone().requires_grad_(b_grad),
        )
        assert torch.autograd.gradcheck(
            lambda h, w, b: linear_nll(h, w, labels, bias=b, chunk_tokens=4), arguments, fast_mode=True
        )


@pytest.mark.parametrize("frozen", [False, True])
def test_all_labels_ignored_gives_a_connected_zero(frozen):
    hidden, weight, labels, _ = inputs((2, 5), ignored=2.0)
    h, w = hidden.requires_grad_(), weight.requires_grad_(not frozen)
    nll = linear_nll(h, w, labels)
    assert nll.tolist() == [[0.0] * 5] * 2
    nll.sum().backward()
    assert float(h.grad.abs().sum()) == 0


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("objective", ["sft", "bft"])
def test_head_and_objective_together_equal_full_logits(frozen, objective):
    hidden, weight, labels, _ = inputs((3, 40))
    results = []
    for operator in (lambda h, w: linear_nll(h, w, labels, chunk_tokens=9), lambda h, w: reference(h, w, labels, None)):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(not frozen)
        found = objective_loss(operator(h, w), labels != -100, objective, window=8)
        (found.loss_sum / found.n_samples).backward()
        results.append((found.loss_sum.detach(), h.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_kept_probabilities_serve_one_backward_pass():
    hidden, weight, labels, _ = inputs((6,))
    nll = linear_nll(hidden, weight.requires_grad_(), labels).sum()
    nll.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        nll.backward()


def test_large_logits_do_not_overflow():
    hidden, weight, labels, _ = inputs((8,), torch.float32, ignored=0)
    nll = linear_nll(hidden * 1e4, weight, labels)
    assert bool(torch.isfinite(nll).all())
    torch.testing.assert_close(nll.double(), reference(hidden * 1e4, weight, labels, None), rtol=1e-4, atol=1.0)


def test_labels_are_not_changed():
    hidden, weight, labels, _ = inputs((4, 5))
    before = labels.clone()
    linear_nll(hidden, weight, labels)
    assert torch.equal(labels, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(VOCABULARY, 5)}, "do not fit"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "do not fit"),
        ({"bias": torch.zeros(3)}, r"bias has shape \(3,\); expected \(97,\)"),
        ({"weight": torch.zeros(VOCABULARY, WIDTH, dtype=torch.bfloat16)}, "give one floating type for both"),
        ({"labels": torch.full((4,), VOCABULARY)}, r"outside the vocabulary of 97 \(labels run from 97 to 97\)"),
        ({"labels": torch.full((4,), -1)}, "tokens that do not count have the label -100"),
        ({"chunk_tokens": 0}, "must be 'auto' or at least 1"),
    ],
)
def test_wrong_input_is_refused(change, message):
    given = {"hidden": torch.zeros(4, WIDTH), "weight": torch.zeros(VOCABULARY, WIDTH)}
    given |= {"labels": torch.zeros(4, dtype=torch.long), **change}
    with pytest.raises(BftembedError, match=message):
        linear_nll(given.pop("hidden"), given.pop("weight"), given.pop("labels"), **given)
