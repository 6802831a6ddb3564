"""Explanation drift: whether the exported file looks at the same columns, or parts of an array, as the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.measured import Measured
from tasks.core.metrics.classes import EPSILON
from tasks.core.metrics.metric import Array, weighted_mean
from tasks.verify.behaviour import bootstrap, overlap, probabilities, resamples, sample
from tasks.verify.case import Case, Scorer

if TYPE_CHECKING:
    import torch

    from tasks.verify.stored import Column

#: Largest shortfall of the mean rank correlation from 1: from 0.7 on, a correlation is called strong (Schober, Boer and
#: Schwarte, Anesthesia & Analgesia 2018).
SHORTFALL = 0.3
#: Rows that are explained.
ROWS = 200
#: What has less than this share of a row's attribution has none: the order of columns that do not matter is chance.
_LEAST = 0.01
#: An axis longer than the first number is cut into as many parts as the second says; a shorter one (channels) is not.
_UNCUT, _PARTS = 4, 6
#: Items of a list that count.
_TOP = 10


@dataclass(frozen=True)
class Attributions:
    """What a report draws; all lists are empty where nothing was measured, and ``note`` says why.

    Attributes:
        features: names of columns, or of parts of an array.
        original: mean share of the original's attribution that each has.
        shipped: likewise of the exported file.
        agreement: rank correlation of each row's attributions.
        note: why there is nothing.
    """

    features: list[str] = field(default_factory=list)
    original: list[float] = field(default_factory=list)
    shipped: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def measure(case: Case, shortfall: float = SHORTFALL, rows: int = ROWS) -> tuple[list[Measured], Attributions]:
    """Spearman's correlation of the sizes of both models' attributions, a row at a time, and its mean.

    A feature's attribution is by how much the answer changes when it is replaced: a number by the median of the
    sample, anything else by its most common value. The answer is a quantity, the log-odds of the class that the
    original decided for, or the share of the original's list of items that is still there.

    Captum (the extra ``explain``) does the ablation; without it, nothing is measured.

    Args:
        case: both models as files, and the raw rows.
        shortfall: margin of 1 - mean correlation.
        rows: most rows to explain; fewer where arrays are large.

    Raises:
        MachineError: if the device or the disk refuses.
        IntegrityError: if a model cannot be run.
        ValueError: if answers do not fit the task.
    """
    try:
        from captum.attr import FeatureAblation
    except ImportError:
        return [], Attributions(note="Captum is not installed: the extra `explain` adds this check")
    if case.original_file is None:
        return [], Attributions(note="the original is no file that raw rows can be given to")
    chosen = sample(case.columns, rows, len(_Features.of(case.columns).names) + 1, case.seed)
    columns = {name: array[chosen] for name, array in case.columns.items()}
    features = _Features.of(columns)  # a list is as long here as the longest of these rows
    if len(features.names) < 2:
        return [], Attributions(note="the model has a single input: there is nothing to rank")
    explained = _Sample(case, features, columns, chosen)
    sizes = [_shares(explained.attributions(FeatureAblation, one)) for one in (case.original_file, case.shipped_file)]
    agreement = correlations(*sizes)
    groups = None if case.groups is None else case.groups[chosen]
    drawn = resamples(len(chosen), groups, np.random.default_rng(case.seed))
    loss, lower, upper = bootstrap(weighted_mean(1 - agreement), drawn, case.confidence)
    line = Measured(
        "explanation", "agreement of attributions", "no_harm", len(chosen),
        original=1.0, shipped=1 - loss, loss=loss, lower=lower, upper=upper, margin=shortfall,
        note=f"mean rank correlation over {len(features.names)} features",
    )  # fmt: skip
    means = [each.mean(axis=0).tolist() for each in sizes]
    return [line], Attributions(features.names, means[0], means[1], agreement.tolist())


def correlations(sizes: Array, others: Array) -> Array:
    """Spearman's rank correlation of each row, float64 [n]; both are [n, features].

    Where all of a row's sizes are equal in both, the models agree (1); where in one only, they do not (0).
    """
    from scipy.stats import rankdata

    centred = [rankdata(each, axis=1) - (each.shape[1] + 1) / 2 for each in (sizes, others)]
    lengths = [np.sqrt(np.square(each).sum(axis=1)) for each in centred]
    product, length = (centred[0] * centred[1]).sum(axis=1), lengths[0] * lengths[1]
    agreed = np.where((lengths[0] == 0) & (lengths[1] == 0), 1.0, 0.0)
    return np.asarray(np.divide(product, length, out=agreed, where=length > 0))


def _shares(attributions: Array) -> Array:
    """Size of each attribution as a share of its row's, 0 where it is none to speak of."""
    sizes = np.abs(attributions)
    totals = sizes.sum(axis=1, keepdims=True)
    shares = np.divide(sizes, totals, out=np.zeros_like(sizes), where=totals > 0)
    return np.where(shares < _LEAST, 0.0, shares)


