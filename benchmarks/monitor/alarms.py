"""How often `monitor` calls drift what is none, and how soon it sees drift that is planted into real rows.

`python benchmarks/monitor/alarms.py --bundle dist/flights/VERSION --validated artifacts/validate`, after a run of the
flights example. Windows are drawn with replacement from the period that the model learnt from (inputs: train; its
answers: validation, as the reference has them; labelled answers: test, on which the metric was proven), so there is no
drift in them. Rows, bins, distances and rules are the room's own. It prints Markdown tables.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deploy.predictor import Predictor
from tasks.core.settings import Monitor
from tasks.monitor.bundle import Champion
from tasks.monitor.performance import measure
from tasks.monitor.shift import Shift, compare
from tasks.monitor.window import Window

OWN = Monitor()
SIZES = (1000, 3000, 10_000)
#: A planted drift has been missed if it is not called so within as many windows.
PATIENCE = 10
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Rows:
    """Real rows.

    Attributes:
        tensors: of the inputs on train, name -> [rows, 1].
        places: spread -> bin of each row; of the answer, on validation.
        scores, labels: on test, [rows].
        order: of the train rows in time.
    """

    tensors: dict[str, np.ndarray]
    places: dict[str, np.ndarray]
    scores: np.ndarray
    labels: np.ndarray
    order: np.ndarray


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--validated", type=Path, default=Path("artifacts/validate"))
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--series", type=int, default=200, help="of windows with a planted drift")
    parser.add_argument("--seed", type=int, default=2013)
    options = parser.parse_args()
    champion = Champion.read(options.bundle)
    rows = read(champion, options.validated)
    random = np.random.default_rng(options.seed)
    false_alarms(champion, rows, options.windows, random)
    false_alarms_of_the_metric(champion, rows, options.windows, random)
    weeks(champion, rows)
    delays(champion, rows, options.series, random)
    delays_of_the_metric(champion, rows, options.series, random)


def read(champion: Champion, validated: Path) -> Rows:
    """The rows of a finished `validate`, in the champion's bins."""
    predictor = Predictor.load(champion.folder, "cpu")
    train, validation, test = (pq.read_table(validated / f"{name}.parquet") for name in ("train", "validation", "test"))
    tensors = _tensors(champion, train)
    places = {
        name: spread.place(tensors[spread.tensor]).astype(np.int16)
        for name, spread in champion.spreads.items()
        if not champion.is_answer(name)
    }
    answers = predictor.predict(_tensors(champion, validation))[champion.answer]
    for name, spread in champion.spreads.items():
        if champion.is_answer(name):
            places[name] = spread.place(answers).astype(np.int16)
    scores = predictor.predict(_tensors(champion, test))[champion.answer][:, 0]
    order = np.argsort(train["time_hour"].cast(pa.timestamp("us")).to_numpy(), kind="stable")
    return Rows(tensors, places, scores, test[champion.target].to_numpy().astype(np.float64), order)


def _tensors(champion: Champion, table: pa.Table) -> dict[str, np.ndarray]:
    names = [tensor.name for tensor in champion.signature.inputs]
    return champion.signature.tensors({name: table[name].to_numpy(zero_copy_only=False) for name in names})


def shifts(champion: Champion, places: dict[str, np.ndarray], n: int, random: np.random.Generator) -> dict[str, Shift]:
    """Distances of a window of ``n`` rows that are drawn with replacement; the answer's are drawn apart."""
    drawn = {length: random.integers(0, length, n) for length in {len(place) for place in places.values()}}
    return {name: _compare(champion, name, place[drawn[len(place)]]) for name, place in places.items()}


def _compare(champion: Champion, name: str, places: np.ndarray) -> Shift:
    spread = champion.spreads[name]
    counts = np.bincount(places, minlength=len(spread.bins))
    return compare(champion.reference(name), counts, spread.ordered, champion.hidden)


def drifted(found: dict[str, Shift]) -> set[str]:
    """The room's own rule."""
    return {
        name for name, one in found.items() if one.effect >= OWN.min_shift and one.p * len(found) <= OWN.significance
    }


