"""The original and the shipped model beside scikit-learn's HistGradientBoostingClassifier: same rows, features, split.

Run it after `make run`, from the project's root: `python benchmarks/quality.py` (needs the extra `benchmarks`).
Columns with at most 254 categories are native categories of the trees; larger ones are ordinal codes by frequency,
since the trees take no more. Several seeds, since early stopping draws a validation set by seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier

from tasks.core.metrics import auc
from tasks.core.original import load_encoder
from tasks.core.workloads.tabular.encoder import TabularEncoder

MOST_CATEGORIES = 254
_SETTINGS = {"defaults": {}, "300 trees, rate 0.05": {"max_iter": 300, "learning_rate": 0.05}}


def frequency_codes(train: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rank of each value by its frequency in train, float64 with NaN for values that train does not have."""
    known, counts = np.unique(train, return_counts=True)
    order = known[np.argsort(-counts, kind="stable")]
    rank = {value: float(index) for index, value in enumerate(order.tolist())}
    return np.array([rank.get(value, np.nan) for value in values.tolist()])


def features(encoder: TabularEncoder, train: pa.Table, table: pa.Table) -> tuple[np.ndarray, list[bool]]:
    """The model's own columns as one float64 array [rows, columns], and which of them are categories."""
    given, learnt = encoder.raw_inputs(table), encoder.raw_inputs(train)
    columns = [given[column.name][:, 0].astype(np.float64) for column in encoder.numbers]
    native = [False] * len(columns)
    for column in encoder.categories:
        known = learnt[column.name][:, 0]
        columns.append(frequency_codes(known, given[column.name][:, 0]))
        native.append(len(np.unique(known)) <= MOST_CATEGORIES)
    return np.stack(columns, axis=1), native


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    splits = options.artifacts / "validate"
    encoder = load_encoder(options.artifacts / "tune")
    train, test = (pq.read_table(splits / f"{name}.parquet") for name in ("train", "test"))
    x_train, native = features(encoder, train, train)
    x_test, _ = features(encoder, train, test)
    y_train, y_test = (encoder.labels(table) for table in (train, test))

    line = json.loads((options.artifacts / "verify" / "verdict.json").read_text())["lines"][0]
    print("| model | AUC on test | interval or seeds |\n|---|---|---|")
    for name in ("original", "shipped"):
        low, high = line[f"{name}_interval"]
        print(f"| {name} | {line[name]:.4f} | {low:.4f} to {high:.4f} |")
    for name, settings in _SETTINGS.items():
        scores = []
        for seed in range(options.seeds):
            trees = HistGradientBoostingClassifier(categorical_features=native, random_state=seed, **settings)
            trees.fit(x_train, y_train)
            scores.append(auc(y_test, trees.predict_proba(x_test)[:, 1]))
        each = ", ".join(f"{score:.4f}" for score in scores)
        print(f"| HistGradientBoosting, {name} | {statistics.median(scores):.4f} | {each} |")


if __name__ == "__main__":
    main()
