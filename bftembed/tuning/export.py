"""The tuned model as a folder that transformers, vLLM and `profiles generate` load, with a card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bftembed.io import atomic_folder, write_json, write_text
from bftembed.llm.models import quiet_transformers
from bftembed.tuning.card import draw_curves, model_card

if TYPE_CHECKING:
    from pathlib import Path

    from bftembed.config import TuneConfig


def export_model(
    trained: Path, base: Path, config: TuneConfig, record: dict[str, Any], log: list[dict[str, Any]], folder: Path
) -> None:
    """Write the model as safetensors with tokenizer, card, curves and record; whole or absent.

    Parameters
    ----------
    trained
        Folder in which the trainer saved the weights, or the adapters, and the tokenizer.
    base
        Folder of the base model. Adapters are merged into its weights; the result has its dtype.
    config
        Of the run.
    record
        What ``bftembed.json`` in the folder holds.
    log
        Of the training.
    folder
        Where to; must not be there.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    local = {"local_files_only": True}
    with atomic_folder(folder) as temporary, quiet_transformers():
        dtype = AutoConfig.from_pretrained(base, **local).dtype or "auto"
        if config.lora is None:
            model = AutoModelForCausalLM.from_pretrained(trained, dtype=dtype, **local)
        else:
            from peft import PeftModel

            model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, **local)
            model = PeftModel.from_pretrained(model, str(trained)).merge_and_unload()
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(trained, **local).save_pretrained(temporary)
        draw_curves(log, temporary / "curves.png")
        write_text(temporary / "README.md", model_card(config, record, log))
        write_json(temporary / "bftembed.json", record)
