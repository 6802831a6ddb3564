"""The one place that reads a params file: a frozen tree, every mistake reported at once.

A room is given its own section plus ``base``. ``python -m tasks.core.settings`` prints the JSON Schema that editors
complete from (kept in ``tasks/core/params.schema.json``; a test keeps the two equal).
"""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, create_model, field_validator, model_validator

from tasks.core import chosen as named
from tasks.core import space as spaces
from tasks.core import workloads
from tasks.core.contracts import NETWORK_METHODS
from tasks.core.errors import Mistake, UsageError
from tasks.core.sections import Section, check, read_yaml, settings_error, unknown_key
from tasks.core.splitting import Split, TimeSplit

STAGES = ("ingest", "validate", "tune", "compress", "verify", "export")

_SCHEMA = "params.schema.json"
_NAME = r"^[a-z0-9][a-z0-9_-]*$"
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0)]
Margin = Annotated[float, Field(gt=0)] | Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?%$")]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or len(set(names)) < len(names):
        raise ValueError("at least one target, and each once")
    return names


Targets = Annotated[
    tuple[Literal["cpu", "edge", "cuda", "tensorrt"], ...],
    Field(json_schema_extra={"minItems": 1, "uniqueItems": True}),
    AfterValidator(_distinct),  # pydantic's own least length would count an item with a mistake of its own as missing
]


class Base(Section):
    """What every stage needs to know."""

    name: Annotated[str, Field(pattern=_NAME)]
    """Name of the model: the folder under dist_dir."""
    workload: Annotated[str, Field(min_length=1)] = "tabular"
    """Family of the problem: `tabular`, `array`, `recommender`, or the name of a plug-in."""
    target: Annotated[str, Field(min_length=1)]
    """Column to predict: classes, a quantity, or (recommender) the item."""
    task: Literal["auto", "binary", "multiclass", "regression", "ranking"] = "auto"
    """What is predicted; `auto` takes fractions for a quantity, two values for two classes, texts for classes."""
    metric: str | None = None
    """Metric that decides; null takes the workload's own: auc, accuracy, rmse or ndcg@10."""
    user: str | None = None
    """Recommender: column of the user."""
    time: str | None = None
    """Recommender: column of the interaction's time."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything random."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads for training and scoring; null takes all cores. Training is reproducible for a given number."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train and score. `cuda` and `mps` (Apple's GPUs) fail where they cannot be used; `auto` takes CUDA where
    it can, else the CPU."""
    artifacts_dir: Annotated[str, Field(min_length=1)] = "artifacts"
    """Folder of the stages' outputs, relative to the params file."""
    dist_dir: Annotated[str, Field(min_length=1)] = "dist"
    """Folder of the finished bundles, relative to the params file."""

    @model_validator(mode="after")
    def _recommender_columns(self) -> Base:
        if (self.workload == "recommender") != (self.user is not None and self.time is not None):
            raise ValueError("a recommender needs the columns `user` and `time`; other workloads have neither")
        return self


class Ingest(Section):
    """Where the rows come from."""

    source: Annotated[str, Field(min_length=1)]
    """A CSV or Parquet file, a folder of them (see pattern), or a source card (.yaml) of a packaged example."""
    pattern: str | None = None
    """Glob inside the source folder, for example `2013-*.csv`."""
    time_column: str | None = None
    """Timestamp column that says when a row came, of a source that only grows: `as_of` cuts by it, and
    `assay retrain` sets `as_of`."""
    as_of: date | datetime | None = None
    """Only rows before this moment are taken, so that the snapshot stays what it is while the source grows; rows
    without a time are left out. Null takes all rows."""
    types: dict[str, Literal["bool", "int64", "float64", "string", "timestamp"]] = {}  # noqa: RUF012 (pydantic copies it)
    """Types to give to columns, instead of inferring them."""
    null_values: tuple[str, ...] = ("", "NA", "NaN", "nan", "null", "NULL")
    """Texts that mean "missing" in a CSV file."""
    image_size: tuple[Positive, Positive] | None = None
    """Image files are scaled to this height and width; null asks that all have one size."""
    channels: Literal[1, 3] = 3
    """Image files are read as grey (1) or colour (3)."""

    @model_validator(mode="after")
    def _cut_by_a_column(self) -> Ingest:
        if self.as_of is not None and self.time_column is None:
            raise ValueError("`as_of` cuts by the column that `time_column` names: add it")
        return self


