"""Run configs one after the other, as one of several ranks of torchrun: ``ranks.py [--fsdp2] CONFIG …``.

accelerate turns FSDP on for GPUs alone. With ``--fsdp2`` it is made to believe that it may on a CPU, so that its own
code shards the model, the optimizer and what is saved, as ``training/launch/fsdp2.yaml`` says.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import yaml
from accelerate.state import AcceleratorState, DistributedType, PartialState

from bftembed.config import TuneConfig, load_config
from bftembed.tuning.run import tune

REPOSITORY = Path(__file__).parents[2]


def shard_on_a_cpu() -> None:
    """Let accelerate take gloo ranks for ranks that FSDP can shard over; its launcher sets these variables."""
    settings = yaml.safe_load((REPOSITORY / "training" / "launch" / "fsdp2.yaml").read_text())["fsdp_config"]
    os.environ |= {"ACCELERATE_USE_FSDP": "true"} | {key.upper(): str(value) for key, value in settings.items()}
    made = AcceleratorState.__init__

    def with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = with_fsdp


if __name__ == "__main__":
    files = sys.argv[1:]
    if files[0] == "--fsdp2":
        shard_on_a_cpu()
        files = files[1:]
    for file in files:
        tune(load_config(file, TuneConfig))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
