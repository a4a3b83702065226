"""Text to vectors: the encoder seam and its implementations. Start at `bftembed.encoders.base`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bftembed.encoders.base import Encoder as Encoder
    from bftembed.encoders.base import EncoderSpec as EncoderSpec
    from bftembed.encoders.base import EncodingReport as EncodingReport
    from bftembed.encoders.base import encoder_from_spec as encoder_from_spec

__all__ = ["Encoder", "EncoderSpec", "EncodingReport", "encoder_from_spec"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'bftembed.encoders' has no attribute {name!r}")
    from bftembed.encoders import base

    return getattr(base, name)
