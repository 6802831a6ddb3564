"""The original and the shipped recommender beside popularity, item-kNN and EASE: same split, same histories, one run.

Run it after the retail example's main job, from the project's root: `python benchmarks/recommender.py` (needs the
extra `benchmarks`). All items that the user has not had are ranked; hit rate, NDCG and mean reciprocal rank at 10 (and
the reciprocal rank over the hundred answers).

The baselines have the better of it twice: their settings are chosen on validation by NDCG@10 and they then learn from
train and validation together, while the model knows validation as histories only. `recent` weighs the n-th last item of
a history by n to the power of minus a, with a chosen as well: what the two towers learn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from deploy.predictor import Predictor
from tasks.core import metrics, original
from tasks.core.workloads.recommender.encoder import ANSWERS, RecommenderEncoder

_METRICS = ("hr@10", "ndcg@10", "mrr@10", f"mrr@{ANSWERS}")
_DECAYS = (0.5, 1.0)
_NEIGHBOURS = (1, 2, 3, 5, 10, 20, 50)
_SHRINKAGE = (0, 10)
_RIDGES = (100, 300, 500)

Scorer = Callable[["Asked"], np.ndarray]


@dataclass(frozen=True)
class Asked:
    """Rows that ask.

    Attributes:
        history: int64 [rows, H], item codes, oldest first, zeros behind.
        wanted: int64 [rows], codes of the rows' own items, 0 for one that train does not have.
        items: items of the catalogue.
    """

    history: np.ndarray
    wanted: np.ndarray
    items: int

    def matrix(self, decay: float) -> sparse.csr_matrix:
        """Histories as [rows, items]: the newest item counts 1, the n-th last one n ** -decay."""
        there = self.history > 0
        place = there.sum(1, keepdims=True) - there.cumsum(1) + 1
        rows, _ = np.nonzero(there)
        weights = place[there].astype(np.float32) ** -decay
        return sparse.csr_matrix((weights, (rows, self.history[there] - 1)), (len(there), self.items))

    def ranked(self, scores: np.ndarray) -> np.ndarray:
        """Codes of the best items that are not in the history, [rows, ANSWERS]."""
        rows, places = np.nonzero(self.history)
        scores[rows, self.history[rows, places] - 1] = -np.inf
        best = np.argpartition(-scores, ANSWERS, axis=1)[:, :ANSWERS]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        return np.take_along_axis(best, order, 1) + 1

    def score(self, scorer: Scorer) -> np.ndarray:
        """The metrics of a scorer; an item that train does not have is a miss."""
        return measured(np.where(self.wanted > 0, self.wanted, -1), self.ranked(scorer(self)))


def measured(labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Figures of :data:`_METRICS`."""
    return np.array([metrics.find(name, "ranking")(labels, answers) for name in _METRICS])


def popularity(pairs: sparse.csr_matrix) -> Iterator[tuple[str, Scorer]]:
    """How many users took an item."""
    counts = np.asarray(pairs.sum(0), dtype=np.float32)
    yield "", lambda asked: np.repeat(counts, len(asked.wanted), axis=0)


def item_knn(pairs: sparse.csr_matrix, decays: tuple[float, ...]) -> Iterator[tuple[str, Scorer]]:
    """Sums of shrunk cosines of an item's nearest neighbours."""
    together = (pairs.T @ pairs).toarray()
    counts = together.diagonal().copy()
    np.fill_diagonal(together, 0)
    for shrinkage in _SHRINKAGE:
        cosines = together / (np.sqrt(np.outer(counts, counts)) + shrinkage + 1e-9)
        for neighbours in _NEIGHBOURS:
            least = np.partition(cosines, -neighbours, axis=1)[:, -neighbours, None]
            near = sparse.csr_matrix(np.where(cosines >= least, cosines, 0).astype(np.float32).T)
            for decay in decays:
                yield f"k={neighbours}, shrinkage={shrinkage}, a={decay}", _product(near, decay)


