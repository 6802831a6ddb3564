"""The one place that reads a params file: a frozen tree, every mistake reported at once.

A room is given its own section plus ``base``. ``python -m tasks.core.settings`` prints the JSON Schema that editors
complete from (kept in ``tasks/core/params.schema.json``; a test keeps the two equal).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from tasks.core.sections import Section, check, read_yaml, settings_error

STAGES = ("ingest", "validate", "tune", "compress", "verify", "export")

_SCHEMA = "params.schema.json"
_NAME = r"^[a-z0-9][a-z0-9_-]*$"
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


def moment(value: date | datetime) -> datetime:
    """A date or datetime of a settings file as a moment in UTC: a date is its midnight, no zone means UTC."""
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Base(Section):
    """What every stage needs to know."""

    name: Annotated[str, Field(pattern=_NAME)]
    """Name of the model: the folder under dist_dir."""
    target: Annotated[str, Field(min_length=1)]
    """Column to predict: two classes, given as 0/1, booleans or two strings."""
    workload: Literal["tabular"] = "tabular"
    """Family of the problem."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything random."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads for training and scoring; null takes all cores. Training is reproducible for a given number."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train and score. `cuda` fails when CUDA cannot be loaded; `auto` takes it when it can."""
    artifacts_dir: Annotated[str, Field(min_length=1)] = "artifacts"
    """Folder of the stages' outputs, relative to the params file."""
    dist_dir: Annotated[str, Field(min_length=1)] = "dist"
    """Folder of the finished bundles, relative to the params file."""


class Ingest(Section):
    """Where the rows come from."""

    source: Annotated[str, Field(min_length=1)]
    """A CSV or Parquet file, a folder of them (see pattern), or a source card (.yaml) of a packaged example."""
    pattern: str | None = None
    """Glob inside the source folder, for example `2013-*.csv`."""
    types: dict[str, Literal["bool", "int64", "float64", "string", "timestamp"]] = {}  # noqa: RUF012 (pydantic copies it)
    """Types to give to columns, instead of inferring them."""
    null_values: tuple[str, ...] = ("", "NA", "NaN", "nan", "null", "NULL")
    """Texts that mean "missing" in a CSV file."""


class TimeSplit(Section):
    """Rows in order of time: train before validation before test before fresh."""

    by: Literal["time"]
    """Names this way to split."""
    column: str
    """Timestamp or date column."""
    validation_from: date | datetime
    """First moment of the validation rows; earlier rows are for training."""
    test_from: date | datetime
    """First moment of the test rows."""
    fresh_from: date | datetime | None = None
    """First moment of the rows that no stage reads: they are kept for retraining."""

    @property
    def boundaries(self) -> list[datetime]:
        """First moments of validation, test and (if there is one) fresh, in UTC."""
        given = (self.validation_from, self.test_from, self.fresh_from)
        return [moment(value) for value in given if value is not None]

    @model_validator(mode="after")
    def _ordered(self) -> TimeSplit:
        moments = self.boundaries
        if moments != sorted(set(moments)):
            raise ValueError("validation_from < test_from < fresh_from must hold")
        return self


class Shares(Section):
    """Shares of rows; what they leave is for training."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of rows for validation."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of rows for the test."""

    @model_validator(mode="after")
    def _leaves_train(self) -> Shares:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must leave rows for training")
        return self


class RandomSplit(Shares):
    """Rows at random, seeded by base.seed."""

    by: Literal["random"]
    """Names this way to split."""


class StratifiedSplit(Shares):
    """Rows at random within each class of the target."""

    by: Literal["stratified"]
    """Names this way to split."""


class GroupSplit(Shares):
    """Whole groups at random: no group is in two splits."""

    by: Literal["group"]
    """Names this way to split."""
    column: str
    """Column that names the group."""


class PredefinedSplit(Section):
    """A column that says train, validation, test or fresh."""

    by: Literal["predefined"]
    """Names this way to split."""
    column: str
    """Column with the split's name."""


Split = Annotated[
    TimeSplit | RandomSplit | StratifiedSplit | GroupSplit | PredefinedSplit,
    Field(discriminator="by"),
]


class Validate(Section):
    """Which rows are fit for use, and which of them each later stage may see."""

    suite: Annotated[str, Field(min_length=1)]
    """File of the checks."""
    max_quarantine_share: Share = 0.05
    """Largest share of rows that may be set aside before the run is rejected."""
    split: Split
    """How rows are divided into train, validation and test."""
    calibration_rows: Annotated[int, Field(ge=16)] = 2048
    """Rows drawn from train (seeded) to calibrate quantization."""
    data_docs: bool = False
    """Also build Great Expectations' own Data Docs (they load scripts from the network)."""


class FloatRange(Section):
    """A float to search."""

    low: float
    """Least value."""
    high: float
    """Greatest value."""
    log: bool = False
    """Search on a logarithmic scale."""
    points: Annotated[int, Field(ge=2)] = 3
    """How many values the grid sampler takes from this range, ends included."""

    @model_validator(mode="after")
    def _possible(self) -> FloatRange:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range must be above 0")
        return self


class Choice(Section):
    """A value out of a list."""

    choices: Annotated[tuple[int | float, ...], Field(min_length=1)]
    """The values to search among, all different."""

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        if len(set(self.choices)) != len(self.choices):
            raise ValueError("choices must be distinct")
        return self


def _kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", None)
    if keys is None:
        return "number"
    return "choice" if "choices" in keys else "range"


Searched = Annotated[
    Annotated[int | float, Tag("number")] | Annotated[FloatRange, Tag("range")] | Annotated[Choice, Tag("choice")],
    Discriminator(_kind),
]


