"""LLaMA-Factory's SFT stage with an objective of bftembed: python bft_hook.py train.yaml.

The objective and its options are read from ``objective.json`` beside this file.
"""

import json
from pathlib import Path

import torch
from llamafactory.train.sft import workflow
from llamafactory.train.tuner import run_exp

from bftembed.objectives import objective_loss

OBJECTIVE = json.loads(Path(__file__).with_name("objective.json").read_text())


def samples(batch):
    """Return which tokens are learnt, shifted once, and the sample of each in a packed row."""
    positions = batch.get("position_ids")
    segments = None if positions is None else (positions == 0).cumsum(-1)[:, 1:]
    return {"mask": batch["labels"][:, 1:] != -100, "segment_ids": segments}


class Trainer(workflow.CustomSeq2SeqTrainer):
    """LLaMA-Factory's trainer; the loss of a step is the mean over its samples, over micro-batches and ranks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # keeps transformers from dividing the loss by the accumulation steps

    def get_batch_samples(self, *args, **kwargs):
        """Return the micro-batches of a step, and its number of samples with a token to learn."""
        batches, _ = super().get_batch_samples(*args, **kwargs)
        n = sum(int(objective_loss(b["labels"][:, 1:].float(), **samples(b)).n_samples) for b in batches)
        return batches, self.accelerator.gather(torch.tensor([n], device=self.args.device)).sum().clamp(min=1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the objective's loss; in evaluation the plain cross-entropy, comparable between objectives."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels, of_samples = inputs["labels"][:, 1:], samples(inputs)
        logits = model(**{k: v for k, v in inputs.items() if k != "labels"}).logits[:, :-1].float()
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        loss_sum = objective_loss(nll, **of_samples, **OBJECTIVE).loss_sum
        return loss_sum / num_items_in_batch * self.accelerator.num_processes  # ranks are averaged afterwards


if __name__ == "__main__":
    workflow.CustomSeq2SeqTrainer = Trainer
    run_exp()
