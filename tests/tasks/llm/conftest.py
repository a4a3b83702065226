"""A model with known answers under the spec ``known:FILE.json``."""

from __future__ import annotations

import json

import pytest

from bftembed.llm.models import cache_folder  # noqa: F401  (the seam's package is imported before it is patched)


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Make a model of answers by question id; give its spec."""
    from bftembed.llm import BACKENDS

    monkeypatch.setitem(BACKENDS.entries, "known", "evaluation_tools:Known")

    def make(answers, name="known", **options):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(answers))
        return ",".join([f"known:{path}", *(f"{k}={str(v).lower()}" for k, v in options.items())])

    return make