class Validate(Section):
    """Which rows are fit for use, and which of them each later stage may see."""

    suite: Annotated[str, Field(min_length=1)]
    """File of the checks."""
    max_quarantine_share: Share = 0.05
    """Largest share of rows that may be set aside before the run is rejected."""
    split: Split
    """How rows are divided into train, validation and test."""
    min_interactions: Positive = 1
    """Recommender: users and items with fewer distinct partners are left out, until all left have as many (k-core)."""
    calibration_rows: Annotated[int, Field(ge=16)] = 2048
    """Rows drawn from train (seeded) to calibrate quantization."""
    engine: Literal["pandas", "duckdb"] = "pandas"
    """What computes the checks: pandas holds the columns of a check in memory, whole; duckdb reads rows in batches and
    works on disk, for tables larger than memory (needs the extra `duckdb`)."""
    data_docs: bool = False
    """Also build Great Expectations' own Data Docs (they load scripts from the network)."""


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


class Costs(Section):
    """What the model may cost: the best metric within all of these is taken."""

    training_seconds: Above0 | None = None
    """Seconds of one training; it differs from run to run."""
    latency_ms: Above0 | None = None
    """Milliseconds in which the trained network answers one row; it differs from run to run."""
    size_kib: Above0 | None = None
    """KiB of the network's float32 weights."""


