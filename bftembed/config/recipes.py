"""Keys and defaults of the recipes ``run`` (cells, profiles, embeddings, scores), ``tune`` and ``grpo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Strict(BaseModel):
    """Unknown keys are errors, values keep their type, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Objective(Strict):
    """The objective and what the paper leaves open about it; see `bftembed.objectives.objective_loss`."""

    name: Literal["sft", "dft", "bft-token", "bft-sample", "bft", "bft-v1"] = "bft"
    window: int | None = Field(default=None, ge=1)
    sample_coefficient: Literal["one_minus_min", "two_minus_min"] = "one_minus_min"
    eps: float = Field(default=1e-8, ge=0)
    clip: bool = True
    gamma: float = Field(default=1.0, gt=0)


class _TrainingSet(Strict):
    """One of the sets that are learnt together."""

    #: File of conversations: see `bftembed.tuning.data.read_conversations` for its forms.
    path: str = Field(min_length=1)
    #: Name in the report and in the names of measures (``eval_NAME_nll``); default the file's.
    name: str = Field(min_length=1)
    #: Its samples among those of every step, relative to the weights of the other sets; default its number of rows, so
    #: that an epoch has every row once.
    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    #: File of held-out conversations, or share that is held out; default ``data.eval_fraction``.
    eval: str | None = None
    eval_fraction: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_file(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("path"), str) and values.get("name") is None:
            return {**values, "name": Path(values["path"]).name.partition(".")[0] or values["path"]}
        return values

    @model_validator(mode="after")
    def _one_source_of_held_out_rows(self) -> _TrainingSet:
        if self.eval is not None and self.eval_fraction:
            raise ValueError("eval and eval_fraction are both given; held-out rows come from one of them")
        return self


class _Data(Strict):
    """Conversations to learn from."""

    #: File of conversations, or several sets, mixed in every step: ``[{path: a.jsonl, weight: 3}, {path: b.jsonl,
    #: weight: 1}]``. An epoch is as many samples as all of them have rows.
    train: list[_TrainingSet] = Field(min_length=1)
    #: File of held-out conversations; without it, the share of `train` that is held out, drawn by the seed.
    eval: str | None = None
    eval_fraction: float = Field(default=0.0, ge=0, lt=1)
    #: Longest conversation in tokens, prompt and response.
    max_length: int = Field(default=1024, ge=2)
    #: What happens to longer ones: ``"error"`` names them, ``"truncate"`` cuts their end, ``"drop"`` leaves them out.
    over_long: Literal["error", "truncate", "drop"] = "error"
    #: Put several conversations into one row of up to `max_length` tokens; attention, windows and sample means stay
    #: within each.
    packing: bool = False
    #: ``"chat"``: the tokenizer's chat template; ``"none"``: the plain texts joined; ``"auto"``: the template if any.
    template: Literal["auto", "chat", "none"] = "auto"
    #: Where the chat template opens a thought at the end of the prompt (DeepSeek-R1's ends in ``<think>``): ``"off"``
    #: closes it there, ``"on"`` leaves it open for rows that bring their thoughts, ``"auto"`` does where a row
    #: closes one. The tuned model is saved with the template that it was tuned with.
    thinking: Literal["auto", "on", "off"] = "auto"

    @field_validator("train", mode="before")
    @classmethod
    def _one_file(cls, train: Any) -> Any:
        return [{"path": train}] if isinstance(train, str) else train

    @model_validator(mode="after")
    def _sets_fit_together(self) -> _Data:
        if self.eval is not None and self.eval_fraction:
            raise ValueError("eval and eval_fraction are both given; held-out rows come from one of them")
        if self.eval is not None and len(self.train) > 1:
            raise ValueError("eval is one file and train are several; give each set of train its own eval")
        names = [one.name for one in self.train]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise ValueError(f"two sets of train are called {twice[0]!r}; give them names")
        if len({one.weight is None for one in self.train}) > 1:
            raise ValueError("some sets of train have a weight and some have none; give it to all of them or to none")
        return self


