"""From a spec to an encoder: what is understood, and what is refused before any weight is read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from bftembed.encoders.base import encoder_from_spec
from bftembed.errors import BftembedError, MissingExtraError, UnknownNameError

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = {
    "unknown engine": ("tfid", UnknownNameError, "Did you mean 'tfidf'"),
    "unknown option": ("tfidf:dims=3", UnknownNameError, "Did you mean 'dim'"),
    "unknown builtin": ("builtin:minilm", UnknownNameError, "all-minilm-l6-v2"),
    "no model": ("st", BftembedError, "needs a model"),
    "bare folder": ("models/biobert", BftembedError, "write st:models/biobert"),
    "path not there": ("st:/nowhere/at/all", BftembedError, "/nowhere/at/all"),
    "dtype": ("st:/nowhere,dtype=fp8", UnknownNameError, "Known: fp32, bf16"),
    "long": ("st:/nowhere,long=cut", UnknownNameError, "Known: chunk, truncate"),
    "pooling": ("st:/nowhere,pooling=avg", UnknownNameError, "mean"),
    "batch size": ("st:/nowhere,batch_size=0", BftembedError, "batch_size=0"),
    "dimension": ("random:dim=0", BftembedError, "whole number"),
    "fraction": ("tfidf:dim=1.5", BftembedError, "whole number"),
    "analyzer": ("tfidf:analyzer=words", UnknownNameError, "Did you mean 'word'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_spec_says_what_would_do(case: str) -> None:
    spec, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        encoder_from_spec(spec)


def test_missing_package_names_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r'pip install "bftembed\[local\]"'):
        encoder_from_spec(f"st:{tmp_path}")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no texts"),
        (["a b", " \n"], "Text 1 is empty"),
        (["a b", None], "Text 1 is empty"),
        (["a b", "x\ud800"], "Text 1 is not valid Unicode"),
        ("a b", "one string"),
    ],
)
def test_texts_without_content_are_errors(texts, message: str) -> None:
    with pytest.raises(BftembedError, match=message):
        encoder_from_spec("random").encode(texts)