class Tune(Section):
    """The search for hyperparameters, and the training of the original model."""

    sampler: Literal["auto", "grid", "random", "qmc", "tpe", "gp", "cmaes", "nsga2", "nsga3"] = "auto"
    """How the next configuration is proposed: all combinations in random order; at random; spread evenly (Sobol);
    by densities of good and bad ones; by a Gaussian process of what trials have reached, or promised when they were
    stopped (`tpe` takes over after 200); by evolution of a normal distribution (numbers only, needs the extra
    `cmaes`), or of a population. `auto` takes `gp` for the metric alone, and `tpe` for trade-offs."""
    trials: Positive | None = None
    """Finished trials (pruned ones included) that the study holds at the end, unless it ends earlier. Null means 10,
    or, with `minutes` or `patience`, no limit."""
    minutes: Above0 | None = None
    """The search ends after this time; what is then running is stopped. Null means no limit."""
    patience: Positive | None = None
    """The search ends after so many finished trials without a better one, or without any that completed. Null means
    never."""
    epochs: Positive = 6
    """Passes over the training rows of one full trial."""
    batch_size: Positive = 1024
    """Rows of one step."""
    pruner: Literal["asha", "hyperband", "median", "wilcoxon", "none"] = "asha"
    """How hopeless trials are stopped early: outside the best third after a ninth of the epochs (rounded up) and after
    three times as many; the same after 1, 3, 9, ... epochs, but some are left alone for longer; below the median of the
    others' epochs; or significantly below the best one's epochs."""
    objectives: Annotated[
        tuple[Literal["metric", "training_seconds", "latency_ms", "size_kib"], ...], Field(min_length=1)
    ] = ("metric",)
    """What is searched for: the metric alone, or its best trade-offs with what the model costs (see `limits`)."""
    limits: Costs = Costs()
    """Limits of what the model may cost."""
    pick: Literal["metric", "knee"] = "metric"
    """Of the trials within `limits`: the best metric, or the best trade-off (nearest to the best of each objective)."""
    warm_start: Annotated[str, Field(min_length=1)] | None = None
    """An earlier search (its `trials.csv` or artifacts folder) whose best configurations are the first trials."""
    warm_start_trials: Positive = 3
    """How many of them."""
    storage: Literal["journal", "sqlite", "shared"] = "journal"
    """Format of the study's file under artifacts; or `shared`: the database that ASSAY_TUNE_STORAGE names
    (`postgresql://...` needs the extra of that name; `grpc://host:port` of Optuna's proxy needs `grpc`)."""
    study: Annotated[str, Field(pattern=_NAME)] | None = None
    """Name of the study in the shared database; null takes one that is made of base.name, settings and data."""
    executor: Literal["local", "ray", "dask"] = "local"
    """Where trials run: on this machine, or on a Ray or Dask cluster (extras of those names), which sees the same
    artifacts folder. RAY_ADDRESS or DASK_SCHEDULER_ADDRESS names a running cluster; else one is started here."""
    workers: Positive | Literal["auto"] = 1
    """Trials at a time. More than one run in processes of their own, share the rows' memory, and divide the cores
    unless base.threads is set; with several GPUs each takes its own. `auto` takes as many as are measured to be faster
    (local only)."""
    processes: Positive = 1
    """Processes that train one network together, each on its share of every step's rows: one for each GPU, or each
    with a share of the cores (local only). Each process's rows are what one of `parts` is."""
    top_k: Positive = 3
    """Checkpoints kept."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of matrix products in training; `auto` takes bf16 where the processor has instructions for it."""
    compile: bool = False
    """Let torch.compile make the network's code: worth its minute where trainings are long and the GPU is large. Where
    that cannot be done, which is told, it trains without."""
    clip: Above0 | None = None
    """Largest norm of a step's gradient. Null leaves it as it is."""
    parts: Positive = 1
    """A step's rows are computed in so many parts, one after the other: less memory, and the same step but for what
    sees a part's rows alone (batch norm), is drawn at random, or has more items to tell in one part than in another
    (recommender)."""
    early_stopping: Positive | None = None
    """A training ends after so many epochs without a better score. Null means never."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs the rows of a rare class up, so that every class counts as much in the loss."""
    augment: Literal["auto", "flip", "none"] = "auto"
    """Array: light random changes in training that leave the label as it is; `flip` also mirrors images sideways."""
    start_from: Annotated[str, Field(pattern=r"\.(safetensors|pt|pth|onnx)$")] | None = None
    """Trained weights of `model` (.safetensors, or .pt of a state dict), or a finished .onnx file: no search."""
    output: str | None = None
    """Output of that .onnx file that is judged; null takes its only float output."""
    model: str | None = None
    """Kind of network; null takes the workload's own. Plug-ins are found by name."""
    features: Features = Features()
    """Columns."""
    space: Section = Section()
    """Hyperparameters: those of `model`."""

    @field_validator("objectives")
    @classmethod
    def _metric_first(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        if objectives[0] != "metric" or len(set(objectives)) < len(objectives):
            raise ValueError("`metric` comes first, and each objective once")
        return objectives

    @field_validator("space")
    @classmethod
    def _possible(cls, space: Section) -> Section:
        if problems := spaces.impossible(space):
            raise ValueError("; ".join(problems))
        return space

    @property
    def runs_here(self) -> bool:
        """Whether trials run in the stage's own process."""
        return self.executor == "local" and self.workers == 1 and self.processes == 1

    @property
    def most_trials(self) -> int:
        """:attr:`trials`, or what null means."""
        if self.trials is not None:
            return self.trials
        return 10 if self.minutes is None and self.patience is None else sys.maxsize

    @model_validator(mode="after")
    def _search_that_can_be(self) -> Tune:
        several, problems = len(self.objectives) > 1, []
        if several and self.pruner != "none":
            problems.append("with several objectives no trial can be stopped early: set `pruner: none`")
        if several and self.sampler == "cmaes":
            problems.append("`cmaes` has one objective: take nsga2, nsga3, tpe or gp for several")
        if several and self.patience is not None:
            problems.append("`patience` waits for a better metric: leave it out with several objectives")
        if self.pick == "knee" and not several:
            problems.append("`pick: knee` needs several `objectives`")
        if self.study is not None and self.storage != "shared":
            problems.append("`study` is a name in the shared database: set `storage: shared`")
        if self.processes > 1 and (self.executor != "local" or self.workers == "auto"):
            problems.append("`processes` train together on this machine: set `executor: local` and a number of workers")
        if self.batch_size % self.processes:
            problems.append("`batch_size` must be a multiple of `processes`, so that all have as many rows")
        if self.executor != "local" and self.workers == "auto":
            problems.append("`workers: auto` measures this machine: give a number for a cluster")
        if self.sampler == "cmaes" and type(self.space).model_fields and not spaces.has_range(self.space):
            problems.append("`cmaes` searches numbers: give at least one range under `space`")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Tune:
        finished = self.start_from is not None and self.start_from.endswith(".onnx")
        if self.output is not None and not finished:
            raise ValueError("`output` is for a finished .onnx file under `start_from`")
        if finished and self.model is not None:
            raise ValueError("a finished .onnx file under `start_from` is the model: leave `model` out")
        return self


class Pruning(Section):
    """How `structured` takes channels and neurons out."""

    shares: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (0.25, 0.5, 0.75)
    """Shares of the channels to take out: a smaller network each."""
    importance: Literal["magnitude", "taylor", "hessian"] = "taylor"
    """What makes a channel important: its weights, or the loss's first- or second-order change without it."""
    scope: Literal["global", "layer"] = "layer"
    """Whether all layers are compared, or each gives the same share."""
    steps: Positive = 1
    """Steps in which a share goes; between two of them the network learns for a pass over train."""


class Magnitude(Section):
    """Which weights `magnitude` sets to zero: the smallest ones by one of three rules."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """This share of the weights, unless one of the next two is set."""
    threshold: Above0 | None = None
    """All of at most this magnitude."""
    pattern: Annotated[str, Field(pattern=r"^[1-9]\d*:[1-9]\d*$")] | None = None
    """N:M: of each M weights along the inputs all but the N largest (`2:4` is what sparse tensor cores multiply)."""
    scope: Literal["global", "layer"] = "global"
    """Whether the share counts over all layers together, or in each."""

    @model_validator(mode="after")
    def _one_rule(self) -> Magnitude:
        if self.threshold is not None and self.pattern is not None:
            raise ValueError("`threshold` and `pattern` are two rules: set one of them")
        if self.pattern is not None:
            kept, of = map(int, self.pattern.split(":"))
            if kept >= of:
                raise ValueError("of `pattern` N:M, N must be smaller than M")
        return self


class Compress(Section):
    """The search for the smallest, fastest file that is still as good."""

    methods: tuple[str, ...] = (*NETWORK_METHODS, "int8", "int8_weights")
    """Of networks: structured, depth, student, merge. Of their files: fuse, int8, int8_percentile, int8_entropy,
    int8_s8s8, int8_smooth, int8_dynamic, int8_weights, int4_weights, int4_weights_128, fp16, bf16, fp16_weights,
    magnitude, neurons; and plug-ins."""
    targets: Targets = ("cpu",)
    """Where the model will run: what may be used there, and how the race is run. The first one leads the search, and
    its choice is `model.onnx`; each other one gets its own choice out of the same candidates."""
    pick: Literal["smallest", "fastest", "balanced"] = "balanced"
    """Which of the candidates in budget is taken; balanced means the least product of relative size and time."""
    budget_minutes: Annotated[float, Field(ge=0)] | None = None
    """Time for making and training smaller networks; null means twice what one training of the original takes."""
    max_metric_drop: Margin | None = None
    """A candidate whose metric on validation gets worse by more than this is not eligible. Null asks there what
    `verify` asks on test: the 95 % bound of the paired loss must keep to its usual margin, 0.002 for metrics between 0
    and 1, 1% for others; where validation has too few rows to show that, the loss itself must keep to half of it."""
    max_slowdown: Annotated[float, Field(ge=0)] = 0.1
    """A candidate shown to be slower than fp32 by more than this share, at any batch size, is not eligible."""
    max_size_kib: Annotated[float, Field(gt=0)] | None = None
    """Largest file; where nothing keeps to this and the next three, the verdict is INFEASIBLE. Null takes the target's
    own limit: 32 MiB of `edge`, none of the others."""
    min_speedup: Annotated[float, Field(gt=0)] | None = None
    """How many times faster than fp32 a candidate must be shown to be, at each batch size, both warm."""
    max_p99_ms: Annotated[float, Field(gt=0)] | None = None
    """Largest 99th percentile of a warm call's time at the smallest batch size."""
    max_memory_mib: Annotated[float, Field(gt=0)] | None = None
    """Largest memory for loading the model and answering the largest batch. Null takes the target's own limit: 256 MiB
    of `edge`, none of the others."""
    pruning: Pruning = Pruning()
    """Settings of `structured`."""
    magnitude: Magnitude = Magnitude()
    """Settings of `magnitude`."""
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 64)
    """Batch sizes of the latency race."""
    rounds: Annotated[int, Field(ge=20)] = 200
    """Interleaved rounds of the race at each batch size."""
    race_threads: Positive = 1
    """Threads of a session in the race."""


