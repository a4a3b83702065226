"""Tune a language model on one device or many, from the repository.

Usage::

    python training/finetune.py --config configs/tune/smollm2_cpu.yaml
    torchrun --nproc_per_node 2 training/finetune.py --config …
    accelerate launch --config_file training/launch/fsdp2.yaml training/finetune.py --config …

The same as ``bftembed tune CONFIG`` and ``bftembed tune grpo CONFIG``, which are what a single process needs.
"""

from __future__ import annotations

import argparse
import sys

from bftembed.config import load_config
from bftembed.errors import BftembedError
from bftembed.tasks.llm.grpo import GrpoReport, grpo
from bftembed.tuning.run import TuneReport, tune


def shown(done: int, total: int, note: str) -> None:
    """Print the progress of a step."""
    print(f"{done}/{total}  {note}", flush=True)


def main() -> None:
    """Run the config and print its last measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="A YAML file of recipe tune or grpo.")
    parser.add_argument("--objective", help="Objective in place of the config's; its name is appended to the folder.")
    given = parser.parse_args()
    config = load_config(given.config)
    recipe = getattr(config, "recipe", "")
    if recipe not in ("tune", "grpo") or (given.objective and recipe == "grpo"):
        sys.exit(f"error: the recipe is {recipe!r}; expected tune, or grpo without --objective.")
    try:
        if recipe == "grpo":
            report: GrpoReport | TuneReport = grpo(config, progress=shown)
        else:
            report = tune(config, objective=given.objective, progress=shown)
    except BftembedError as err:
        sys.exit(f"error: {err}")
    print(report.model, report.final)


if __name__ == "__main__":
    main()