@dataclass(frozen=True)
class _Features:
    """Names of what is ablated, and of each input the number of the feature that each of its elements is part of."""

    names: list[str]
    of_input: dict[str, Array]

    @staticmethod
    def of(columns: Mapping[str, Array] | Mapping[str, Array | Column]) -> _Features:
        names: list[str] = []
        of_input = {}
        for name, array in columns.items():
            parts = _parts(array.shape[1:])
            count = int(parts.max(initial=0)) + 1
            of_input[name] = parts + len(names)
            names += [name] if count == 1 else [f"{name} part {number + 1}" for number in range(count)]
        return _Features(names, of_input)


def _parts(shape: tuple[int, ...]) -> Array:
    """Number of the patch that each element of an array lies in, int64 of that shape."""
    parts = np.zeros(shape, np.int64)
    for axis, size in enumerate(shape):
        cuts = 1 if size <= _UNCUT else min(size, _PARTS)
        along = np.arange(size) * cuts // size
        parts = parts * cuts + along.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return parts


class _Sample:
    """Rows to explain. To Captum a row is a vector of switches, one a feature: 1 leaves it, 0 replaces it; so columns
    of every type are ablated alike."""

    def __init__(self, case: Case, features: _Features, columns: dict[str, Array], chosen: Array) -> None:
        self._task, self._features, self._columns, self._rows = case.task, features, columns, len(chosen)
        self._instead = {name: _usual(array) for name, array in self._columns.items()}
        self._original = case.original[chosen]

    def attributions(self, ablation: Callable[..., Any], scorer: Scorer) -> Array:
        """Of each row and feature, float64 [rows, features]: in two calls of the scorer, as each starts a process."""
        import torch

        def answer(switches: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            columns = self._ablated(switches.numpy() > 0, rows.numpy())
            return torch.from_numpy(self._scalar(scorer.answers(columns), rows.numpy()))

        count = len(self._features.names)
        switches, rows = torch.ones(self._rows, count), torch.arange(self._rows)
        found = ablation(answer).attribute(
            switches, baselines=0.0, additional_forward_args=(rows,), perturbations_per_eval=count
        )
        return np.asarray(found.numpy(), np.float64)

    def _ablated(self, kept: Array, rows: Array) -> dict[str, Array]:
        return {
            name: np.where(kept[:, self._features.of_input[name]], array[rows], self._instead[name])
            for name, array in self._columns.items()
        }

    def _scalar(self, answers: Array, rows: Array) -> Array:
        """The answer to a row as one number, float64 [rows]."""
        reference = self._original[rows]
        if self._task == "regression":
            return np.asarray(answers.reshape(len(answers)), np.float64)
        if self._task == "ranking":
            return overlap(reference[:, :_TOP], answers[:, :_TOP])
        decided = probabilities(reference).argmax(axis=1)
        chances = np.clip(probabilities(answers)[np.arange(len(rows)), decided], EPSILON, 1 - EPSILON)
        return np.asarray(np.log(chances / (1 - chances)))


def _usual(array: Array) -> Array:
    """What stands for an input that a row is not to have, of the shape of one row's.

    Of numbers the median that is known (an element, so that whole numbers and moments stay such), at each place;
    of texts, booleans and lists of whole numbers, which are items, the most common value.
    """
    is_list = array.dtype.kind == "i" and array.size > len(array)
    if is_list or array.dtype.kind not in "iuf":
        values, counts = np.unique(array, return_counts=True)
        return np.asarray(values[counts.argmax()])
    known = len(array) - np.isnan(array).sum(axis=0, keepdims=True)
    middle: Array = np.take_along_axis(np.sort(array, axis=0), known // 2, axis=0)[0]
    return middle