Check = Literal[
    "data", "file", "mechanics", "slices", "flips", "calibration", "scores", "explanation", "privacy", "robustness"
]


class Limits(Section):
    """How much worse than the original an exported file may be in what the average of the metric does not show."""

    slice: Margin = "5%"
    """Loss of the metric in a slice that must not be shown: its unit, or a share of the original's figure there."""
    recall: Margin = "10%"
    """Loss of a class's recall that must not be shown."""
    changed: Share | None = None
    """Share of rows with another answer; null means a tenth, and of ranked items a quarter."""
    spoilt: Share = 0.05
    """Share of rows whose right answer became wrong."""
    calibration: Share = 0.02
    """Rise of the expected calibration error."""
    scores: Share = 0.1
    """Shift of the scores' distribution: stability index, and Kolmogorov-Smirnov statistic."""
    explanation: Share = 0.3
    """Shortfall of the attributions' rank correlation from 1."""
    privacy: Share = 0.02
    """Rise of a membership-inference attack's AUC."""
    corruption: Margin = "2%"
    """Loss on corrupted rows beyond that on clean ones."""
    known: Share = 0.01
    """Share of test rows whose content lies in train or validation, too."""


class Verify(Section):
    """The gate: paired non-inferiority on test."""

    margin: Margin | None = None
    """Largest acceptable loss of the metric: a number (in its unit), or a share of the original's figure such as `1%`.
    Null means 0.002 for metrics between 0 and 1, and 1% for others."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of the one-sided bound on the drop."""
    resamples: Annotated[int, Field(ge=200)] = 2000
    """Bootstrap resamples."""
    max_gain: Margin | None = None
    """A metric that gets better by more than this is implausible, and not accepted; null means 0.02 for metrics
    between 0 and 1, and 10% for others."""
    checks: tuple[Check, ...] = get_args(Check)
    """What is looked at besides the metric. Each check that is left out is named in the verdict."""
    slices: tuple[str, ...] = ()
    """Columns whose values (numbers: quartiles) cut test into slices, each of which is judged."""
    min_slice_rows: Positive = 200
    """A slice with fewer test rows is not judged."""
    limits: Limits = Limits()
    """Margins of the checks."""
    warn_after_uses: Positive = 20
    """Judgements on one test set after which a verdict warns."""
    refuse_after_uses: Positive = 100
    """Judgements on one test set that are allowed."""


