"""What all config models share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Unknown keys are errors, values keep their type, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
