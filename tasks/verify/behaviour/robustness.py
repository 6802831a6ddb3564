"""Robustness: whether the exported file suffers more than the original from changes that leave the label as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deploy.signature import MISSING
from tasks.core.margins import absolute
from tasks.core.measured import Measured, Word
from tasks.core.metrics.metric import Array
from tasks.verify.behaviour import bootstrap, resamples, sample
from tasks.verify.case import Case, Scorer

#: Largest loss under a corruption beyond that on clean rows, as a share of the original's figure. The strengths below
#: are the mildest at which benchmarks of robustness begin, where a sound network hardly loses.
EXTRA = "2%"
#: Rows that are corrupted.
ROWS = 2000
#: Standard deviation of noise, as a share of the values' own: about the 0.04 of the range of pixels that CIFAR-10-C
#: (Hendrycks and Dietterich, ICLR 2019) begins with, or less.
_NOISE = 0.05
#: Share of values that go missing.
_GAPS = 0.05
#: Added brightness, as a share of the range (ImageNet-C begins with it), and factor of contrast (CIFAR-10-C does).
_BRIGHTNESS, _CONTRAST = 0.1, 0.75
#: Gain of a sensor.
_GAIN = 1.1


def measure(case: Case, extra: float | str = EXTRA, rows: int = ROWS) -> list[Measured]:
    """Each corruption's loss from original to exported file, less the loss on the same rows uncorrupted.

    Tables get noise in their fractional numbers, and gaps in columns that have some already; images noise, brightness,
    contrast and a shift by a pixel; series noise and gain. Inputs that are names or lists of items stay as they are;
    where there is nothing else, nothing is measured, nor is it without a file of the original.

    Args:
        case: both models as files, and the raw rows.
        extra: margin, in the metric's unit or as a share (``2%``) of the original's figure on clean rows.
        rows: most rows to corrupt; fewer where arrays are large.

    Raises:
        MachineError: if the device or the disk refuses.
        IntegrityError: if a model cannot be run.
    """
    if case.original_file is None:
        return []
    chosen = sample(case.columns, rows, len(_CORRUPTIONS) + 1, case.seed)
    clean = {name: array[chosen] for name, array in case.columns.items()}
    generator = np.random.default_rng(case.seed)
    changed = {one.name: found for one in _CORRUPTIONS if (found := one.changes(clean, generator))}
    if not changed:
        return []
    versions = [{}, *changed.values()]
    original, shipped = (_answers(one, clean, versions) for one in (case.original_file, case.shipped_file))
    return [
        _measured(case, chosen, name, (original[0], shipped[0], original[index], shipped[index]), extra)
        for index, name in enumerate(changed, 1)
    ]


def _answers(scorer: Scorer, clean: Mapping[str, Array], versions: Sequence[Mapping[str, Array]]) -> list[Array]:
    """Answers to each version of the rows, all asked for at once."""
    columns = {
        name: np.concatenate([version.get(name, array) for version in versions]) for name, array in clean.items()
    }
    return np.split(scorer.answers(columns), len(versions))


def _measured(
    case: Case, chosen: Array, name: str, answers: tuple[Array, Array, Array, Array], extra: float | str
) -> Measured:
    """``answers``: of the original and the exported file to clean rows, then to corrupted ones."""
    finite = [_finite(each) for each in answers]
    known = finite[0] & finite[2]  # what the original cannot answer either is not the exported file's fault
    lost = int((known & ~(finite[1] & finite[3])).sum())
    if lost or not known.any():
        word: Word = "REGRESSION" if lost else "INCONCLUSIVE"
        said = f"the exported file's answers to {lost} of {len(chosen)} rows are not finite, where the original's are"
        problem = said if lost else "none of the original's answers is finite"
        name = f"{name}: finite answers"
        return Measured("robustness", name, "nothing_found", len(chosen), word, problems=(problem,))
    kept, groups = chosen[known], case.groups
    figures = [case.metric.prepare(case.labels[kept], each[known]) for each in answers]

    def loss(weights: Array | None) -> float:
        clean, other, corrupted, other_corrupted = (figure(weights) for figure in figures)
        return case.metric.loss(corrupted, other_corrupted) - case.metric.loss(clean, other)

    drawn = resamples(len(kept), None if groups is None else groups[kept], np.random.default_rng(case.seed))
    found, lower, upper = bootstrap(loss, drawn, case.confidence)
    clean, other, corrupted, other_corrupted = (figure(None) for figure in figures)
    return Measured(
        "robustness", f"{case.metric.name} under {name}", "no_harm", len(kept),
        original=corrupted, shipped=other_corrupted, loss=found, lower=lower, upper=upper,
        margin=absolute(extra, case.metric, clean),
        note=f"on clean rows {clean:.5g} and {other:.5g}; the loss there is taken off",
    )  # fmt: skip


def _finite(answers: Array) -> Array:
    """Which rows' answers are, bool [n]."""
    if answers.dtype.kind != "f":
        return np.ones(len(answers), np.bool_)
    return np.asarray(np.isfinite(answers.reshape(len(answers), -1)).all(axis=1))