class _Lora(Strict):
    """Low-rank adapters instead of all weights (arXiv 2106.09685); the update is scaled by alpha / rank."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    #: ``all-linear`` (all but the head), ends of names of layers, or a regular expression of whole names, such as
    #: ``.*layers\.(1[6-9]|2.)\..*_proj``.
    target_modules: str | list[str] = Field(default="all-linear", min_length=1)


class _Training(Strict):
    """How the weights are moved: AdamW (betas .9, .999) and its schedule."""

    #: `max_steps` wins when given.
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    #: Gradients are clipped to this norm; 0 for never.
    max_grad_norm: float = Field(default=1.0, ge=0)
    #: Rows per device and forward pass, and forward passes per step. The loss is normalized by the samples of the whole
    #: step over all devices, so 1 x 4, 2 x 2 and 2 devices x 2 are one thing.
    batch_size: int = Field(default=8, ge=1)
    accumulate: int = Field(default=1, ge=1)
    #: ``"bf16"``: products in bf16, trained weights in float32; ``"auto"``: bf16 where the device has it.
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    #: Recompute activations in the backward pass: less memory, about a third more time.
    gradient_checkpointing: bool = False
    #: Of the order of rows, held-out rows, adapters and dropout.
    seed: int = Field(default=0, ge=0)
    #: Steps between log lines, evaluations and checkpoints; None evaluates at the end alone, and saves at the end.
    log_every: int = Field(default=1, ge=1)
    eval_every: int | None = Field(default=None, ge=1)
    save_every: int | None = Field(default=None, ge=1)
    #: Checkpoints that are kept: at least two, so that a kill while one is written leaves a complete one.
    keep: int = Field(default=2, ge=2)
    #: Name as in transformers' ``OptimizerNames``, and attention as in transformers (``"flash_attention_2"``, …).
    optimizer: str = "adamw_torch_fused"
    attention: str = "sdpa"
    #: Trackers that follow the run, by their names in transformers: ``tensorboard``, ``wandb``, …
    report_to: list[str] = []
    #: Threads of a CPU; None leaves them to torch. Sums depend on them in the last digits.
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _no_label_smoothing(cls, values: Any) -> Any:
        if smoothing := {"label_smoothing", "label_smoothing_factor"} & set(values if isinstance(values, dict) else ()):
            raise ValueError(f"{smoothing.pop()!r} trains another objective: the weights are confidences in the label")
        return values


class _TuneTraining(_Training):
    #: Where the NLL is taken: ``"own"``: `bftembed.objectives.linear_nll`; ``"trl"``: TRL's fused head (Triton on
    #: CUDA); ``"auto"``: TRL's on CUDA, under ZeRO-3 and for models that scale or cap their logits, else our own.
    head: Literal["auto", "own", "trl"] = "auto"


class TuneConfig(Strict):
    """Tune a language model: what ``bftembed tune`` runs."""

    recipe: Literal["tune"] = "tune"
    #: ``builtin:NAME``, a folder or a hub name.
    model: str = Field(default="builtin:smollm2-135m-instruct", min_length=1)
    #: Folder for checkpoints, logs and the tuned model.
    out: str = Field(default="runs/tune", min_length=1)
    objective: _Objective = _Objective()
    data: _Data
    #: None trains all weights.
    lora: _Lora | None = None
    training: _TuneTraining = _TuneTraining()


class _GrpoTraining(_Training):
    """How the policy is moved; names that TRL has mean what they mean there.

    A step has batch_size x accumulate answers per device, `num_generations` to each of its questions. With `eval_every`
    answers to the held-out questions are sampled and rewarded during training.
    """

    learning_rate: float = Field(default=1e-6, gt=0)
    num_generations: int = Field(default=8, ge=2)
    #: Lengths in tokens. Questions with longer prompts are left out; default what the model's context has room for.
    max_completion_length: int = Field(default=512, ge=1)
    max_prompt_length: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, gt=0, le=2)
    #: Weight of the KL divergence from the untuned model; 0 keeps no copy of it.
    beta: float = Field(default=0.0, ge=0)
    #: Where answers are sampled by vLLM (TRL's ``vllm_mode``): in this process, or by ``trl vllm-serve``.
    vllm: Literal["off", "colocate", "server"] = "off"
    #: Further options of TRL's ``GRPOConfig``: ``top_p``, ``epsilon``, ``loss_type``, ``vllm_server_base_url``, …
    trl: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _whole_groups(self) -> _GrpoTraining:
        if (self.batch_size * self.accumulate) % self.num_generations:
            raise ValueError(
                f"batch_size x accumulate = {self.batch_size * self.accumulate} answers are no multiple of "
                f"num_generations={self.num_generations}"
            )
        return self


class _Grpo(Strict):
    """Questions with right answers, and how a model learns from the rewards of its own."""

    #: Name of an evaluation with generated answers whose data have a training part (``perturbqa-de-word``,
    #: ``tahoe-dir-generated``, …), or a .jsonl file of `bftembed.tasks.llm.own.OwnQuestions`.
    questions: str = Field(min_length=1)
    #: Data folder of the evaluation; None for those of ``$BFTEMBED_DATA``.
    data: str | None = None
    #: Numbers of training questions, and of held-out ones that are answered before and after; 0 is all, and none.
    n_questions: int = Field(default=2000, ge=0)
    held_out: int = Field(default=200, ge=0)
    #: Take the same number of questions of each label, of training and held-out ones.
    balanced: bool = True
    #: Name of a reward (`bftembed.tasks.llm.grpo.REWARDS`) → its weight in the sum.
    rewards: dict[str, float] = Field(default={"exact": 1.0}, min_length=1)
    #: None trains all weights.
    lora: _Lora | None = None
    training: _GrpoTraining = _GrpoTraining()


class GrpoConfig(_Grpo):
    """Tune a language model by rewards of its answers (GRPO, arXiv 2402.03300): what ``bftembed tune grpo`` runs."""

    recipe: Literal["grpo"] = "grpo"
    #: ``builtin:NAME``, a folder (RUN/model of a tuning) or a hub name.
    model: str = Field(default="builtin:smollm2-135m-instruct", min_length=1)
    #: Folder for checkpoints, logs, answers and the tuned model.
    out: str = Field(default="runs/grpo", min_length=1)


class ProfileSet(Strict):
    """Profiles by one generator."""

    #: Name in tables.
    name: str = Field(min_length=1)
    #: Generator spec; ``tuned`` (with options such as ``tuned,max_new_tokens=64``) is the model tuned in this run, and
    #: ``grpo`` that after GRPO.
    generator: str = Field(min_length=1)
    #: Name of the prompt, or a YAML file (`bftembed.profiles.generate.get_prompt`); default that of the kind.
    prompt: str | None = None
    #: Quality flags that do not keep a profile from being embedded.
    allow_marks: list[str] = Field(default=[])
    #: Whether the set is shown as a baseline, such as texts without a language model.
    baseline: bool = False


class _RunTune(Strict):
    """A tuning before the profiles."""

    model: str = Field(default="builtin:smollm2-135m-instruct", min_length=1)
    objective: _Objective = _Objective(name="bft", window=16)
    #: File of conversations, or several sets as in the recipe tune. ``facts`` are the HGNC facts of `rows` genes that
    #: are not profiled in the run, as answers to the question of the profiles; ``synthesized`` the conversations of the
    #: key `synthesize`.
    train: list[_TrainingSet] = Field(default=[_TrainingSet(path="facts", name="facts")], min_length=1)
    rows: int = Field(default=320, ge=1)
    steps: int = Field(default=40, ge=1)
    #: Pairs per step.
    batch_size: int = Field(default=8, ge=1)
    #: Peak of the learning rate.
    learning_rate: float = Field(default=2e-5, gt=0)
    #: Length of the longest pair, in tokens.
    max_length: int = Field(default=256, ge=2)
    #: Of the genes drawn for the pairs, and of their order.
    seed: int = Field(default=0, ge=0)

    @field_validator("train", mode="before")
    @classmethod
    def _one_file(cls, train: Any) -> Any:
        return [{"path": train}] if isinstance(train, str) else train


class _RunGrpo(_Grpo):
    """A GRPO after the tuning."""

    #: The model tuned in this run, or another.
    model: str = Field(default="tuned", min_length=1)


class _OfVerb(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the verb."""
        return dict(self.model_extra or {})