class Export(Section):
    """The bundle."""

    golden_rows: Annotated[int, Field(ge=1, le=1000)] = 16
    """Test rows kept in the bundle as a request with its answer."""
    description: str = ""
    """One paragraph for the model card: what the model predicts, and for whom."""
    data_licence: str = "unknown"
    """Licence of the training data, for the model card."""
    signing_key: Annotated[str | None, Field(exclude=True)] = None
    """Private key (PEM) that signs the bundle, relative to the params file; null takes the one that the environment
    variable ASSAY_SIGNING_KEY names, if it does. A password is read from ASSAY_SIGNING_PASSWORD."""


class Approval(Section):
    """Who may say yes to production."""

    approvers: dict[str, str | None] = {}  # noqa: RUF012 (pydantic copies it)
    """Address of each approver, as Git knows it -> file of the public key (PEM; Ed25519 or EC) of the approvals that
    this person signs; null lets the person approve in Prefect alone."""
    valid_days: Annotated[float, Field(gt=0)] = 7.0
    """Days after which a signed approval expires."""
    wait_minutes: Annotated[float, Field(gt=0)] = 60.0
    """How long a flow run waits in Prefect for an approver."""


class Latency(Section):
    """How quickly the real server must answer on this machine, over loopback."""

    p99_ms: Annotated[float, Field(gt=0)] = 50.0
    """Largest 99th percentile of the time of a request with one row."""
    requests: Annotated[int, Field(ge=100)] = 200
    """Requests that are timed, one after the other."""
    start_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long the server may take until it is ready."""


class Promote(Section):
    """What a bundle must show before it may serve, and where those that do are kept."""

    store: Annotated[str, Field(min_length=1)] = "store"
    """Where promoted bundles are kept: a folder, relative to the params file, or `s3://bucket/prefix`."""
    public_key: Annotated[str, Field(min_length=1)] = "assay.pub"
    """Public key that bundles are signed for, relative to the params file."""
    max_opset: Positive = 18
    """Newest opset that the runtimes which will serve are sure to have."""
    max_ir_version: Positive = 10
    """Newest IR version that they read."""
    latency: Latency = Latency()
    """Budget of the real server."""
    target: str | None = None
    """Target that servers are started for (`assay serve --target`); null leaves the choice to the bundle's own rule."""
    floors: dict[str, float] = {}  # noqa: RUF012
    """Figure of the verdict (`auc`, `recall of 1`, ...) -> least acceptable value; the largest one for an error."""
    slice_floor: float | None = None
    """Least acceptable value of the metric in every slice that the gate judged; the largest one for an error."""
    margin: Margin | None = None
    """How much worse on fresh rows than what serves a bundle may be; null means the margin of `verify`."""
    allowed_licences: tuple[str, ...] = (
        "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-4.0",
        "CC0-1.0", "CNRI-Python", "EPL-2.0", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib",
        "3-Clause BSD License", "Apache License 2.0", "Apache Software License", "BSD", "BSD License",
        "ISC License (ISCL)", "MIT License", "Mozilla Public License 2.0 (MPL 2.0)",
        "Python Software Foundation License", "Zope Public License",
    )  # fmt: skip
    """Licences that data and packages may have: SPDX, or the words of a package's own metadata."""
    any_licence: tuple[str, ...] = ("grandalf", "pygit2", "text-unidecode")
    """Packages that may have any other: tools that a bundle is made with, of which nothing is in it."""
    audit_days: Annotated[float, Field(gt=0)] = 7.0
    """Largest age of a report about known vulnerabilities that was made elsewhere."""
    approval: Approval = Approval()
    """Rules for production."""


