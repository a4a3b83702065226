"""Loading a sentence-transformers model from a folder, and setting what its own files leave open."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, require
from bftembed.llm.models import quiet_transformers
from bftembed.machine import cpu_has_bf16

if TYPE_CHECKING:
    from pathlib import Path

#: Tokenizers without a limit say 1e30.
_NO_LIMIT = 1_000_000


def load_model(path: Path, name: str, *, dtype: str, device: str | None, allow_bin: bool) -> Any:
    """Load a SentenceTransformer from a folder; nothing is downloaded and no remote code is run.

    Parameters
    ----------
    path
        Folder of a sentence-transformers model, or of a transformers model: pooling is then put on top, ``mean``
        for BERT and its kin.
    name
        For error messages.
    dtype
        torch's name of the number type, ``"float32"`` or ``"bfloat16"``.
    device
        torch device, the best that is there when None.
    allow_bin
        Accept weights in torch's ``.bin`` format.

    Raises
    ------
    BftembedError
        When the folder has no weights that may be read, they cannot be loaded, or the processor has no bf16 units.
    """
    torch = require("torch", "local")
    sentence_transformers = require("sentence_transformers", "local")
    on_cpu = device == "cpu" if device else not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if dtype == "bfloat16" and on_cpu and not cpu_has_bf16():
        raise BftembedError(
            f"{name}: this processor has no bf16 units (AMX, AVX-512 BF16, Arm BF16), so that dtype=bf16 would be "
            f"slower than fp32, and less exact. Leave it out, or run on a GPU."
        )
    if not any(path.rglob("*.safetensors")):
        if not any(path.rglob("*.bin")):
            raise BftembedError(f"{name}: {path} holds no weights (*.safetensors). Give the folder of a whole model.")
        if not allow_bin:
            raise BftembedError(
                f"{name}: {path} has its weights only as .bin, a pickle file, which bftembed does not read by default. "
                f"Convert them with transformers' save_pretrained, or accept them as plain tensors: allow_bin=true."
            )
    kind = getattr(torch, dtype)
    try:
        with quiet_transformers():
            model = sentence_transformers.SentenceTransformer(
                str(path), device=device, trust_remote_code=False, local_files_only=True, model_kwargs={"dtype": kind}
            )
            return model.to(kind).eval()
    except Exception as err:
        reason = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise BftembedError(
            f"{name}: {path} cannot be loaded as an encoder ({type(err).__name__}: {reason}). "
            f"Check that it is a whole sentence-transformers or BERT model, and the device."
        ) from err


def start_pool(model: Any, devices: list[str]) -> Any:
    """Start one process per device, each with a copy of the model; they end with the model or this process.

    Parameters
    ----------
    model
        A SentenceTransformer. It is moved to the CPU itself.
    devices
        torch devices.

    Returns
    -------
    dict
        What ``SentenceTransformer.encode(pool=…)`` takes.
    """
    pool = model.start_multi_process_pool(devices)
    weakref.finalize(model, type(model).stop_multi_process_pool, pool)
    return pool


def check_devices(devices: int, device: str | None, name: str) -> None:
    """Refuse more than one device where there are not so many CUDA devices, or one is named."""
    if devices < 1:
        raise BftembedError(f"{name}: devices={devices} must be at least 1.")
    if devices == 1:
        return
    there = require("torch", "local").cuda.device_count()
    if there < devices:
        raise BftembedError(
            f"{name}: devices={devices}, but there are {there} CUDA devices. Leave it out; on a CPU one process uses "
            f"every core."
        )
    if device is not None:
        raise BftembedError(f"{name}: devices={devices} takes the first {devices} CUDA devices. Leave device out.")


def _positions(model: Any, class_name: str) -> list[int]:
    # By name: the modules' import paths moved between versions of sentence-transformers.
    return [i for i, module in enumerate(model) if type(module).__name__ == class_name]


def set_pooling(model: Any, mode: str | None, name: str) -> str:
    """Replace the pooling when `mode` is given; return the pooling's name, ``""`` without any."""
    places = _positions(model, "Pooling")
    if not places:
        if mode is not None:
            raise BftembedError(f"{name} has no pooling that could be set to {mode!r}. Leave pooling out.")
        return ""
    pooling = model[places[0]]
    if mode is not None:
        pooling = type(pooling)(model[0].get_embedding_dimension(), pooling_mode=mode)
        model[places[0]] = pooling
    modes = pooling.pooling_mode
    return modes if isinstance(modes, str) else "+".join(modes)


def set_normalised(model: Any, normalize: bool | None) -> tuple[bool, bool]:
    """Take the model's own scaling to length 1 away when `normalize` is False.

    Returns
    -------
    (bool, bool)
        Whether vectors are to have length 1, and whether the model sees to it itself.
    """
    places = _positions(model, "Normalize")
    if normalize is False:
        for place in reversed(places):
            del model[place]
        return False, False
    return bool(places) or bool(normalize), bool(places)


def set_limit(model: Any, max_tokens: int | None, name: str) -> tuple[int | None, int | None]:
    """Set the longest input.

    Returns
    -------
    (int or None, int or None)
        The limit with special tokens, and the room that is left for text; None for a model without a limit.
    """
    tokenizer = model.tokenizer
    if not hasattr(tokenizer, "num_special_tokens_to_add"):
        if max_tokens is not None:
            raise BftembedError(f"{name} has no token limit that could be set. Leave max_tokens out.")
        return None, None
    prompt = model.prompts.get(model.default_prompt_name) or "" if model.default_prompt_name else ""
    reserved = tokenizer.num_special_tokens_to_add() + len(tokenizer.tokenize(prompt))
    if max_tokens is not None:
        most = getattr(model[0].auto_model.config, "max_position_embeddings", None) or _NO_LIMIT
        if not isinstance(max_tokens, int) or not reserved < max_tokens <= most:
            raise BftembedError(
                f"{name}: max_tokens={max_tokens!r} must be a whole number from {reserved + 1} to {most} "
                f"({reserved} tokens are the model's own, {most} its longest input)."
            )
        model.max_seq_length = max_tokens
    limit = model.max_seq_length
    if limit is None or limit > _NO_LIMIT:
        return None, None
    return int(limit), int(limit) - reserved
