"""TRL's `GRPOTrainer` on chats with rewards, and its loop: checkpoints that are whole, a clean stop, measures.

With `bftembed.tuning.trainer` the only file that knows TRL (tested with 1.16).
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from bftembed.errors import BftembedError, unknown_name
from bftembed.llm.chat import has_template, prompt_text
from bftembed.llm.models import quiet_transformers
from bftembed.llm.reasoning import with_reasoning_markers
from bftembed.tuning.trainer import Watch, adapters, last_whole_checkpoint, shared_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bftembed import config as configs
    from bftembed.llm.base import Message
    from bftembed.progress import Progress

    #: Numbers of the questions, texts of the answers as written → rewards, and means to log by name.
    Rewarding = Callable[[Sequence[int], Sequence[str]], tuple[list[float], Mapping[str, float]]]

#: Steps in a row without a difference between rewards after which the run says so.
FLAT_STEPS = 10


class PolicyTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer`; the exported model has a card of its own, so checkpoints get none."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none."""


class _Flat(Watch):
    """A `Watch` that says when nothing can be learnt, since all answers to a question get the same reward."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(progress, ("reward", "frac_reward_zero_std"))
        self._flat = self.longest = 0
        self._reward = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Report the step; count those without a difference of rewards."""
        super().on_log(args, state, control, logs, **kwargs)
        if "frac_reward_zero_std" in (logs or {}):
            self._flat = self._flat + 1 if logs["frac_reward_zero_std"] == 1 else 0
            self.longest, self._reward = max(self.longest, self._flat), logs.get("reward", 0.0)
            if self._flat == FLAT_STEPS and state.is_world_process_zero:
                self._progress(state.global_step, state.max_steps, f"warning: {self.warning()}")

    def warning(self) -> str:
        """Return what is to be said at the end, ``""`` for nothing."""
        if self.longest < FLAT_STEPS:
            return ""
        return (
            f"in {self.longest} log lines in a row all answers to a question had the same reward (mean "
            f"{self._reward:.2f} at the end): nothing is learnt from them. Where it is low, raise the temperature or "
            "num_generations, or take easier questions."
        )


def train_policy(
    config: configs.GrpoConfig,
    model: Any,
    tokenizer: Any,
    chats: Sequence[Sequence[Message]],
    held_out: Sequence[Sequence[Message]],
    rewards: Mapping[str, Rewarding],
    arguments: GRPOConfig,
    *,
    progress: Progress,
) -> tuple[GRPOTrainer, str]:
    """Train `model` in place by `rewards` of its answers to `chats`; return its trainer, and a warning or ``""``.

    Questions are numbered through `chats` and `held_out`, which are answered every ``training.eval_every`` steps. It
    goes on from the last whole checkpoint in the folder of `arguments`. A signal is a KeyboardInterrupt once the
    checkpoint is written.
    """
    watch, resume = _Flat(progress), last_whole_checkpoint(Path(arguments.output_dir))
    with quiet_transformers(), warnings.catch_warnings():
        # TRL 1 calls gradient checkpointing by the names that transformers 5 calls deprecated.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        trainer = PolicyTrainer(
            model=model,
            args=arguments,
            reward_funcs=[_reward(name, function, tokenizer) for name, function in rewards.items()],
            train_dataset=_dataset(chats, tokenizer, 0),
            eval_dataset=_dataset(held_out, tokenizer, len(chats)) if held_out else None,
            processing_class=tokenizer,
            peft_config=adapters(config.lora),
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        with watch:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if watch.stopped:
            raise KeyboardInterrupt
    return trainer, watch.warning()


def _dataset(chats: Sequence[Sequence[Message]], tokenizer: Any, first: int) -> Dataset:
    """Return prompts of which TRL makes the tokens that a backend is sent for the same chat."""
    prompts: list[Any] = [[dict(message) for message in chat] for chat in chats]
    if not has_template(tokenizer):
        prompts = [prompt_text(tokenizer, chat) for chat in chats]
    return Dataset.from_dict({"prompt": prompts, "index": list(range(first, first + len(prompts)))})


def _reward(name: str, function: Rewarding, tokenizer: Any) -> Callable[..., list[float]]:
    """Return a reward function as TRL calls it."""

    def reward(
        prompts: list[Any], completions: list[Any], completion_ids: list[Any], index: list[int], **given: Any
    ) -> list[float]:
        texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
        if has_template(tokenizer):  # markers of thoughts may be special tokens, or stand in the prompt
            written = tokenizer.batch_decode(completion_ids, skip_special_tokens=False)
            ends = [prompt_text(tokenizer, prompt)[-200:] for prompt in prompts]
            texts = [with_reasoning_markers(*each) for each in zip(texts, written, ends, strict=True)]
        found, measures = function(index, texts)
        for measure, value in measures.items():
            given["log_metric"](measure, value)
        return found

    reward.__name__ = name
    return reward


def policy_arguments(config: configs.GrpoConfig, folder: Path, *, bf16: bool, evaluates: bool) -> GRPOConfig:
    """Return the trainer's arguments, as `bftembed.tuning.trainer.trainer_arguments` does."""
    options = config.training
    own = {
        **shared_arguments(options, folder, bf16=bf16, evaluates=evaluates),
        "per_device_eval_batch_size": options.num_generations,
        "num_generations": options.num_generations,
        "max_completion_length": options.max_completion_length,
        "temperature": options.temperature,
        "beta": options.beta,
        "reward_weights": list(config.rewards.values()),
        "use_vllm": options.vllm != "off",
        # Questions come in random order, with labels that take turns.
        "shuffle_dataset": False,
        **({} if options.vllm == "off" else {"vllm_mode": options.vllm}),
    }
    fields = [field.name for field in dataclasses.fields(GRPOConfig)]
    for name in options.trl:
        if name not in fields:
            raise unknown_name("option", name, fields, where="training.trl (TRL's GRPOConfig)")
        if name in own and name != "shuffle_dataset":
            raise BftembedError(f"training.trl.{name} has a key of its own in the config.")
    return GRPOConfig(**own | options.trl)
