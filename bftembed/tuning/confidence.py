"""Teacher forcing: how sure a language model is of every token of a reference response."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bftembed.errors import BftembedError
from bftembed.objectives import linear_nll
from bftembed.progress import silent
from bftembed.tuning.encoding import IGNORED
from bftembed.tuning.head import changed_logits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.progress import Progress
    from bftembed.tuning.encoding import Encoded

#: Tokens that show whether a model changes its logits after the head.
_PROBE_TOKENS = 16


def token_confidence(
    model: Any, encoded: Sequence[Encoded], *, batch_tokens: int = 4096, progress: Progress = silent
) -> list[np.ndarray]:
    """Return ``c[t] = softmax(z[t])[y[t]]`` of every response token, fed the prompt and the gold prefix.

    Parameters
    ----------
    model
        A causal language model of transformers (or PEFT around one). Its mode (train, eval) is left as it was.
    encoded
        Token ids and labels, not shifted: the token itself on response tokens, -100 elsewhere.
    batch_tokens
        Tokens of a batch, padding counted; a longer sequence is a batch of its own. Sequences of similar length go
        together. In float32 the values do not depend on it, beyond rounding.
    progress
        Told the sequences that are done.

    Returns
    -------
    list of ndarray
        In the order of `encoded`: float32 in [0, 1], one value per label that is not -100 (none: an empty array).

    Raises
    ------
    BftembedError
        For a sequence that is longer than the model's context or starts with a response token, a token outside the
        vocabulary, and for values that are no numbers.

    Notes
    -----
    Logits are never held for all tokens (`bftembed.objectives.linear_nll`), unless the model caps or scales them after
    its head (Gemma 2, Cohere, Granite …): then they are taken from the model, batch by batch.
    """
    if batch_tokens < 1:
        raise BftembedError(f"batch_tokens={batch_tokens} must be at least 1.")
    # PEFT calls its own wrapper base_model; the model inside has the adapters in place.
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    _check(encoded, model)
    done: list[np.ndarray] = [np.empty(0, dtype=np.float32)] * len(encoded)
    with _evaluating(model), torch.no_grad():
        sample = next((item for item in encoded if item.input_ids), None)
        linear = sample is not None and _logits_are_the_head_alone(model, sample)
        finished = 0
        for batch in _batches(encoded, batch_tokens):
            for i, values in zip(batch, _confidences(model, [encoded[i] for i in batch], linear), strict=True):
                if not np.isfinite(values).all():
                    raise BftembedError(
                        f"{encoded[i].where}: the model in {model.dtype} gives confidences that are no numbers. "
                        "Choose another dtype (fp32 overflows least), or check the weights."
                    )
                done[i] = values
            finished += len(batch)
            progress(finished, len(encoded), "")
    return done


def context_of(model: Any) -> int:
    """Return the longest sequence that a model was made for, in tokens; 0 where its configuration does not say."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 0)


def _check(encoded: Sequence[Encoded], model: Any) -> None:
    longest, vocabulary = context_of(model), model.get_input_embeddings().weight.shape[0]
    for item in encoded:
        if len(item.input_ids) != len(item.labels):
            raise BftembedError(f"{item.where}: {len(item.input_ids)} tokens, but {len(item.labels)} labels.")
        if item.labels and item.labels[0] != IGNORED:
            raise BftembedError(
                f"{item.where}: the first token belongs to the response, so nothing predicts it. "
                "Give a prompt before the response, or a template that opens with a token."
            )
        if longest and len(item.input_ids) > longest:
            raise BftembedError(
                f"{item.where}: {len(item.input_ids)} tokens, but the model's context holds {longest}. "
                "Shorten the prompt or leave the row out."
            )
        if item.input_ids and not 0 <= min(item.input_ids) <= max(item.input_ids) < vocabulary:
            raise BftembedError(
                f"{item.where}: a token lies outside the model's vocabulary of {vocabulary}. "
                "Encode with the tokenizer of this model."
            )


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def _batches(encoded: Sequence[Encoded], batch_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of each batch, the longest first: what does not fit in memory fails at once."""
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].input_ids))
    while order:
        rows = max(1, batch_tokens // max(1, len(encoded[order[0]].input_ids)))
        yield order[:rows]
        order = order[rows:]


def _logits_are_the_head_alone(model: Any, sample: Encoded) -> bool:
    if changed_logits(model.config) or model.base_model is model or model.get_output_embeddings() is None:
        return False
    # The list of config keys knows the models of today; a short sample shows what another one does to its logits.
    ids = torch.tensor([sample.input_ids[:_PROBE_TOKENS]], device=model.device)
    hidden = model.base_model(input_ids=ids, use_cache=False)[0]
    logits = model(input_ids=ids, use_cache=False).logits
    head = model.get_output_embeddings()
    if hidden.shape[-1] != head.weight.shape[1] or hidden.dtype != head.weight.dtype:
        return False
    return torch.allclose(head(hidden).float(), logits.float(), rtol=1e-3, atol=1e-5)


def _confidences(model: Any, batch: list[Encoded], linear: bool) -> list[np.ndarray]:
    longest = max(len(item.input_ids) for item in batch)
    if longest == 0:
        return [np.empty(0, dtype=np.float32) for _ in batch]
    # Padding on the right: a causal model never looks at it, and positions count from the first token.
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, item in enumerate(batch):
        n = len(item.input_ids)
        ids[row, :n], mask[row, :n] = torch.tensor(item.input_ids), 1
        labels[row, :n] = torch.tensor(item.labels)
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device), "use_cache": False}
    targets = labels[:, 1:].to(model.device)
    if linear:
        head = model.get_output_embeddings()
        hidden = model.base_model(**inputs)[0][:, :-1]
        nll = linear_nll(hidden, head.weight, targets, bias=getattr(head, "bias", None))
    else:
        nll = targets.new_zeros(targets.shape, dtype=torch.float32)
        chosen = targets != IGNORED
        logits = model(**inputs).logits[:, :-1][chosen]
        nll[chosen] = torch.nn.functional.cross_entropy(logits.float(), targets[chosen], reduction="none")
    values = (-nll.float()).exp().clamp(0, 1).cpu().numpy()
    return [row[wanted] for row, wanted in zip(values, (labels[:, 1:] != IGNORED).numpy(), strict=True)]
