"""AUC on the month after each snapshot of a replay: what served then, a model never retrained, trees retrained monthly.

    python benchmarks/retrain/scores.py [--out build/replay]    (after replay.py; needs the extra `benchmarks`)

All score the same rows: the flights of the month that begins at the snapshot's moment, cleaned by the example's own
suite. The trees (scikit-learn's HistGradientBoostingClassifier, its defaults, the columns that the bundle reads) learn
from every row before that moment; the pipeline keeps its last 34 days back, to choose by and to prove with. A third
column has trees that keep them back as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from quality import MOST_CATEGORIES, frequency_codes
from replay import NAME, ROOT
from ruamel.yaml import YAML
from sklearn.ensemble import HistGradientBoostingClassifier

from deploy.predictor import Predictor
from tasks.core.metrics import auc

_KEPT_BACK = timedelta(days=34)
_SPLITS = ("train", "validation", "test", "fresh")


def main() -> None:
    """Print the table, write scores.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/replay"))
    options = parser.parse_args()
    rows = _year(options.out / "year")
    months = json.loads((options.out / "results.json").read_text())
    bundles = options.out / "project" / "dist" / NAME
    first = months[0]["serves"]
    names = [one.name for one in Predictor.load(bundles / first, "cpu").signature.inputs]
    found = []
    for one in months:
        begin = datetime.fromisoformat(one["as_of"]).replace(tzinfo=UTC)
        later = _between(rows, begin, (begin + timedelta(days=32)).replace(day=1))
        labels = np.asarray(later["late"].to_numpy()).astype(np.int64)
        scores = {
            "served": auc(labels, _answers(bundles / one["serves"], later)),
            "never retrained": auc(labels, _answers(bundles / first, later)),
            "trees, every row": auc(labels, _trees(names, _between(rows, None, begin), later)),
            "trees, 34 days back": auc(labels, _trees(names, _between(rows, None, begin - _KEPT_BACK), later)),
        }
        found.append({"as_of": one["as_of"], "rows": len(labels), "served_version": one["serves"]} | scores)
        print(found[-1], file=sys.stderr, flush=True)
    (options.out / "scores.json").write_text(json.dumps(found, indent=1))
    _print(found)


def _print(found: list[dict[str, Any]]) -> None:
    names = [name for name in found[0] if name not in ("as_of", "rows", "served_version")]
    print(f"| month from | rows | serves | {' | '.join(names)} |\n|{'---|' * (3 + len(names))}")
    for one in found:
        figures = " | ".join(f"{one[name]:.4f}" for name in names)
        print(f"| {one['as_of']} | {one['rows']:,} | {one['served_version'].partition('-')[0]} | {figures} |")
    means = " | ".join(f"{np.mean([one[name] for one in found]):.4f}" for name in names)
    print(f"| mean | | | {means} |")


def _year(folder: Path) -> pa.Table:
    """Every clean row of the year, by a run of `ingest` and `validate` of its own."""
    yaml = YAML()
    raw = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["ingest"]["source"] = str(ROOT / raw["ingest"]["source"])
    raw["validate"]["suite"] = str(ROOT / raw["validate"]["suite"])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(raw, file)
    for stage in ("ingest", "validate"):
        command = [sys.executable, "-P", "-m", "tasks", stage, "--params", str(folder / "params.yaml")]
        subprocess.run(command, check=True, cwd=ROOT)
    splits = [
        folder / "artifacts" / "validate" / f"{name}.parquet" for name in ("train", "validation", "test", "fresh")
    ]
    return pa.concat_tables([pq.read_table(path) for path in splits])


def _between(rows: pa.Table, begin: datetime | None, end: datetime) -> pa.Table:
    kept = pc.less(rows["time_hour"], _instant(end, rows))
    if begin is not None:
        kept = pc.and_(kept, pc.greater_equal(rows["time_hour"], _instant(begin, rows)))
    return rows.filter(kept)


def _instant(moment: datetime, rows: pa.Table) -> pa.Scalar:
    return pa.scalar(moment, rows["time_hour"].type)


def _answers(bundle: Path, rows: pa.Table) -> np.ndarray:
    """Probabilities float32 [rows]."""
    predictor = Predictor.load(bundle, "cpu")
    columns = {one.name: _column(rows, one.name).reshape(-1, 1) for one in predictor.signature.inputs}
    return predictor.predict(columns)["probability"][:, 0]


def _column(rows: pa.Table, name: str) -> np.ndarray:
    return np.asarray(rows[name].to_numpy())


def _trees(names: list[str], train: pa.Table, rows: pa.Table) -> np.ndarray:
    """Probabilities float64 [rows] of trees that learnt these columns."""
    learnt, asked, native = [], [], []
    for name in names:
        column = _column(train, name)
        if name == "flight" or column.dtype == object:
            known = column.astype(str)
            learnt.append(frequency_codes(known, known))
            asked.append(frequency_codes(known, _column(rows, name).astype(str)))
            native.append(len(np.unique(known)) <= MOST_CATEGORIES)
        else:
            learnt.append(column.astype(np.float64))
            asked.append(_column(rows, name).astype(np.float64))
            native.append(False)
    trees = HistGradientBoostingClassifier(categorical_features=native, random_state=2013)
    trees.fit(np.stack(learnt, 1), np.asarray(train["late"].to_numpy()).astype(np.int64))
    return np.asarray(trees.predict_proba(np.stack(asked, 1))[:, 1])


if __name__ == "__main__":
    main()
