"""What a user took before: the column that the rows of interactions get, apart from train's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.validate.interactions import Interactions, in_time
from tasks.validate.splits import ASIDE, TRAIN, Parts


class Histories:
    """What a row's user took in earlier parts, oldest first; never the row's own item."""

    def __init__(self, found: Interactions, parts: Parts) -> None:
        self._found, self._parts = found, parts
        self._order = in_time(found, np.flatnonzero(parts != ASIDE))
        users = found.users[self._order]
        self._start = np.searchsorted(users, np.arange(users[-1] + 2)) if len(users) else np.zeros(1, np.int64)

    @property
    def kind(self) -> Any:
        """The item's Arrow type."""
        return self._found.names.type

    def of(self, rows: NDArray[np.int64]) -> Any:
        """``pyarrow.ListArray`` of the item's type, [rows]: items of parts before the row's own; for a row of train
        the user's other items of train.

        Args:
            rows: row numbers in the snapshot, none of them set aside.
        """
        import pyarrow as pa

        pieces = [self._earlier(row) for row in rows.tolist()]
        offsets = np.cumsum([0, *(len(piece) for piece in pieces)], dtype=np.int32)
        codes = np.concatenate(pieces) if pieces else np.empty(0, np.int64)
        names = self._found.names
        return pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(codes)))

    def _earlier(self, row: int) -> NDArray[np.int64]:
        user = int(self._found.users[row])
        own = self._order[self._start[user] : self._start[user + 1]]
        part, parts = self._parts[row], self._parts[own]
        earlier = own[(parts == TRAIN) & (own != row)] if part == TRAIN else own[parts < part]
        items: NDArray[np.int64] = self._found.items[earlier]
        return items
