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
from bftembed.tasks.llm.grpo import grpo
from bftembed.tuning.run import tune

VERBS = {"tune": tune, "grpo": grpo}


def main() -> None:
    """Run the config and print its last measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="A YAML file of recipe tune or grpo.")
    config = load_config(parser.parse_args().config)
    recipe = getattr(config, "recipe", "")
    if recipe not in VERBS:
        sys.exit(f"error: the recipe is {recipe!r}; expected one of {', '.join(VERBS)}.")
    try:
        report = VERBS[recipe](config, progress=lambda done, total, note: print(f"{done}/{total}  {note}", flush=True))
    except BftembedError as err:
        sys.exit(f"error: {err}")
    print(report.model, report.final)


if __name__ == "__main__":
    main()