def false_alarms(champion: Champion, rows: Rows, windows: int, random: np.random.Generator) -> None:
    """Shares of windows in which something would have been said, by this rule and by usual ones."""
    print(f"\n{windows} windows without drift, {len(rows.places)} columns\n")
    header = ("rows", "a window drifted", "asked for a retraining", "raw PSI > 0.1", "PSI > 0.1, less chance",
              "p < 0.05", "p < 0.01, corrected", "greatest PSI, less chance", "ms a window")  # fmt: skip
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for n in (100, 300, *SIZES):
        before: set[str] = set()
        counts = dict.fromkeys(("window", "asked", "raw", "psi", "p", "corrected"), 0)
        greatest, started = 0.0, time.perf_counter()
        for _ in range(windows):
            found = shifts(champion, rows.places, n, random)
            now = drifted(found)
            counts["window"] += bool(now)
            counts["asked"] += bool(now & before)
            before = now
            counts["raw"] += any(_raw(one, n) > 0.1 for one in found.values())
            counts["psi"] += any(one.psi >= OWN.min_shift for one in found.values())
            counts["p"] += any(one.p < 0.05 for one in found.values())
            counts["corrected"] += any(one.p * len(found) < 0.01 for one in found.values())
            greatest = max(greatest, *(one.psi for one in found.values()))
        cost = 1000 * (time.perf_counter() - started) / windows
        shares = " | ".join(f"{100 * count / windows:.1f} %" for count in counts.values())
        print(f"| {n:,} | {shares} | {greatest:.3f} | {cost:.1f} |", flush=True)


def _raw(shift: Shift, n: int) -> float:
    """The index as it is usually computed: no allowance for chance, empty bins as half a row."""
    first = np.maximum(np.array(shift.reference), 1e-6)
    second = np.maximum(np.array(shift.window), 0.5 / n)
    return float(((second - first) * np.log(second / first)).sum())


def false_alarms_of_the_metric(champion: Champion, rows: Rows, windows: int, random: np.random.Generator) -> None:
    """The same for AUC, on windows of test rows with their labels."""
    print(f"\n{windows} windows without a loss of the metric\n")
    print("| labelled rows | a window was worse | asked for a retraining | loss above the margin | ms a window |")
    print("|---|---|---|---|---|")
    for n in SIZES[:2]:
        before, counts, started = False, [0, 0, 0], time.perf_counter()
        for _ in range(windows):
            worse, large = _worse(champion, rows.scores, rows.labels, n, random)
            counts = [counts[0] + worse, counts[1] + (worse and before), counts[2] + large]
            before = worse
        cost = 1000 * (time.perf_counter() - started) / windows
        print(
            f"| {n:,} | " + " | ".join(f"{100 * count / windows:.1f} %" for count in counts) + f" | {cost:.0f} |",
            flush=True,
        )


def _worse(
    champion: Champion, scores: np.ndarray, labels: np.ndarray, n: int, random: np.random.Generator
) -> tuple[bool, bool]:
    drawn = random.integers(0, len(scores), n)
    assert champion.shown is not None
    found = measure(Window("", "", n, {}, scores[drawn], labels[drawn]), champion.shown, None, 0)
    assert found is not None
    large = found.drop >= found.margin
    return large and found.p <= OWN.significance, large


def weeks(champion: Champion, rows: Rows) -> None:
    """Real weeks of the reference's own period, one after the other: rows of a week are not drawn one by one."""
    print("\nReal weeks of the period that the model learnt from, in the order of time\n")
    print("| week | rows | what drifted |")
    print("|---|---|---|")
    inputs = {name: place[rows.order] for name, place in rows.places.items() if not champion.is_answer(name)}
    parts = np.array_split(np.arange(len(rows.order)), 34)
    found = [drifted({name: _compare(champion, name, place[part]) for name, place in inputs.items()}) for part in parts]
    for week in (0, 8, 17, 26, 33):
        print(f"| {week + 1} | {len(parts[week]):,} | {', '.join(sorted(found[week])) or 'nothing'} |")
    often = {name: sum(name in one for one in found) for name in inputs}
    said = ", ".join(f"{name} {count}" for name, count in sorted(often.items(), key=lambda one: -one[1]) if count)
    print(f"\nWeeks of {len(parts)} in which a column drifted: {said}")


