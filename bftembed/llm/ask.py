"""Rounds of requests to a model: what is stored is not asked again."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from bftembed.io import canonical_json
from bftembed.llm import model_from_spec, with_sampling
from bftembed.llm.base import Request, Sampling, request_key
from bftembed.llm.runner import run_requests
from bftembed.progress import Progress, silent
from bftembed.registry import parse_spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bftembed.llm.base import Answer, LanguageModel
    from bftembed.llm.store import AnswerStore

_SAMPLING = tuple(f.name for f in fields(Sampling))


@dataclass
class AskedModel:
    """A model that is asked: what decides its answers, and the model itself, None where stored answers are read alone.

    `sampling` is what its spec gives, and overrides that of the requests; `sampled` is False for a backend that has no
    sampling. Schemas of requests are sent where `schema` is True.
    """

    spec: str
    identity: dict[str, Any]
    sampling: dict[str, Any]
    sampled: bool
    schema: bool = False
    model: LanguageModel | None = None

    @classmethod
    def of(cls, spec: str) -> AskedModel:
        """Build the model of a spec; no weights are loaded yet."""
        model, sampling = model_from_spec(spec)
        given = {n: getattr(sampling, n) for n in parse_spec(spec).options if n in _SAMPLING}
        return cls(spec, model.fingerprint(), given, getattr(model, "sampling", sampling) is not None, model=model)

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> AskedModel:
        """Return what `stored_values` gave, without the model."""
        return cls(**values)

    def stored_values(self) -> dict[str, Any]:
        """Return all but the model, as JSON values."""
        return {n: getattr(self, n) for n in ("spec", "identity", "sampling", "sampled", "schema")}

    def fingerprint(self, sampling: Sampling) -> dict[str, Any]:
        """Return all that decides an answer but the request."""
        return with_sampling(self.identity, sampling) if self.sampled else self.identity


@dataclass
class Ask:
    """Requests by id → answers by id: what is stored, and what the model adds.

    `kind` is that of the stored answers; `seconds`, `written` and `tokens` count what the model added.
    """

    store: AnswerStore
    by: AskedModel
    kind: str
    progress: Progress = silent
    retry_failed: bool = False
    data: Path | None = None
    seconds: float = 0.0
    written: int = 0
    tokens: int = 0

    @property
    def folder(self) -> Path:
        """Folder of the store."""
        return self.store.folder

    def __call__(self, requests: Mapping[str, Request]) -> dict[str, Answer]:
        """Return the answers; the sampling of the model's spec overrides that of a request."""
        keyed: dict[str, str] = {}
        by_fingerprint: dict[str, tuple[dict[str, Any], list[Request]]] = {}
        for id, request in requests.items():
            sampling = replace(request.sampling, **self.by.sampling)
            about = {"entity": id, "kind": self.kind}
            schema = request.schema if self.by.schema else None
            request = replace(request, sampling=sampling, metadata=about, schema=schema)
            fingerprint = self.by.fingerprint(sampling)
            request = replace(request, id=request_key(request, fingerprint))
            keyed[request.id] = id
            by_fingerprint.setdefault(canonical_json(fingerprint), (fingerprint, []))[1].append(request)
        if self.by.model is not None:
            for fingerprint, asked in by_fingerprint.values():
                generator = self.store.add_generator(self.by.spec, fingerprint)
                run = run_requests(
                    asked,
                    self.by.model,
                    self.store,
                    spec=self.by.spec,
                    generator_id=generator,
                    retry_failed=self.retry_failed,
                    total=len(asked),
                    progress=self.progress,
                )
                self.seconds, self.written = self.seconds + run.seconds, self.written + run.written
                self.tokens += run.tokens
        return {keyed[a.key]: a for a in self.store.answers(keys=list(keyed))}