def _every_value(rule: str, fits: Callable[[float], bool]) -> AfterValidator:
    """A fixed number, both ends of a range, and each choice must fit."""

    def check_values(option: int | float | FloatRange | Choice) -> int | float | FloatRange | Choice:
        if isinstance(option, FloatRange):
            values: tuple[float, ...] = (option.low, option.high)
        else:
            values = option.choices if isinstance(option, Choice) else (option,)
        if not all(fits(value) for value in values):
            raise ValueError(f"every value must be {rule}")
        return option

    return AfterValidator(check_values)


Rate = Annotated[Searched, _every_value("above 0", lambda value: value > 0)]
Decay = Annotated[Searched, _every_value("at least 0", lambda value: value >= 0)]
Size = Annotated[Searched, _every_value("a whole number of at least 1", lambda value: value >= 1 and value % 1 == 0)]
Dropout = Annotated[Searched, _every_value("at least 0 and below 1", lambda value: 0 <= value < 1)]


class Space(Section):
    """Hyperparameters: a number is fixed, a range or a list of choices is searched."""

    learning_rate: Rate = FloatRange(low=1.5e-3, high=4e-3, log=True)
    """Peak learning rate of AdamW."""
    weight_decay: Decay = FloatRange(low=3e-2, high=1.0, log=True)
    """Decoupled weight decay of AdamW."""
    hidden: Size = Choice(choices=(192, 256))
    """Width of the hidden layers."""
    layers: Size = 3
    """Number of hidden layers."""
    dropout: Dropout = FloatRange(low=0.3, high=0.5)
    """Dropout after each hidden layer."""
    feature_dropout: Dropout = FloatRange(low=0.25, high=0.4)
    """Share of columns whose embedding is dropped, per row, while training."""
    number_dim: Size = 8
    """Size of a numeric column's embedding."""
    category_dim: Size = 4
    """Size of a categorical column's embedding."""


class Features(Section):
    """Which columns the model reads."""

    drop: tuple[str, ...] = ()
    """Columns that the model must not see (the target and the column that the split is made by never are features)."""
    categorical: tuple[str, ...] = ()
    """Integer columns that are names, not quantities (string and boolean columns always are categories)."""
    min_count: Positive = 100
    """A category seen less often in train shares one embedding with the unseen ones."""
    bins: Annotated[int, Field(ge=2, le=256)] = 16
    """Quantile bins of a numeric column's piecewise-linear encoding."""


class Tune(Section):
    """The search for hyperparameters, and the training of the original model."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How the next configuration is proposed."""
    trials: Positive = 10
    """Finished trials (pruned ones included) that the study holds at the end."""
    epochs: Positive = 6
    """Passes over the training rows of one full trial."""
    batch_size: Positive = 1024
    """Rows of one step."""
    pruner: Literal["hyperband", "none"] = "hyperband"
    """How hopeless trials are stopped early."""
    storage: Literal["journal", "sqlite"] = "journal"
    """Format of the study's file under artifacts."""
    top_k: Positive = 3
    """Checkpoints kept."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of matrix products in training; `auto` takes bf16 where the processor has instructions for it."""
    features: Features = Features()
    """Columns."""
    space: Space = Space()
    """Hyperparameters."""


class Compress(Section):
    """Making the exported file smaller and faster."""

    methods: tuple[Literal["int8"], ...] = ("int8",)
    """Candidates to build beside fp32."""
    max_metric_drop: Annotated[float, Field(ge=0)] = 0.001
    """A candidate whose metric on validation falls by more than this is not eligible."""
    max_slowdown: Annotated[float, Field(ge=0)] = 0.1
    """A candidate shown to be slower than fp32 by more than this share, at any batch size, is not eligible."""
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 64)
    """Batch sizes of the latency race."""
    rounds: Annotated[int, Field(ge=20)] = 200
    """Interleaved rounds of the race at each batch size."""
    race_threads: Positive = 1
    """Threads of a session in the race."""


class Verify(Section):
    """The gate: paired non-inferiority on test."""

    margin: Annotated[float, Field(gt=0)] = 0.002
    """Largest acceptable drop of the metric (AUC), absolute."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of the one-sided bound on the drop."""
    resamples: Annotated[int, Field(ge=200)] = 2000
    """Bootstrap resamples."""
    max_gain: Annotated[float, Field(gt=0)] = 0.02
    """A metric that rises by more than this is implausible, and not accepted."""


class Export(Section):
    """The bundle."""

    golden_rows: Annotated[int, Field(ge=1, le=1000)] = 16
    """Test rows kept in the bundle as a request with its answer."""
    description: str = ""
    """One paragraph for the model card: what the model predicts, and for whom."""
    data_licence: str = "unknown"
    """Licence of the training data, for the model card."""


class Params(Section):
    """A whole params file."""

    base: Base
    ingest: Ingest
    validate_: Annotated[Validate, Field(alias="validate")]
    tune: Tune = Tune()
    compress: Compress = Compress()
    verify: Verify = Verify()
    export: Export = Export()

    def section(self, stage: str) -> Any:
        """The section of a stage (one of :data:`STAGES`)."""
        return getattr(self, "validate_" if stage == "validate" else stage)


def load(path: Path) -> Params:
    """Read and check a params file (YAML).

    Raises:
        UsageError: if the file does not exist or is not readable as YAML.
        SettingsError: listing every mistake in it.
    """
    return parse(read_yaml(path, "a params file", "name one with --params FILE"), str(path))


def parse(raw: Any, name: str = "params") -> Params:
    """Check a parsed params file. Raises :class:`SettingsError` with every mistake."""
    params, mistakes = check(Params, raw, _SCHEMA)
    if params is None:
        raise settings_error(name, mistakes, _SCHEMA)
    return params


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a params file."""
    return Params.model_json_schema(by_alias=True)


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
