"""CSV files as a source: one pass while the first block's types hold, two more at most when they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from tasks.core.log import log, progress
from tasks.ingest import columns as rules
from tasks.ingest import kinds
from tasks.ingest.csv_diagnosis import diagnosis
from tasks.ingest.source import Widened

#: Bytes parsed at a time. A row must fit into it.
BLOCK = 8 << 20


@dataclass(frozen=True)
class CsvFiles:
    """A source of CSV files: UTF-8, comma-separated, with a header, quoted as in RFC 4180.

    Every field is read as text and converted here, so that guessing a type, converting to it, and saying which value
    does not fit all follow the same rules.

    Attributes:
        files: at least one, in order.
        given: column -> type, by the user; these never widen.
        null_values: texts that mean "missing", quoted or not.
    """

    files: Sequence[Path]
    given: Mapping[str, str]
    null_values: Sequence[str]

    @property
    def rows(self) -> int | None:
        """Unknown before the files are read."""
        return None

    def guess(self) -> dict[str, str]:
        """Name -> kind from the first block of every file.

        Raises:
            DataRejected: if a file is not UTF-8 or not a table, or names repeat or differ between files.
        """
        headers = {str(path): self._header(path) for path in self.files}
        rules.check_same(headers)
        columns = {name: self.given.get(name, kinds.NULL) for name in self._names()}
        for path in self.files:
            for batch in self._texts(path):
                self._widen(columns, batch)
                break
        return columns

    def batches(self, columns: dict[str, str]) -> Iterator[pa.RecordBatch]:
        """The rows.

        Raises:
            DataRejected: if a value does not fit a given type, or a file is not a table.
            Widened: if a value does not fit a guessed one.
        """
        schema = kinds.arrow_schema(columns)
        for path in self.files:
            row = 0
            for batch in self._texts(path):
                try:
                    arrays = [
                        kinds.from_texts(batch.column(name), kind, name, inferred=name not in self.given)
                        for name, kind in columns.items()
                    ]
                except kinds.Misfit as misfit:
                    where = f"{path}, row {row + misfit.index + 1}"
                    if misfit.column in self.given:
                        raise misfit.rejection(where) from misfit
                    raise Widened(self._settled(columns, misfit, where)) from misfit
                row += len(batch)
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _settled(self, columns: dict[str, str], misfit: kinds.Misfit, where: str) -> dict[str, str]:
        """Kinds that hold every value of every file: found in one pass, so that no column restarts on its own."""
        log.info(
            "ingest: %s: `%s` holds %r, not %s; reading all rows once to settle the types",
            where, misfit.column, misfit.value, misfit.kind,
        )  # fmt: skip
        settled = dict(columns)
        for path in self.files:
            for batch in progress(self._texts(path), f"settling types, {path.name}"):
                self._widen(settled, batch)
        if settled == columns:  # whole numbers of one block that are not exact among the fractions of another
            settled[misfit.column] = "string"
        return settled

    def _widen(self, columns: dict[str, str], batch: pa.RecordBatch) -> None:
        for name, kind in columns.items():
            if name in self.given or kind == "string":
                continue
            texts = batch.column(name)
            if not kinds.fits(texts, kind):
                columns[name] = kinds.join(kind, kinds.kind_of_texts(texts))

    def _names(self) -> list[str]:
        return self._header(self.files[0])

    def _header(self, path: Path) -> list[str]:
        try:
            with pyarrow.csv.open_csv(path, pyarrow.csv.ReadOptions(block_size=BLOCK), _parsing()) as reader:
                names = list(reader.schema.names)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise diagnosis(path, error) from error
        rules.check_names(names, str(path))
        return names

    def _texts(self, path: Path) -> Iterator[pa.RecordBatch]:
        """The file's blocks, every column a string array, missing values null."""
        options = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(self._names(), pa.string()),
            null_values=list(self.null_values),
            strings_can_be_null=True,
        )
        try:
            with pyarrow.csv.open_csv(
                path, pyarrow.csv.ReadOptions(block_size=BLOCK), _parsing(), options
            ) as reader:
                yield from reader
        except pa.ArrowInvalid as error:
            raise diagnosis(path, error) from error


def _parsing() -> pyarrow.csv.ParseOptions:
    return pyarrow.csv.ParseOptions(newlines_in_values=True)