class Monitor(Section):
    """When what a model is asked, what it answers, or how good that is, is no longer what it was made for."""

    predictions: Annotated[str, Field(min_length=1)] | None = None
    """Folder of the server's prediction logs (`assay serve --prediction-log`), relative to the params file."""
    rows: Annotated[str, Field(min_length=1)] | None = None
    """Instead of them: a table of recent rows (.csv or .parquet, or .npz of arrays), which is one window."""
    labels: Annotated[str, Field(min_length=1)] | None = None
    """Table (.csv or .parquet) of labels that came later: the target's column, and `id`, the row's name in the log."""
    stage: Literal["staging", "prod"] = "prod"
    """Stage of the store whose bundle rows are held against."""
    window_hours: Above0 = 24.0
    """Hours of prediction logs that are judged at once."""
    min_rows: Annotated[int, Field(ge=100)] = 1000
    """A window with fewer rows (labelled ones, for the metric) is not judged: a stability index of few is noise."""
    min_shift: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Least stability index (less what chance gives it) or Kolmogorov-Smirnov distance that is called drift."""
    max_drop: Margin | None = None
    """Loss of the metric against the bundle's own test that is called drift; null means 0.02 for metrics between 0 and
    1, and 10% for others."""
    significance: Annotated[float, Field(gt=0, le=0.1)] = 0.01
    """Chance of a window without any drift in which something is called so, all columns together."""
    ignore: tuple[str, ...] = ()
    """Columns that move by themselves (weather, a calendar, a price): they are shown, but never called drift."""
    in_a_row: Positive = 2
    """Windows one after the other in which the same thing must have drifted, before a retraining is asked for."""
    cool_down_days: Annotated[float, Field(ge=0)] = 7.0
    """Days after one was asked for in which none is asked for again."""

    @model_validator(mode="after")
    def _one_source(self) -> Monitor:
        if self.predictions is not None and self.rows is not None:
            raise ValueError("rows come from `predictions` or from `rows`: leave one of them out")
        return self


class Retrain(Section):
    """When `assay retrain` trains again, what it takes for broken data, and what it may do by itself."""

    max_age_days: Above0 | None = 30.0
    """Train again when the last accepted snapshot is so many days old. Null: age is no reason."""
    min_new_share: Above0 | None = 0.1
    """Train again when so many rows came, relative to the last accepted snapshot. Null: volume is no reason."""
    min_shift: Share = 0.2
    """Train again when so large a share of a column's new values lies elsewhere than in the last accepted snapshot
    (total variation over deciles or values; the target and what the model reads, from 1,000 new rows on)."""
    max_shift: Share = 0.8
    """A larger shift than this is taken for broken data, which is refused."""
    min_volume: Share = 0.2
    """Fewer new rows a day than this share of the usual are taken for a truncated source, which is refused."""
    max_stale_days: Above0 | None = None
    """A newest row that lies further before the snapshot's moment is refused. Null: never."""
    warm_start: bool = True
    """Begin the search with the best configurations of the last accepted one."""
    to_staging: bool = False
    """Also promote an accepted version to staging, through all gates. Production always is a person's decision."""
    notify: tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")], ...] = ()
    """Prefect notification blocks that are told, by the flows retrain, monitor and promote, of failures, of rejections,
    of versions that wait for a promotion and of promotions that wait for an approval, as `type/name`:
    `slack-webhook/ops`."""