@dataclass(frozen=True)
class _Corruption:
    """A change of the inputs of some kinds (:func:`_kind`), which keeps their datatype and shape."""

    name: str
    kinds: tuple[str, ...]
    change: Callable[[Array, np.random.Generator], Array]

    def changes(self, columns: Mapping[str, Array], generator: np.random.Generator) -> dict[str, Array]:
        """The inputs that become others."""
        return dict(self._changes(columns, generator))

    def _changes(self, columns: Mapping[str, Array], generator: np.random.Generator) -> Iterator[tuple[str, Array]]:
        for name, array in columns.items():
            if _kind(array) in self.kinds:
                changed = self.change(array, generator)
                if changed.tobytes() != array.tobytes():
                    yield name, changed


def _kind(array: Array) -> str:
    """``number`` and ``name``: a fractional and any other value a row; ``image`` and ``series``; or ``list``."""
    fractional = array.dtype.kind == "f"
    if array.size == len(array):
        known = array[np.isfinite(array)] if fractional else array
        return "number" if fractional and (known != np.trunc(known)).any() else "name"
    if not (fractional or array.dtype == np.uint8):
        return "list"
    return "image" if array.ndim == 4 or (array.ndim == 3 and not fractional) else "series"


def _noise(array: Array, generator: np.random.Generator) -> Array:
    """Of images as large everywhere, as a camera's is; else by the spread of each place, as units may differ."""
    is_image = _kind(array) == "image"
    known = np.ma.masked_invalid(array)
    size = _NOISE * known.std(axis=None if is_image else 0, keepdims=True, dtype=np.float64).filled(0)
    noisy = array + size.astype(np.float32) * generator.standard_normal(array.shape, np.float32)
    return _like(noisy, array) if is_image or array.dtype == np.uint8 else noisy.astype(array.dtype)


def _gaps(array: Array, generator: np.random.Generator) -> Array:
    """Missing values in a column that has some: another one the model need not know how to answer."""
    datatype = {"f": "FP32", "U": "BYTES"}.get(array.dtype.kind, "INT64")
    if array.dtype.kind not in "fU" and array.dtype != np.int64:
        return array
    marker = np.array(MISSING[datatype], array.dtype)
    missing = np.isnan(array) if datatype == "FP32" else array == marker
    if not missing.any():
        return array
    return np.where(generator.random(array.shape) < _GAPS, marker, array)


def _brightness(array: Array, _: np.random.Generator) -> Array:
    low, high = _range(array)
    return _like(array + _BRIGHTNESS * (high - low), array)


def _contrast(array: Array, _: np.random.Generator) -> Array:
    mean = array.mean(axis=tuple(range(1, array.ndim)), keepdims=True, dtype=np.float32)
    return _like(mean + _CONTRAST * (array - mean), array)


def _shift(array: Array, _: np.random.Generator) -> Array:
    """One pixel to the right and down; the edge is repeated. The shortest axis of three holds the channels."""
    channel = 1 + int(np.argmin(array.shape[1:])) if array.ndim == 4 else 0
    for axis in {1, 2, array.ndim - 1} - {channel}:
        array = np.take(array, np.maximum(np.arange(array.shape[axis]) - 1, 0), axis)
    return array


def _gain(array: Array, _: np.random.Generator) -> Array:
    return _like(array * np.float32(_GAIN), array) if array.dtype == np.uint8 else array * array.dtype.type(_GAIN)


def _range(array: Array) -> tuple[float, float]:
    return (0.0, 255.0) if array.dtype == np.uint8 else (float(np.nanmin(array)), float(np.nanmax(array)))


def _like(values: Array, array: Array) -> Array:
    """Within the range of an array, and of its datatype."""
    within = np.clip(values, *_range(array))
    return (np.rint(within) if array.dtype == np.uint8 else within).astype(array.dtype)


_CORRUPTIONS = (
    _Corruption("noise", ("number", "image", "series"), _noise),
    _Corruption("missing values", ("number", "name"), _gaps),
    _Corruption("brightness", ("image",), _brightness),
    _Corruption("contrast", ("image",), _contrast),
    _Corruption("a shift by a pixel", ("image",), _shift),
    _Corruption("gain", ("series",), _gain),
)
