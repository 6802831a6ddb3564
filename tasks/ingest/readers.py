"""Readers by name: what a source card's files become."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.ingest import archive, downloads
from tasks.ingest.card import FilesCard, SourceCard
from tasks.ingest.source import Part

if TYPE_CHECKING:
    import numpy as np

#: Reader of an archive -> module with ``read(bytes) -> pyarrow.Table``.
_TABLES = {"flights": "tasks.ingest.flights", "retail": "tasks.ingest.retail"}


def parts(card: SourceCard | FilesCard, target: str) -> list[Part]:
    """The rows that a card describes; ``target`` names the column of labels where the files have no names.

    Raises:
        DataRejected: if the files do not hold what the reader expects.
        IntegrityError: if a file has another hash than the card's.
        MachineError: if a file cannot be fetched.
    """
    if isinstance(card, FilesCard):
        return _idx(downloads.contents(card), target)  # the only reader of files; the card's schema admits no other
    table = importlib.import_module(_TABLES[card.reader]).read(archive.content(card))
    return [Part(card.file, table.schema, lambda: iter(table.to_batches()))]


def _idx(contents: dict[str, bytes], target: str) -> list[Part]:
    from tasks.ingest.arrays import idx

    def array(path: Path) -> np.ndarray:
        return idx.parse(contents[path.name], path.name)

    pairs = idx.pairs([Path(name) for name in contents])
    return idx.parts(
        [idx.IdxSet(name, array(images), array(labels)) for name, (images, labels) in pairs.items()], target
    )
