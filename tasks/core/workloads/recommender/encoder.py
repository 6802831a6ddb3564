"""From interactions to codes and back: the users and items of train, and where training starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.errors import DataRejected

if TYPE_CHECKING:
    import onnx
    import pyarrow as pa

    from deploy.signature import Signature
    from tasks.core.workloads.recommender.start import Start

USER, HISTORY, ITEMS, SCORES = "user", "history", "items", "scores"
#: Items of an answer; a smaller catalogue is answered as a whole.
ANSWERS = 100
#: What stands where there is no id: an unknown user, the end of a history, a place that no item is left for.
NOTHING: Mapping[str, Any] = {"text": "", "integer": int(np.iinfo(np.int64).min)}
_DTYPES: Mapping[str, Any] = {"text": np.str_, "integer": np.int64}


@dataclass(frozen=True)
class RecommenderEncoder:
    """What was learnt from train. Code 0 is nobody or nothing; ``users[i]`` and ``items[i]`` have code ``i + 1``.

    Attributes:
        user: column of the user.
        target: column of the item.
        time: column of the time.
        users: ids, ascending, all ``str`` or all ``int``.
        items: ids, ascending, likewise.
        counts: users of each item in train.
        user_kind: ``text`` or ``integer``.
        item_kind: ``text`` or ``integer``.
        start: where the network's item vectors start from; on a freshly fitted encoder only, and never stored.
    """

    user: str
    target: str
    time: str
    users: tuple[Any, ...]
    items: tuple[Any, ...]
    counts: tuple[int, ...]
    user_kind: str
    item_kind: str
    start: Start | None = field(default=None, repr=False, compare=False)

    input_names = (USER, HISTORY)
    core_outputs = ("item_codes", SCORES)
    free_axes = (HISTORY,)

    @property
    def width(self) -> int:
        """Items of the catalogue."""
        return len(self.items)

    @property
    def answer_count(self) -> int:
        """Items of an answer."""
        return min(ANSWERS, self.width)

    @property
    def columns(self) -> list[str]:
        """Columns of the rows that the model reads."""
        return [self.user, HISTORY]

    def as_dict(self) -> dict[str, Any]:
        """JSON values, as :func:`restore` takes them."""
        names = ("user", "target", "time", "users", "items", "counts", "user_kind", "item_kind")
        return {name: _plain(getattr(self, name)) for name in names}

    def user_codes(self, rows: pa.Table) -> np.ndarray:
        """int64 [rows], 0 for a user that train does not have."""
        return codes(rows[self.user], self.users, self.user_kind)

    def times(self, rows: pa.Table) -> np.ndarray:
        """The rows' times, int64 [rows], in the unit of their column."""
        times: np.ndarray = rows[self.time].cast("int64").to_numpy()
        return times

    def item_codes(self, rows: pa.Table) -> np.ndarray:
        """The rows' own items, int64 [rows], 0 for one that train does not have."""
        return codes(rows[self.target], self.items, self.item_kind)

    def encode(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """User codes int64 [rows, 1], and history codes int64 [rows, H], oldest first, zeros behind.

        H is the length of the longest history, at least 1.
        """
        histories, places = _histories(rows)
        padded = np.zeros(places.shape, np.int64)
        padded[places] = codes(histories, self.items, self.item_kind)
        return self.user_codes(rows)[:, None], padded

    def labels(self, rows: pa.Table) -> np.ndarray:
        """The rows' items, [rows]: ``str`` or int64, as the answer gives them.

        Raises:
            DataRejected: if a row has no item.
        """
        column = rows[self.target]
        if column.null_count:
            found = f"{column.null_count} rows have none"
            raise DataRejected(f"the target {self.target} must be an item", found, "let the suite quarantine such rows")
        values = column.to_numpy(zero_copy_only=False)
        return np.asarray(values, _DTYPES[self.item_kind])

    def raw_inputs(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """``user`` [rows, 1], int64 or ``str``; and ``history`` [rows, H], int64 or UTF-8 ``bytes``.

        Bytes, since a place for a character takes four times as much in a ``str`` array, and most places are empty.
        """
        histories, places = _histories(rows)
        values = _values(histories, self.item_kind)
        padded = np.full(places.shape, NOTHING[self.item_kind], values.dtype)
        padded[places] = values
        users = _values(rows[self.user], self.user_kind)
        if self.user_kind == "text":
            users = np.char.decode(users, "utf-8")
        return {USER: users[:, None], HISTORY: padded}

    def answers(self, core: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``items`` [rows, k], ids in order of their score; and ``scores`` float32 [rows, k]."""
        ids = np.array([NOTHING[self.item_kind], *self.items], _DTYPES[self.item_kind])
        return {ITEMS: ids[core["item_codes"]], SCORES: core[SCORES]}

    def signature(self) -> Signature:
        """What the exported model takes and gives."""
        from tasks.core.workloads.recommender import graph

        return graph.signature(self)

    def wrap(self, core: onnx.ModelProto) -> onnx.ModelProto:
        """Ids to codes before an exported core, codes to ids behind it."""
        from tasks.core.workloads.recommender import graph

        return graph.wrap(core, self)


def restore(raw: Mapping[str, Any]) -> RecommenderEncoder:
    """The encoder that :meth:`RecommenderEncoder.as_dict` described."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return RecommenderEncoder(**values)


def fit(rows: pa.Table, facts: Mapping[str, Any]) -> RecommenderEncoder:
    """Learn users, items and their counts from the training rows (``facts``: of `validate`'s manifest)."""
    user, target = str(facts["user"]), str(facts["target"])
    users, user_kind = _known(rows[user])
    items, item_kind = _known(rows[target])
    counts = np.bincount(codes(rows[target], items, item_kind) - 1, minlength=len(items))
    return RecommenderEncoder(
        user, target, str(facts["time"]), users, items, tuple(counts.tolist()), user_kind, item_kind
    )


def _known(column: Any) -> tuple[tuple[Any, ...], str]:
    """The distinct ids in order, and their kind."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = "text" if pa.types.is_string(column.type) else "integer"
    return tuple(sorted(pc.unique(column.drop_null()).to_pylist())), kind


def codes(column: Any, known: tuple[Any, ...], kind: str) -> np.ndarray:
    """int64 [values]: 1 + the index in ``known``, 0 for anything else."""
    import pyarrow as pa
    import pyarrow.compute as pc

    dtype = pa.string() if kind == "text" else pa.int64()
    found = pc.index_in(column.cast(dtype), value_set=pa.array(known, type=dtype))
    result: np.ndarray = pc.fill_null(pc.add(found.cast(pa.int64()), 1), 0).to_numpy(zero_copy_only=False)
    return result.copy()  # Arrow's memory is not writable, which torch asks of arrays


def _histories(rows: pa.Table) -> tuple[pa.Array, np.ndarray]:
    """All earlier items, one row's after the other's; and bool [rows, H], where they are once padded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = rows[HISTORY].combine_chunks()
    lists = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    longest = max(1, int(lengths.max(initial=0)))
    return lists.flatten(), np.arange(longest) < lengths[:, None]


def _values(column: Any, kind: str) -> np.ndarray:
    """Ids [values] as int64 or UTF-8 ``bytes``; what is missing as the model knows it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "integer":
        return np.asarray(pc.fill_null(column.cast(pa.int64()), NOTHING[kind]).to_numpy(zero_copy_only=False))
    encoded = pc.fill_null(column.cast(pa.string()), NOTHING[kind]).dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    names = np.array([*(name.encode() for name in encoded.dictionary.to_pylist()), b""], np.bytes_)
    found: np.ndarray = names[encoded.indices.to_numpy(zero_copy_only=False)]
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
