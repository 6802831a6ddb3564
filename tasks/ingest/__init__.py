"""`ingest`: from the source that the params name to an immutable snapshot, typed, counted and hashed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import files, manifest
from tasks.core.errors import DataRejected
from tasks.core.log import log, progress
from tasks.core.manifest import Manifest
from tasks.core.settings import Ingest
from tasks.core.splitting import moment
from tasks.core.stage import StageSettings

if TYPE_CHECKING:
    from tasks.ingest.source import Source
    from tasks.ingest.window import Window

ROWS = "rows.parquet"
SCHEMA = "schema.json"


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Write ``rows.parquet`` (row groups of 65,536, fewer where there are large arrays) and ``schema.json``.

    Facts of the manifest: ``rows``, ``columns`` (name -> type, in file order), ``tensors`` (columns of arrays: name ->
    dtype and shape), ``content_hash`` (of names, types and values; the same for the same data in another format),
    ``source`` (provenance) and ``as_of`` (ISO 8601 in UTC; null where all rows are taken).

    Raises:
        UsageError: if the source is not there, its card is wrong, or ``as_of`` cannot cut it.
        DataRejected: if the source is not a readable table with the target in it.
        IntegrityError: if a packaged archive has the wrong hash.
        MachineError: if an archive cannot be fetched.
    """
    from tasks.ingest.window import Window

    started = time.perf_counter()
    source, provenance = _open(settings)
    own = settings.own
    as_of = None if own.as_of is None else moment(own.as_of)
    window = None if as_of is None else Window(own.time_column, as_of)
    columns, rows, content_hash = _write(source, settings, out / ROWS, window)
    schema = {"columns": columns, "tensors": dict(source.tensors)}
    if not rows:
        raise DataRejected("a table must have rows", f"{settings.own.source} has none", "check how it was written")
    # Not the canonical form, which would sort the columns: their order in the file is part of the schema.
    files.write_text(out / SCHEMA, json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
    seconds = time.perf_counter() - started
    settings.measured["rows_per_second"] = round(rows / seconds)
    log.info("ingest: %d rows, %d columns in %.1f s, content %s", rows, len(columns), seconds, content_hash[:12])
    return manifest.build(
        "ingest",
        settings.hash,
        inputs,
        out,
        roles={ROWS: "rows", SCHEMA: "schema"},
        facts={
            "rows": rows,
            **schema,
            "content_hash": content_hash,
            "source": provenance,
            "as_of": None if as_of is None else as_of.isoformat(),
        },
    )


def _open(settings: StageSettings) -> tuple[Source, dict[str, Any]]:
    """The source, and where it came from."""
    from tasks.ingest import arrays, locate
    from tasks.ingest.csv_files import CsvFiles
    from tasks.ingest.source import ArrowParts, parquet_part

    root, own, base = settings.root, settings.own, settings.base
    if locate.is_card(own.source):
        return _packaged(root, own, base.target)
    if base.workload != "recommender" and (found := arrays.found(root, own, base.target)):
        parts, provenance = found
        return ArrowParts(parts, own.types), provenance
    paths = locate.files(root, own.source, own.pattern)
    kind = paths[0].suffix.lower().removeprefix(".")
    provenance = {"kind": kind, "files": [locate.portable(path, root) for path in paths]}
    if kind == "csv":
        return CsvFiles(paths, own.types, own.null_values), provenance
    return ArrowParts([parquet_part(path) for path in paths], own.types), provenance


def _packaged(root: Path, own: Ingest, target: str) -> tuple[Source, dict[str, Any]]:
    from tasks.ingest import locate, readers
    from tasks.ingest.card import read_card
    from tasks.ingest.source import ArrowParts

    locate.refuse_pattern(root / own.source, own.pattern)
    card = read_card(root / own.source)
    return ArrowParts(readers.parts(card, target), own.types), card.model_dump(exclude={"columns"})


def _write(
    source: Source, settings: StageSettings, path: Path, window: Window | None
) -> tuple[dict[str, str], int, str]:
    """Columns (name -> type), number of rows, content hash; of the rows in the window."""
    from tasks.ingest import columns as rules
    from tasks.ingest import kinds, snapshot
    from tasks.ingest.source import Widened, with_tensors

    columns = source.guess()
    rules.check_present(columns, settings.base.target, settings.own.types)
    while True:
        if window is not None:
            window.check(columns)
        try:
            schema = with_tensors(kinds.arrow_schema(columns), source.tensors)
            batches: Iterable[Any] = progress(source.batches(columns), "ingest: blocks of rows")
            if window is not None:
                batches = window.of(batches)
            rows, content_hash = snapshot.write(batches, schema, path, source.tensors)
        except Widened as widened:
            columns = widened.columns
        else:
            return {name: kinds.final(kind) for name, kind in columns.items()}, rows, content_hash
