"""CSV files as a source: one pass while the types of the first blocks hold, as a rule two more when they do not."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from tasks.core.log import log, progress
from tasks.ingest import columns as rules
from tasks.ingest import kinds
from tasks.ingest.csv_diagnosis import diagnosis, unclosed_quote
from tasks.ingest.source import Widened

#: Bytes parsed at a time: a row must fit, and larger blocks leave the processor's cache and are slower.
BLOCK = 2 << 20
#: Blocks of each file that the first guess looks at.
_GUESS_BLOCKS = 4


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
    def tensors(self) -> Mapping[str, Mapping[str, Any]]:
        """None: a CSV file has no arrays."""
        return {}

    def guess(self) -> dict[str, str]:
        """Name -> kind from the first blocks of every file.

        Raises:
            DataRejected: if a file is not UTF-8 or not a table, or names repeat or differ between files.
        """
        headers = {str(path): _header(path) for path in self.files}
        rules.check_same(headers)
        columns = {name: self.given.get(name, kinds.NULL) for name in headers[str(self.files[0])]}
        for path in self.files:
            with closing(self._texts(path, columns)) as blocks:
                for block in islice(blocks, _GUESS_BLOCKS):
                    self._widen(columns, block)
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
            for batch in self._texts(path, columns):
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
            for batch in progress(self._texts(path, columns), f"settling types, {path.name}"):
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

    def _texts(self, path: Path, names: Iterable[str]) -> Generator[pa.RecordBatch]:
        """The file's blocks, every column a string array, missing values null."""
        options = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=list(self.null_values),
            strings_can_be_null=True,
        )
        try:
            with (
                _QuoteCount(path) as raw,
                pyarrow.csv.open_csv(raw, pyarrow.csv.ReadOptions(block_size=BLOCK), _parsing(), options) as reader,
            ):
                yield from reader
                odd = raw.quotes % 2
        except pa.ArrowInvalid as error:
            raise diagnosis(path, error, BLOCK) from error
        if odd and (problem := unclosed_quote(path)):
            raise problem


class _QuoteCount(io.FileIO):
    """A file that counts the double quotes that are read from it.

    The parser takes a quote that is never closed as closed by the end of the file, with every row after it in one
    field. Only an odd number of quotes makes that possible.
    """

    quotes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) or b""
        self.quotes += data.count(b'"')
        return data


def _header(path: Path) -> list[str]:
    try:
        with pyarrow.csv.open_csv(path, pyarrow.csv.ReadOptions(block_size=BLOCK), _parsing()) as reader:
            names = list(reader.schema.names)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise diagnosis(path, error, BLOCK) from error
    rules.check_names(names, str(path))
    return names


def _parsing() -> pyarrow.csv.ParseOptions:
    return pyarrow.csv.ParseOptions(newlines_in_values=True)