def ease(pairs: sparse.csr_matrix, decays: tuple[float, ...]) -> Iterator[tuple[str, Scorer]]:
    """The closed form of Steck 2019, with its whole matrix of items by items."""
    together = (pairs.T @ pairs).toarray().astype(np.float64)
    for ridge in _RIDGES:
        inverse = np.linalg.inv(together + ridge * np.eye(len(together)))
        weights = (-inverse / inverse.diagonal()).astype(np.float32)
        np.fill_diagonal(weights, 0)
        for decay in decays:
            yield f"ridge={ridge}, a={decay}", _product(weights, decay)


def _product(weights: np.ndarray | sparse.csr_matrix, decay: float) -> Scorer:
    def scores(asked: Asked) -> np.ndarray:
        found = asked.matrix(decay) @ weights
        return found.toarray() if sparse.issparse(found) else np.asarray(found)

    return scores


def tuned(method: Callable[[sparse.csr_matrix], Iterator[tuple[str, Scorer]]], split: Split) -> tuple[str, np.ndarray]:
    """The setting that is best on validation, and its figures on the test."""
    judge = _METRICS.index("ndcg@10")
    best = max(method(split.train), key=lambda one: split.validation.score(one[1])[judge])[0]
    scorer = next(scorer for name, scorer in method(split.train_and_validation) if name == best)
    return best, split.test.score(scorer)


@dataclass(frozen=True)
class Split:
    """The example's split, in the encoder's codes."""

    train: sparse.csr_matrix
    train_and_validation: sparse.csr_matrix
    validation: Asked
    test: Asked


def read(folder: Path, encoder: RecommenderEncoder) -> tuple[Split, pa.Table]:
    """The split as matrices and histories, and the test rows."""
    tables = {name: pq.read_table(folder / f"{name}.parquet") for name in ("train", "validation", "test")}
    asked = {
        name: Asked(encoder.encode(tables[name])[1], encoder.item_codes(tables[name]), encoder.width)
        for name in ("validation", "test")
    }
    train, validation = (_pairs(tables[name], encoder) for name in ("train", "validation"))
    return Split(train, train + validation, asked["validation"], asked["test"]), tables["test"]


def _pairs(rows: pa.Table, encoder: RecommenderEncoder) -> sparse.csr_matrix:
    users, items = encoder.user_codes(rows), encoder.item_codes(rows)
    known = (users > 0) & (items > 0)
    shape = (len(encoder.users) + 1, encoder.width)
    return sparse.csr_matrix((np.ones(known.sum(), np.float32), (users[known], items[known] - 1)), shape)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, default=Path("examples/retail/artifacts"))
    artifacts = parser.parse_args().artifacts
    trained = original.load(artifacts / "tune")
    encoder = trained.encoder
    assert isinstance(encoder, RecommenderEncoder)
    split, test = read(artifacts / "validate", encoder)
    labels = encoder.labels(test)

    def row(name: str, setting: str, figures: np.ndarray) -> None:
        print(f"| {name} | {' | '.join(f'{figure:.4f}' for figure in figures)} | {setting} |", flush=True)

    print(f"| model | {' | '.join(_METRICS)} | setting |\n|{'---|' * (len(_METRICS) + 2)}")
    row("original", "torch", measured(labels, trained.predict(test)))
    predictor = Predictor.open(artifacts / "compress", "cpu", 1)
    chosen = json.loads((artifacts / "compress" / "manifest.json").read_text())["facts"]["chosen"]
    answers = predictor.predict(encoder.raw_inputs(test))["items"]
    row("shipped", chosen, measured(labels, answers.astype(labels.dtype)))
    for name, method in (
        ("popularity", popularity),
        ("item-kNN", lambda pairs: item_knn(pairs, (0.0,))),
        ("item-kNN, recent", lambda pairs: item_knn(pairs, _DECAYS)),
        ("EASE", lambda pairs: ease(pairs, (0.0,))),
        ("EASE, recent", lambda pairs: ease(pairs, _DECAYS)),
    ):
        row(name, *tuned(method, split))


if __name__ == "__main__":
    main()