def planted(rows: Rows) -> Iterator[tuple[str, str, Change]]:
    """What is done to a column, in words, and how."""

    def shifted(share: float) -> Change:
        def change(values: np.ndarray, _: np.random.Generator) -> np.ndarray:
            return values + np.float32(share * np.nanstd(rows.tensors["humid"]))

        return change

    def replaced(share: float, value: object) -> Change:
        def change(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
            return np.where(random.random(values.shape) < share, value, values)

        return change

    for share in (0.1, 0.25, 0.5, 1.0):
        yield f"mean of humid + {share:g} standard deviations", "humid", shifted(share)
    for share in (0.01, 0.02, 0.05, 0.1):
        yield f"{100 * share:g} % of the carriers are a new one", "carrier", replaced(share, "ZZ")
    for share in (0.02, 0.05, 0.1, 0.2):
        yield f"{100 * share:g} % of the temperatures go missing", "temp", replaced(share, np.float32(np.nan))
    yield "distance in kilometres", "distance", lambda values, _: values * np.float32(1.609)
    yield "temperature in degrees Celsius", "temp", lambda values, _: (values - 32) / np.float32(1.8)


def delays(champion: Champion, rows: Rows, series: int, random: np.random.Generator) -> None:
    """Windows, and rows, until a retraining is asked for; the second window is the earliest."""
    print(f"\nPlanted drift: {series} series of windows; not seen within {PATIENCE} windows is missed\n")
    print("| planted | rows a window | seen | windows until then (median, 95th percentile) | rows | PSI | KS |")
    print("|---|---|---|---|---|---|---|")
    for words, column, change in planted(rows):
        for n in SIZES[:2]:
            told = [_until(champion, rows, column, change, n, random) for _ in range(series)]
            seen = [delay for delay, _ in told if delay is not None]
            shift = told[0][1]
            ks = "-" if shift.ks is None else f"{shift.ks:.3f}"
            print(f"| {words} | {n:,} | {_told(seen, series, n)} | {shift.psi:.3f} | {ks} |", flush=True)


def _told(seen: list[int], series: int, n: int) -> str:
    share = f"{100 * len(seen) / series:.0f} %"
    if not seen:
        return f"{share} | - | -"
    median, late = np.percentile(seen, [50, 95], method="inverted_cdf").astype(int)
    return f"{share} | {median}, {late} | {median * n:,}"


def _until(
    champion: Champion, rows: Rows, column: str, change: Change, n: int, random: np.random.Generator
) -> tuple[int | None, Shift]:
    """After how many windows the column drifted twice in a row; and its distance in the first one.

    The other columns are as they were: they only share the correction.
    """
    before, first, spread = False, None, champion.spreads[column]
    for window in range(1, PATIENCE + 1):
        values = rows.tensors[column][random.integers(0, len(rows.order), n)]
        shift = _compare(champion, column, spread.place(change(values, random)))
        first = first or shift
        now = shift.effect >= OWN.min_shift and shift.p * len(champion.spreads) <= OWN.significance
        if now and before:
            return window, first
        before = now
    assert first is not None
    return None, first


def delays_of_the_metric(champion: Champion, rows: Rows, series: int, random: np.random.Generator) -> None:
    """The same where labels are flipped, and the metric falls."""
    print("\n| planted | labelled rows a window | seen | windows until then (median, 95th percentile) | rows |")
    print("|---|---|---|---|---|")
    for share in (0.05, 0.1, 0.2, 0.3):
        for n in SIZES[:2]:
            seen = []
            for _ in range(series // 4):
                before = False
                for window in range(1, PATIENCE + 1):
                    flipped = random.random(len(rows.labels)) < share
                    labels = np.where(flipped, 1 - rows.labels, rows.labels)
                    worse, _ = _worse(champion, rows.scores, labels, n, random)
                    if worse and before:
                        seen.append(window)
                        break
                    before = worse
            print(
                f"| {100 * share:g} % of the labels are flipped | {n:,} | {_told(seen, series // 4, n)} |", flush=True
            )


if __name__ == "__main__":
    main()