class Params(Section):
    """A whole params file."""

    base: Base
    ingest: Ingest
    validate_: Annotated[Validate, Field(alias="validate")]
    tune: Tune = Tune()
    compress: Compress = Compress()
    verify: Verify = Verify()
    export: Export = Export()
    promote: Promote = Promote()
    monitor: Monitor = Monitor()
    retrain: Retrain = Retrain()

    @model_validator(mode="after")
    def _no_circle(self) -> Params:
        own, given = Path(self.base.artifacts_dir), self.tune.warm_start
        if given is not None and (Path(given) == own or own in Path(given).parents):
            raise ValueError(
                "tune.warm_start must not lie in base.artifacts_dir, which this run writes: copy the earlier trials.csv"
            )
        return self

    @model_validator(mode="after")
    def _counted_from(self) -> Params:
        split = self.validate_.split
        if isinstance(split, TimeSplit) and split.moves and self.ingest.as_of is None:
            raise ValueError("the days of validate.split are counted back from ingest.as_of: set it")
        return self

    def section(self, stage: str) -> Any:
        """The section of a stage (one of :data:`STAGES`)."""
        return getattr(self, "validate_" if stage == "validate" else stage)


def verify_section(raw: dict[str, Any]) -> Verify:
    """The settings of the gate outside a pipeline; a margin may be a number as text.

    Raises:
        SettingsError: with every mistake.
    """
    margin = raw.get("margin")
    if isinstance(margin, str) and not margin.endswith("%"):
        with contextlib.suppress(ValueError):  # the section's own rule tells what a margin is
            raw = raw | {"margin": float(margin)}
    section, mistakes = check(Verify, raw, _SCHEMA)
    if section is None:
        raise settings_error("the options", mistakes, _SCHEMA)
    return section