class _Synthesize(_OfVerb):
    """Conversations written by a teacher before the tuning: options of ``bftembed tune synthesize``."""


class Aggregation(_OfVerb):
    """How cells are made of genes: a name for tables, and options of `bftembed.embed_cells`."""

    name: str = ""


class _Benchmark(_OfVerb):
    """A benchmark: its name, and options of the verb ``bftembed.bench.NAME``, its label and batch among them."""

    task: Literal["clustering", "integration", "genes"]


class _Eval(_OfVerb):
    """Evaluations of language models, and options of ``bftembed eval run``: seed, judge, data, evidence and others."""

    #: Names of evaluations; `bftembed eval list` lists them.
    evaluations: list[str] = Field(min_length=1)
    #: Name in tables → model spec; ``tuned`` is the model tuned in this run, and ``grpo`` that after GRPO. Default
    #: ``base``, ``tuned`` and ``grpo``, the model before and after each; in a run without tuning the generators of the
    #: sets that are no baseline. The others are compared with the first.
    models: dict[str, str] = Field(default={})
    #: Number of questions of each evaluation, spread evenly over its groups; 0 is all.
    limit: int = Field(default=100, ge=0)


class RunConfig(Strict):
    """The main job from one file: what ``bftembed run`` does."""

    recipe: Literal["run"] = "run"
    #: Title of the report.
    title: str = "bftembed: profiles, embeddings and their baselines"
    #: Folder for everything that is written.
    out: str = Field(default="runs/run", min_length=1)
    #: ``builtin:NAME`` or the path of a h5ad; None for a run that evaluates language models alone.
    cells: str | None = Field(default=None, min_length=1)
    #: Take expression and genes from ``.raw``, or expression from a layer.
    use_raw: bool = False
    layer: str | None = None
    #: Key of ``obsm`` that is scored with the others as a reference.
    reference: str | None = None
    #: Profile only so many genes, those with the highest mean expression; None profiles all.
    n_genes: int | None = Field(default=None, ge=2)
    #: Training data that a teacher writes.
    synthesize: _Synthesize | None = None
    #: How the models of the generators ``tuned`` and ``grpo`` are tuned.
    tune: _RunTune | None = None
    grpo: _RunGrpo | None = None
    #: Sets of profiles. Cells are made of the genes that all of them cover, so that rows differ by vectors alone.
    profiles: list[ProfileSet] = Field(default=[])
    #: Encoder specs, for all of them.
    encoders: list[str] = Field(default=["builtin:all-minilm-l6-v2"], min_length=1)
    #: How cells are made of genes; default GenePT-w.
    aggregations: list[Aggregation] = Field(default=[Aggregation()], min_length=1)
    benchmarks: list[_Benchmark] = Field(default=[])
    #: Evaluations of the language models after the benchmarks.
    eval: _Eval | None = None
    #: Whether the report shows UMAPs of cells and genes.
    maps: bool = True

    @model_validator(mode="after")
    def _names_differ(self) -> RunConfig:
        names = {"profiles": [p.name for p in self.profiles], "aggregations": [a.name for a in self.aggregations]}
        for what, found in {**names, "encoders": self.encoders}.items():
            if twice := [n for i, n in enumerate(found) if n in found[:i]]:
                raise ValueError(f"two {what} are called {twice[0]!r}")
        return self

    @model_validator(mode="after")
    def _training_has_its_data(self) -> RunConfig:
        if self.tune and not self.synthesize and any(one.path == "synthesized" for one in self.tune.train):
            raise ValueError("tune.train names 'synthesized', and the key 'synthesize' is missing")
        if self.grpo and self.grpo.model == "tuned" and not self.tune:
            raise ValueError("grpo.model is 'tuned', and the key 'tune' is missing")
        return self

    @model_validator(mode="after")
    def _something_is_scored(self) -> RunConfig:
        if not (self.benchmarks or self.eval):
            raise ValueError("neither 'benchmarks' nor 'eval' is given: there would be nothing to report")
        if not (self.cells and self.profiles) and (self.cells or self.profiles or self.benchmarks):
            raise ValueError("'cells', 'profiles' and 'benchmarks' need each other")
        return self
