"""Every objective equals the naive program in value and gradient, whatever the masks, packing and windows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError

torch = pytest.importorskip("torch")

from objectives_naive import naive_loss  # noqa: E402

from bftembed.objectives import OBJECTIVES, objective_loss  # noqa: E402

LENGTH = 23


def batch(case, dtype=torch.float64):
    """A batch of NLLs with the mask (and segments) of a named case."""
    generator = torch.Generator().manual_seed(sum(map(ord, case)))
    rows = 1 if case == "batch of one" else 4
    nll = torch.rand(rows, LENGTH, generator=generator, dtype=torch.float64).pow(2).mul(6).to(dtype)
    mask = torch.ones(rows, LENGTH, dtype=torch.bool)
    segments = None
    if case == "prompts":
        for b in range(rows):
            mask[b, : 2 + 4 * b] = False
    elif case == "interior masks":
        mask = torch.rand(rows, LENGTH, generator=generator) < 0.6
    elif case == "an all-masked row":
        mask[1] = False
    elif case == "packed":
        segments = torch.tensor([[0] * 9 + [1] * 10 + [2] * 4, [0] * 23, [0] + [1] * 22, [5] * 11 + [2] * 12])
        mask[:, ::7] = False
    elif case == "one token":
        mask[:, 1:] = False
    return nll, mask, segments


CASES = ["plain", "prompts", "interior masks", "an all-masked row", "packed", "batch of one", "one token"]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("window", [1, 5, 8, 256])
def test_value_gradient_and_weights_equal_the_naive_program(objective, case, window):
    nll, mask, segments = batch(case)
    ours, theirs = nll.clone().requires_grad_(), nll.clone().requires_grad_()
    found = objective_loss(ours, mask, objective, window=window, segment_ids=segments)
    loss, count, weights, coefficients, local = naive_loss(theirs, mask, objective, window=window, segment_ids=segments)
    assert int(found.n_samples) == count
    torch.testing.assert_close(found.loss_sum, loss, rtol=1e-12, atol=1e-12)
    found.loss_sum.backward()
    loss.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.sample_weight.tolist(), coefficients, rtol=1e-12, atol=1e-12)
    for b in range(len(nll)):
        for t in range(LENGTH):
            assert float(found.token_weight[b, t]) == pytest.approx(weights.get((b, t), 0.0), abs=1e-12)
            assert float(found.local_confidence[b, t]) == pytest.approx(local.get((b, t), 0.0), abs=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["interior masks", "packed"])
def test_low_precision_input_is_summed_in_float32(objective, dtype, case):
    nll, mask, segments = batch(case, dtype)
    ours, theirs = nll.clone().requires_grad_(), nll.double().requires_grad_()
    found = objective_loss(ours, mask, objective, window=8, segment_ids=segments)
    loss, *_ = naive_loss(theirs, mask, objective, window=8, segment_ids=segments)
    assert found.loss_sum.dtype == torch.float32
    torch.testing.assert_close(found.loss_sum.double(), loss, rtol=1e-5, atol=1e-6)
    found.loss_sum.backward()
    loss.backward()
    assert ours.grad.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("objective", ["bft", "bft-sample", "bft-v1"])
@pytest.mark.parametrize(
    "options", [{"sample_coefficient": "two_minus_min", "eps": 0.0}, {"clip": False}, {"eps": 0.1}, {"gamma": 3.0}]
)
def test_options_equal_the_naive_program(objective, options):
    nll, mask, segments = batch("packed")
    found = objective_loss(nll, mask, objective, window=6, segment_ids=segments, **options)
    loss, *_ = naive_loss(nll, mask, objective, window=6, segment_ids=segments, **options)
    torch.testing.assert_close(found.loss_sum, loss, rtol=1e-12, atol=1e-12)


def test_a_hand_computed_example():
    """Two tokens of confidence 1/2 and 1/4, window 2: C_loc = mean of a token and the next one, s = 1 - C_min."""
    nll = torch.tensor([[math.log(2), math.log(4)]], dtype=torch.float64)
    mask = torch.ones(1, 2, dtype=torch.bool)
    found = objective_loss(nll, mask, "bft", window=2, eps=0.0)
    assert found.local_confidence.tolist() == [[0.375, 0.25]]
    assert found.token_weight.tolist() == [[1.0, 1.0]]
    assert found.sample_weight.tolist() == [0.75]
    assert float(found.loss_sum) == pytest.approx(0.75 * (math.log(2) + math.log(4)) / 2)
    whole = objective_loss(nll, mask, "bft", window=3, eps=0.0)
    assert whole.local_confidence.tolist() == [[0.375, 0.375]]
    assert whole.token_weight.tolist() == [[1.0, pytest.approx(2 / 3)]]
    assert whole.sample_weight.tolist() == [0.625]
    earlier = objective_loss(nll, mask, "bft", window=3, sample_coefficient="two_minus_min", eps=0.0)
    assert earlier.sample_weight.tolist() == [1.625]


def test_an_all_masked_batch_is_a_connected_zero():
    nll = torch.full((2, 5), math.nan, requires_grad=True)
    found = objective_loss(nll, torch.zeros(2, 5, dtype=torch.bool), "bft")
    assert (found.loss_sum.item(), found.n_samples.item()) == (0.0, 0)
    found.loss_sum.backward()
    assert nll.grad.tolist() == [[0.0] * 5] * 2


def test_values_under_the_mask_do_not_matter():
    nll, mask, _ = batch("interior masks")
    expected = objective_loss(nll, mask, "bft", window=5).loss_sum
    spoilt = nll.masked_fill(~mask, math.nan).requires_grad_()
    found = objective_loss(spoilt, mask, "bft", window=5)
    assert found.loss_sum.item() == expected.item()
    found.loss_sum.backward()
    assert bool(torch.isfinite(spoilt.grad).all())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 40), st.sampled_from(sorted(OBJECTIVES)))
def test_packing_padding_and_splitting_give_the_same_sum_and_count(lengths, window, objective):
    generator = torch.Generator().manual_seed(sum(lengths) + window)
    samples = [torch.rand(n, generator=generator, dtype=torch.float64) * 5 for n in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(n, dtype=torch.bool) for n in lengths], batch_first=True)
    packed = torch.cat(samples)[None]
    segments = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    results = [
        objective_loss(padded, mask, objective, window=window),
        objective_loss(
            packed, torch.ones_like(packed, dtype=torch.bool), objective, window=window, segment_ids=segments
        ),
    ]
    parts = [objective_loss(s, torch.ones(len(s), dtype=torch.bool), objective, window=window) for s in samples]
    total = sum(p.loss_sum for p in parts)
    for found in results:
        torch.testing.assert_close(found.loss_sum, total, rtol=1e-10, atol=1e-12)
        assert int(found.n_samples) == sum(int(p.n_samples) for p in parts) == len(lengths)


def test_a_long_sequence_keeps_its_digits():
    """Differences of a running sum must not lose a small window at the end of 100,000 tokens."""
    nll = torch.cat([torch.zeros(100_000), torch.full((300,), 8.0)])[None]
    found = objective_loss(nll, torch.ones_like(nll, dtype=torch.bool), "bft", window=256)
    assert float(found.local_confidence[0, -1]) == pytest.approx(math.exp(-8.0), rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "bft-tok"},
        {"sample_coefficient": "two_minus"},
        {"mask": torch.ones(2, 5)},
        {"mask": torch.ones(2, 4, dtype=torch.bool)},
        {"segment_ids": torch.zeros(5)},
        {"nll": torch.zeros(2, 5, dtype=torch.long)},
        {"nll": torch.zeros(2, 5, 1)},
        {"window": 0},
        {"eps": -1.0},
    ],
)
def test_wrong_input_is_refused(change):
    with pytest.raises(BftembedError):
        objective_loss(**{"nll": torch.zeros(2, 5), "mask": torch.ones(2, 5, dtype=torch.bool), **change})