def load(path: Path) -> Params:
    """Read and check a params file (YAML).

    Raises:
        UsageError: if the file does not exist or is not readable as YAML.
        SettingsError: listing every mistake in it.
    """
    return parse(read_yaml(path, "a params file", "name one with --params FILE"), str(path))


def parse(raw: Any, name: str = "params") -> Params:
    """Check a parsed params file.

    Raises:
        SettingsError: with every mistake, those of the plug-ins that it names among them.
    """
    chosen, mistakes = _chosen(raw)
    params, more = check(chosen, raw, _SCHEMA)
    if mistakes:  # the space is not that of the model that was meant
        more = [mistake for mistake in more if not mistake.key.startswith("tune.space")]
    mistakes += named.mistakes(raw)
    if params is None or mistakes:
        raise settings_error(name, [*mistakes, *more], _SCHEMA)
    return params


def _chosen(raw: Any) -> tuple[type[Params], list[Mistake]]:
    """The tree for the workload and the model that a file names: hyperparameters are theirs."""
    base, tune = _text_of(raw, "base"), _text_of(raw, "tune")
    name = base.get("workload", Base.model_fields["workload"].default)
    if not isinstance(name, str):
        return Params, []  # its own type is the mistake
    if name not in workloads.names():
        return Params, [unknown_key("base.workload", name, name, workloads.names(), "workload")]
    try:
        workload = workloads.find(name)
    except UsageError as error:
        return Params, [named.as_mistake("base.workload", name, error)]
    model = tune.get("model")
    if isinstance(model, str) and model not in workloads.models(workload):
        return Params, [unknown_key("tune.model", model, model, workloads.models(workload), "model")]
    try:
        space = workloads.model(workload, model if isinstance(model, str) else None).space
    except UsageError as error:
        return Params, [named.as_mistake("tune.model", str(model), error)]
    return with_space(space), []


def _text_of(raw: Any, section: str) -> dict[str, Any]:
    found = raw.get(section) if isinstance(raw, dict) else None
    return found if isinstance(found, dict) else {}


def with_space(space: Any) -> type[Params]:
    """The tree whose ``tune.space`` is the given one, or any of a union of them (the first by default)."""
    default = next(iter(get_args(space)), space)()
    field = (space, Field(default=default, description="Hyperparameters: those of `model`."))
    tune = create_model("Tune", __base__=Tune, __doc__=Tune.__doc__, space=field)
    return create_model("Params", __base__=Params, __doc__=Params.__doc__, tune=(tune, tune()))


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a params file, with the hyperparameters of every built-in model."""
    spaces = [model.space for name in workloads.BUILT_IN for model in workloads.find(name).models.values()]
    return with_space(functools.reduce(operator.or_, spaces)).model_json_schema(by_alias=True)


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
