"""Checkpoints of the trainer: which is whole, and a stop that leaves one."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from bftembed.io import write_json

if TYPE_CHECKING:
    import os
    from types import FrameType

_WHOLE = "whole.json"


def last_whole_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """Return the newest checkpoint that was written to its end, or None.

    The trainer writes a checkpoint file by file. One that a kill cut short has no mark and is passed over.
    """
    found = {}
    for mark in Path(folder).glob(f"checkpoint-*/{_WHOLE}"):
        step = re.fullmatch(r"checkpoint-(\d+)", mark.parent.name)
        if step:
            found[int(step[1])] = mark.parent
    return found[max(found)] if found else None


class MarkWhole(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Marks a checkpoint once all of it is written."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the mark; called after the trainer has written the checkpoint."""
        if state.is_world_process_zero:
            write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE, {"step": state.global_step})


class StopOnSignal(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """On SIGINT or SIGTERM: finish the step, write a checkpoint, stop. A second signal stops at once.

    Attributes
    ----------
    stopped
        Whether a signal came.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask the trainer for a checkpoint and an end."""
        if self.stopped:
            control.should_save = control.should_training_stop = True
