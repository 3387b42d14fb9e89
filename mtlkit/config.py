"""RunConfig: the shape of a run configuration.

It knows no plugin: whether a component of that name exists, and which options it takes, is for ``assemble`` to say.
Every model here forbids unknown keys, is strict about types, and refuses NaN and infinity.
"""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any, Literal, Self

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidName, canonicalize_name
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)

from mtlkit.errors import ConfigError
from mtlkit.problems import as_json, problems_of
from mtlkit.runname import MAX_LENGTH, why_not
from mtlkit.yamlfile import Document

__all__ = [
    "Checkpoints",
    "Component",
    "Diagnostics",
    "Evaluation",
    "Loading",
    "Plugins",
    "Run",
    "RunConfig",
    "TaskConfig",
    "Training",
    "Transfer",
    "default_label",
    "json_schema",
    "named",
]


def _run_name(name: str) -> str:
    reason = why_not(name)
    if reason is not None:
        raise ValueError(reason)
    return name


def _title(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError(f"a title is one line of text that can be printed; received {text!r}")
    return text


# For editors, which know the schema alone; the rule is why_not's.
_NAME_SCHEMA: dict[str, Any] = {"pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]*$", "maxLength": MAX_LENGTH}
RunName = Annotated[str, AfterValidator(_run_name), Field(json_schema_extra=_NAME_SCHEMA)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")]
ComponentName = Annotated[str, Field(min_length=1, max_length=200)]
Positive = Annotated[int, Field(ge=1, le=10**12)]  # what is computed from two of them is still a number to all
OpenFraction = Annotated[float, Field(gt=0, lt=1)]


DEFAULT_EPOCHS = 10
"""How long a run is that says neither epochs nor steps."""

DEFAULT_NAMES = {
    "encoder": "mtlkit:mlp",
    "architecture": "mtlkit:hard-sharing",
    "strategy": "mtlkit:fixed",
    "optimizer": "adamw",
    "schedule": "constant",
    "mixing": "all",
}
"""The component that each section names where it does not say; of mtlkit, whoever else offers one of that name."""


def named(value: object, default: str | None = None) -> object:
    """Let a bare name stand for a component without options, and options alone for the default component."""
    if isinstance(value, str):
        return {"name": value}
    return {"name": default, **value} if default and isinstance(value, dict) else value


def default_label(name: str) -> str:
    """Return what a run calls a task that is given no label: its short name, what no label may hold made '_'."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name.rpartition(":")[2])[:80]


def _listed(value: object) -> object:
    """Let one stem stand for a list of one."""
    return [value] if isinstance(value, str | dict) else value


def _section(section: str) -> BeforeValidator:
    return BeforeValidator(functools.partial(named, default=DEFAULT_NAMES[section]))


class Section(BaseModel):
    """What all parts of a configuration have in common."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Component(Section):
    """A component by name, its options beside the name."""

    model_config = ConfigDict(extra="allow")

    name: ComponentName
    """The component's name: `name`, or `distribution:name` where two distributions offer one name."""

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class Run(Section):
    """Where a run is kept, and the seed of all its randomness."""

    name: RunName = "run"
    """The name of the run's folder: 1 to 80 letters, digits, '.', '_' and '-'."""
    title: Annotated[str, Field(max_length=200), AfterValidator(_title)] | None = None
    """What the run is about, in words of any kind; `mtlkit runs list` shows it."""
    dir: Annotated[str, Field(pattern=r"^[^\x00]+$")] = "runs"
    """The folder that holds the run's folder."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds initial weights, the order of rows, dropout, and everything else that is random."""


class SamplingBy(Section):
    """How often each row is drawn, as a target column of the source says."""

    balanced: str | None = None
    """A column of classes: each is drawn as often."""
    weights: str | None = None
    """A column of weights: a row is drawn in proportion to its own."""

    @model_validator(mode="after")
    def _one_column(self) -> Self:
        if (self.balanced is None) == (self.weights is None):
            raise ValueError("sampling is by one column: {balanced: COLUMN} or {weights: COLUMN}")
        return self

    @model_serializer
    def _as_given(self) -> dict[str, str | None]:
        return {"weights": self.weights} if self.balanced is None else {"balanced": self.balanced}


Sampling = Annotated[
    Annotated[Literal["shuffle", "balanced"], Tag("word")] | Annotated[SamplingBy, Tag("column")],
    Discriminator(lambda value: "column" if isinstance(value, dict | SamplingBy) else "word"),
]


class TaskConfig(Section):
    """One task: which, with which options, and how much it counts."""

    name: ComponentName
    """The task's name: `name`, or `distribution:name` where two distributions offer one name."""
    label: Label | None = None
    """What the task is called in this run; its short name by default. Lets one task take part twice."""
    weight: Annotated[float, Field(gt=0, le=1e12)] = 1.0
    """A constant factor on the weight that the strategy gives; with strategy `fixed` it is the task's alpha."""
    batch_size: Positive | None = None
    """Rows of this task's source in a batch; `training.batch_size` by default. Tasks that share a source share it."""
    sampling: Sampling = "shuffle"
    """How the training rows of this task's source are drawn: `shuffle`, each once in a pass; `balanced`, each class of
    this task's target as often; `{balanced: COLUMN}`, each class of another target column; or `{weights: COLUMN}`, in
    proportion to a target column. All but the first draw with replacement. Tasks that share a source share it."""
    stem: Annotated[list[Annotated[Component, BeforeValidator(named)]] | None, BeforeValidator(_listed)] = None
    """What this task's rows pass through before the encoder, one stem or a list of them: `resize`, `flatten`, `patch`,
    `linear` or `embed`, options beside the name; what its source declares by default. Tasks that share a source share
    it."""
    options: dict[str, Any] = {}
    """The task's own options; `mtlkit show tasks NAME` lists them."""


class Training(Section):
    """How long and how the model is trained."""

    epochs: Positive | None = None
    """How many epochs; 10 where `steps` is not given."""
    steps: Positive | None = None
    """Optimizer steps, instead of epochs."""
    epoch_length: Literal["longest", "shortest", "sum"] | None = None
    """How many batches are an epoch: those of one pass over the source that has the most (`longest`), or the fewest
    (`shortest`), or over all sources together (`sum`). Its steps are that number divided by `accumulate`, rounded up.
    By default `longest` where every source is in every step, and `sum` where sources are drawn."""
    steps_per_epoch: Positive | None = None
    """Steps that count as an epoch, instead of `epoch_length`."""
    batch_size: Positive = 64
    """Rows of each source in a batch."""
    accumulate: Positive = 1
    """Batches whose gradients are averaged before each step. The strategy is asked for weights, and adapts, at each."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """The largest norm of the model's gradient; a longer one is scaled down to it."""
    precision: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    """The dtype of weights and computation; `bfloat16` and `float16` compute in it by autocast and keep float32
    weights. With `float16` the losses are scaled as well, and a step whose gradient overflows is skipped: for GPUs that
    have no bfloat16."""
    heads: Literal["weighted", "plain"] = "weighted"
    """What a head gets: its loss's gradient times the weight, as the strategy says, or as it is (`plain`)."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """`auto` (CUDA where there is a GPU for it), `cpu`, `cuda` or `cuda:N`."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads; as many as PyTorch takes by itself by default. Another number may round otherwise."""
    deterministic: bool = True
    """Use deterministic algorithms only: the same run gives the same bits."""
    log_every: Positive = 10
    """Steps from one step record in metrics.jsonl to the next."""
    non_finite: Literal["stop", "skip-task", "skip-step"] = "stop"
    """What is done where a loss, a gradient or a weight of a task is NaN or infinite, which no weight of the model ever
    is: `stop` saves the run as it was before the step, and ends it; `skip-task` takes the step without the task, as if
    it had no labels in it; `skip-step` leaves the step out. It is told of, and counted, in metrics.jsonl."""
    non_finite_limit: Annotated[int, Field(ge=1)] = 10
    """How many steps in a row a task may be left out, or a step be; at one more the run ends as by `stop`."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("training takes either epochs or steps, and both are given")
        if self.epoch_length is not None and self.steps_per_epoch is not None:
            raise ValueError("training takes either epoch_length or steps_per_epoch, and both are given")
        return self


Stage = Annotated[int, Field(ge=0, le=1000)]


def _freezing(value: object) -> object:
    """Refuse what is neither a number of stages nor a list of their numbers and of patterns, in one sentence."""
    items = value if isinstance(value, list) else [value]
    numbers = [each for each in items if isinstance(each, int) and not isinstance(each, bool) and each >= 0]
    patterns = [each for each in items if isinstance(each, str) and each] if isinstance(value, list) else []
    if value is not None and len(numbers) + len(patterns) < len(items):
        raise ValueError(
            "freeze takes how many stages, from the rows on, or a list of their numbers, from 0, and of patterns of "
            f"names, such as 2 or [0, 'layers.1.*']; received {value!r}"
        )
    return value


class Unfreeze(Section):
    """Gradual unfreezing (Howard, Ruder, ACL 2018)."""

    every: Positive = 1
    """Epochs until the last of the frozen stages is thawed, and from each to the one before it."""


class Transfer(Section):
    """What the encoder starts from, and which of its stages are trained, when and how fast.

    What is frozen is in evaluation mode: statistics of batch normalisation stay, and dropout does not act.
    """

    pretrained: Annotated[str, Field(pattern=r"^[^\x00]+$")] | None = None
    """Where its weights come from: a `.safetensors` file, or the folder of a run, whose best weights are taken."""
    prefix: str | None = None
    """What stands before the encoder's names there, such as `architecture.encoder.`; found out where it is plain."""
    strict: bool = True
    """Refuse weights that do not fit, name for name; if false, load those that do, and tell of the others."""
    freeze: Annotated[Stage | list[Stage | str] | None, BeforeValidator(_freezing)] = None
    """What is not trained: how many stages, from the rows on, or a list of their numbers, from 0, and of patterns of
    names, such as `layers.1.*`."""
    unfreeze: Unfreeze | None = None
    """Thaw the frozen stages one by one, from the last one back; all stages are frozen at first by default."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Stage s of S, from 0, learns at the optimizer's rate times this to the power of S - s; heads learn at the rate
    itself."""

    @model_validator(mode="after")
    def _is_of_use(self) -> Self:
        if self.pretrained is None and (self.prefix is not None or not self.strict):
            raise ValueError("prefix and strict are about pretrained weights, and no pretrained are given")
        if self.unfreeze is not None and self.freeze is not None:
            if self.patterns:
                raise ValueError(
                    f"unfreeze goes back from stage to stage, and freeze has the pattern {self.patterns[0]!r}; freeze "
                    "stages by how many, or by their numbers"
                )
            if not self.stages:
                raise ValueError(f"there is nothing to unfreeze where freeze is {self.freeze!r}")
        return self

    @property
    def stages(self) -> list[int]:
        """The numbers of the stages that are frozen at first, where they are said."""
        if isinstance(self.freeze, int):
            return list(range(self.freeze))
        return [each for each in self.freeze or [] if isinstance(each, int)]

    @property
    def patterns(self) -> list[str]:
        """The patterns of names that are frozen."""
        return [each for each in self.freeze if isinstance(each, str)] if isinstance(self.freeze, list) else []


class Loading(Section):
    """How rows are read: in memory where they fit, by processes that read ahead where they do not."""

    memory: Literal["auto", "always", "never"] | Positive = "auto"
    """How many megabytes (10^6 bytes) of each source may be read into memory, or converted and moved to a GPU, when a
    run starts. `auto` is 2000; `always` is no limit; with `never`, and above the limit, every batch is read, converted
    and moved when it is drawn. Columns that are memory-mapped are read into memory with `always` alone, streams never.
    """
    workers: Annotated[int, Field(ge=0, le=256)] = 2
    """Processes that read rows ahead, for each source that is read row by row and is not held in memory; 0 to read them
    in the run's own process, where nothing limits how long it takes. The rows are the same for any number."""
    start: Literal["spawn", "fork", "forkserver"] = "spawn"
    """How these processes are started. `spawn` and `forkserver` make the task anew in each, by its name and options;
    `fork` is quicker, and unsafe where a data set uses threads or CUDA."""
    prefetch: Annotated[int, Field(ge=1, le=64)] = 2
    """Batches that each of them reads ahead."""
    pin: bool = True
    """Batches that are not held on the GPU go there through pinned memory, so that the run need not wait for them."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds that a batch may take one of them; after that, an error names the row. To start, it has five minutes."""


class Evaluation(Section):
    """When and on which rows the tasks are evaluated."""

    every: Positive = 1
    """Epochs from one evaluation on the validation split to the next."""
    batch_size: Positive = 512
    """Rows in a batch of evaluation."""
    validation: OpenFraction = 0.1
    """The fraction of the training rows held out for validation, for a source that has no such split."""
    test: OpenFraction = 0.2
    """The fraction of the training rows held out for the test, for a source that has no such split."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds which rows are held out; apart from `run.seed`, so that runs of different seeds share their test rows."""

    @model_validator(mode="after")
    def _leaves_rows(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("the fractions of validation and test leave no row to train on")
        return self


class Diagnostics(Section):
    """How the tasks' gradients compare, sampled from time to time: their norms, cosines, and how many conflict.

    A sample costs, beyond the step, what a strategy of that place costs: next to nothing at the features, a weight
    gradient of one layer for each task at the last shared layer, and a backward pass for each task at all shared
    parameters. A strategy that needs gradients measures them at its own place, and a sample then costs nothing.
    """

    every: Positive | None = None
    """Steps from one sample to the next; none by default."""
    over: Literal["last-shared", "features", "parameters"] = "last-shared"
    """Where the gradients are compared, if the strategy does not say."""


class Checkpoints(Section):
    """When the run is saved, and which weights are its result."""

    every: Positive = 1
    """Epochs from one checkpoint to the next."""
    keep: Positive = 2
    """How many of the newest checkpoints stay; where the disk is full, all but the newest make room."""
    background: bool = True
    """Write checkpoints while training goes on, which waits only until everything is copied in memory; that takes as
    much memory as the checkpoint. If false, training waits until it is on the disk. The files are the same."""
    best: Annotated[str, Field(pattern=r"^(loss|last|[A-Za-z0-9_-]+/.+)$")] = "loss"
    """Which weights are tested: those with the lowest validation `loss` (the mean over tasks of each one's weight times
    its loss relative to its first evaluation), the `last` ones, or those best by one metric, `TASK/METRIC`."""


def _distribution(name: str) -> str:
    if name.endswith(".py"):
        return name  # a file that is a plugin goes by its own name
    try:
        canonicalize_name(name, validate=True)
    except InvalidName:
        raise ValueError(f"no distribution can be called {name!r}; it is the name that pip installs") from None
    return name


def _requirement(text: str) -> str:
    try:
        Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{text!r} is no requirement such as 'acme-mtl>=1.2' (PEP 508): {reason}") from None
    return text


DistributionName = Annotated[str, AfterValidator(_distribution)]


class Plugins(Section):
    """Which plugins the run may use. It narrows what the environment allows, and never widens it."""

    allow: list[DistributionName] | None = None
    """The only distributions whose plugins may be used; all that are installed by default."""
    deny: list[DistributionName] = []
    """Distributions whose plugins may not be used. They are not imported."""
    require: list[Annotated[str, AfterValidator(_requirement)]] = []
    """Distributions that must be installed, with versions, as pip spells them: `acme-mtl>=1.2`."""
    files: list[Annotated[str, Field(pattern=r"^[^\x00]+\.py$")]] = []
    """Python files that are plugins too, relative to this file's folder."""
    strict: bool = False
    """Let a hook that raises end the run, instead of being told of."""


class _Warmed(Section):
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The fraction of the run in which the learning rate first climbs linearly."""


class ConstantSchedule(_Warmed):
    """The learning rate stays."""

    name: Literal["constant"]


class LinearSchedule(_Warmed):
    """The learning rate falls along a line."""

    name: Literal["linear"]
    final: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """The learning rate at the end, as a factor of the optimizer's."""


class CosineSchedule(_Warmed):
    """The learning rate falls along half a cosine wave (Loshchilov, Hutter, ICLR 2017)."""

    name: Literal["cosine"]
    final: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """The learning rate at the end, as a factor of the optimizer's."""


class StepSchedule(_Warmed):
    """The learning rate drops at milestones."""

    name: Literal["step"]
    milestones: Annotated[list[OpenFraction], Field(min_length=1, max_length=1000)]
    """Fractions of the run at which the learning rate drops."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The factor of each drop."""


ScheduleConfig = Annotated[
    Annotated[ConstantSchedule | LinearSchedule | CosineSchedule | StepSchedule, Field(discriminator="name")],
    _section("schedule"),
]


Sizes = Annotated[dict[Label, Annotated[float, Field(gt=0)]], Field(min_length=1)]


class AllMixing(Section):
    """Every source is in every step: each pass draws a batch of each."""

    name: Literal["all"]


class UniformMixing(Section):
    """Each pass draws from one source, whichever alike."""

    name: Literal["uniform"]


class RatiosMixing(Section):
    """Each pass draws from one source, as often as it is told to."""

    name: Literal["ratios"]
    ratios: Sizes
    """How often each source is drawn, in proportion to one another, by the label of one of its tasks."""


class _SizedMixing(Section):
    sizes: Sizes | None = None
    """What each source's size counts as, by the label of one of its tasks; a pass over its rows in batches by default.
    A label that is no task's of this run stands for a source that is not here: nothing is trained in its passes. So a
    task is trained alone at the pace that it has among others."""


class ProportionalMixing(_SizedMixing):
    """Each pass draws from one source, in proportion to its size: every row of every source is seen as often."""

    name: Literal["proportional"]


class TemperatureMixing(_SizedMixing):
    """Each pass draws from one source, in proportion to its size to the power of 1/T (Raffel et al., JMLR 2020)."""

    name: Literal["temperature"]
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """T: 1 is proportional to the sizes; the higher, the more alike."""


class AnnealedMixing(_SizedMixing):
    """Each pass draws from one source, in proportion to its size at first and later more alike.

    The power goes along a line over the run's steps, from 1 to 1/T (Stickland, Murray, ICML 2019).
    """

    name: Literal["annealed"]
    temperature: Annotated[float, Field(gt=0)] = 5.0
    """T, at the last step; 5 is that of the paper."""


MixingConfig = Annotated[
    Annotated[
        AllMixing | ProportionalMixing | UniformMixing | TemperatureMixing | AnnealedMixing | RatiosMixing,
        Field(discriminator="name"),
    ],
    _section("mixing"),
]


class RunConfig(Section):
    """Everything that a run is made of. Only `tasks` has no default."""

    run: Run = Run()
    encoder: Annotated[Component, _section("encoder")] = Component(name=DEFAULT_NAMES["encoder"])
    """The shared encoder, its options beside its name: layers, activation, dropout and so on."""
    transfer: Transfer = Transfer()
    architecture: Annotated[Component, _section("architecture")] = Component(name=DEFAULT_NAMES["architecture"])
    """How the tasks share encoders."""
    tasks: Annotated[list[Annotated[TaskConfig, BeforeValidator(named)]], Field(min_length=1)]
    """The tasks, any number."""
    mixing: MixingConfig = AllMixing(name="all")
    """How often the source of each task is drawn."""
    strategy: Annotated[Component, _section("strategy")] = Component(name=DEFAULT_NAMES["strategy"])
    """What weighs the tasks' losses."""
    optimizer: Annotated[Component, _section("optimizer")] = Component(name=DEFAULT_NAMES["optimizer"])
    """Any optimizer of torch.optim by name, its options beside its name."""
    schedule: ScheduleConfig = ConstantSchedule(name="constant")
    """How the learning rate changes over the run."""
    training: Training = Training()
    loading: Loading = Loading()
    evaluation: Evaluation = Evaluation()
    diagnostics: Diagnostics = Diagnostics()
    checkpoints: Checkpoints = Checkpoints()
    hooks: Annotated[list[Annotated[Component, BeforeValidator(named)]], Field(max_length=100)] = []
    """Plugins that are told of the run's events, options beside the name; `mtlkit list plugins` lists them."""
    plugins: Plugins = Plugins()

    @property
    def epoch_length(self) -> Literal["longest", "shortest", "sum"]:
        """How many batches are an epoch, where the configuration does not give its steps."""
        return self.training.epoch_length or ("longest" if self.mixing.name == "all" else "sum")

    @classmethod
    def from_document(cls, document: Document) -> Self:
        """Check the shape of a document.

        Raises:
            ConfigError: With every problem that was found.
        """
        try:
            return cls.model_validate_json(as_json(document.data))
        except ValidationError as error:
            raise ConfigError(problems_of(error, document, (), cls)) from None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a configuration, its short forms included: a bare name, options without one."""
    schema = RunConfig.model_json_schema()
    definitions, properties = schema["$defs"], schema["properties"]
    definitions["Component"].pop("required")
    properties["tasks"]["items"] = {"anyOf": [{"type": "string"}, properties["tasks"]["items"]]}
    properties["hooks"]["items"] = {"anyOf": [{"type": "string"}, properties["hooks"]["items"]]}
    for section in ("encoder", "architecture", "strategy", "optimizer"):
        properties[section]["anyOf"] = [{"type": "string"}, {"$ref": properties[section].pop("$ref")}]
    for section, default in (("schedule", "ConstantSchedule"), ("mixing", "AllMixing")):
        shapes = properties[section].pop("discriminator")["mapping"]
        definitions[default].pop("required")
        properties[section]["anyOf"] = [{"enum": list(shapes)}, {"oneOf": properties[section].pop("oneOf")}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
