"""`ingest` from files: what comes out, that it does not depend on the format, and what bad input is told."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import AssayError, DataRejected, MachineError, UsageError
from tasks.core.manifest import Manifest
from tasks.core.settings import Params, parse
from tasks.core.stage import run_stage
from tasks.ingest import csv_files

GOOD = "late,distance,carrier\n0,1400,UA\n1,762,DL\n,1089,\n"


def params(source: str, target: str = "late", **ingest: Any) -> Params:
    split = {"by": "random"}
    return parse(
        {
            "base": {"name": "tiny", "target": target},
            "ingest": {"source": source, **ingest},
            "validate": {"suite": "suite.yaml", "split": split},
        }
    )


def ingest(root: Path, source: str, **settings: Any) -> Manifest:
    return run_stage("ingest", params(source, **settings), root)


def written(root: Path) -> pa.Table:
    return pq.read_table(root / "artifacts/ingest/rows.parquet")


def rejected(root: Path, source: str, kind: type[AssayError] = DataRejected, **settings: Any) -> str:
    """The message that a bad source is answered with; nothing may be left of the attempt."""
    with pytest.raises(kind) as caught:
        ingest(root, source, **settings)
    assert not (root / "artifacts/ingest").exists()
    assert not (root / "artifacts/.ingest.partial").exists()
    return str(caught.value)


# What comes out


def test_a_csv_file_becomes_typed_rows_with_their_facts(tmp_path: Path) -> None:
    text = "when,late,day,wind,ok,who,nothing\n"
    text += "2013-01-01T05:00:00Z,0,2013-01-01,1.5,true,UA,\n"
    text += "2013-01-01T05:00:00-05:00,1,2013-01-02,NA,False,,NA\n"
    (tmp_path / "rows.csv").write_text(text)
    manifest = ingest(tmp_path, "rows.csv")
    columns = {
        "when": "timestamp", "late": "int64", "day": "timestamp", "wind": "float64", "ok": "bool", "who": "string",
        "nothing": "float64",
    }  # fmt: skip
    schema = json.loads((tmp_path / "artifacts/ingest/schema.json").read_text())["columns"]
    assert list(schema.items()) == list(columns.items())  # in file order
    assert manifest.facts["columns"] == columns
    assert manifest.facts["rows"] == 2
    assert manifest.facts["source"] == {"kind": "csv", "files": ["rows.csv"]}
    table = written(tmp_path)
    assert table.schema.field("when").type == pa.timestamp("us", tz="UTC")
    assert table.to_pylist()[1] == {
        "when": datetime(2013, 1, 1, 10, tzinfo=UTC), "late": 1, "day": datetime(2013, 1, 2, tzinfo=UTC),
        "wind": None, "ok": False, "who": None, "nothing": None,
    }  # fmt: skip


def test_row_groups_have_65_536_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"late": pa.array(range(150_000)), "x": pa.nulls(150_000)}), tmp_path / "rows.parquet")
    ingest(tmp_path, "rows.parquet")
    file = pq.ParquetFile(tmp_path / "artifacts/ingest/rows.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [65_536, 65_536, 18_928]
    assert file.read()["late"].to_pylist() == list(range(150_000))


@pytest.mark.parametrize(
    ("early", "later", "expected"),
    [
        ("1", "2.5", "float64"),
        ("1", "x", "string"),
        ("1.5", "2", "float64"),
        ("true", "1", "string"),
        ("", "true", "bool"),
        ("", "7", "int64"),
        ("2013-01-01", "2013-01-01T05:00:00Z", "timestamp"),
        ("2013-01-01", "yesterday", "string"),
        ("12345678901234567", "0.5", "string"),  # float64 would round the identifier
        ("1", "99999999999999999999", "string"),  # and this one
        (" 1", "2 ", "int64"),
    ],
)
def test_a_type_is_the_narrowest_that_holds_every_value_however_late_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: str, later: str, expected: str
) -> None:
    filler = "".join(f"0,{early}\n" for _ in range(50))
    hashes = {}
    for block in (64, 256, 1 << 20):
        monkeypatch.setattr(csv_files, "BLOCK", block)
        root = tmp_path / str(block)
        root.mkdir()
        (root / "rows.csv").write_text(f"late,x\n{filler}1,{later}\n{filler}")
        facts = ingest(root, "rows.csv").facts
        assert facts["columns"] == {"late": "int64", "x": expected}
        assert facts["rows"] == 101
        hashes[block] = facts["content_hash"]
    assert len(set(hashes.values())) == 1


def test_given_types_win(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("late,zip,code\n0,00501,1\n1,10001,0\n")
    types = {"zip": "string", "code": "bool", "late": "float64"}
    assert ingest(tmp_path, "rows.csv", types=types).facts["columns"] == types
    assert written(tmp_path).to_pydict() == {"late": [0.0, 1.0], "zip": ["00501", "10001"], "code": [True, False]}


def test_quotes_line_breaks_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes('\ufefflate,"a, b"\r\n0,"x\ny"\r\n1,"say ""ü"""\r\n'.encode())
    ingest(tmp_path, "rows.csv")
    assert written(tmp_path).to_pydict() == {"late": [0, 1], "a, b": ["x\ny", 'say "ü"']}


def test_a_quote_inside_a_field_is_only_a_character(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('late,x\n0,5" pipe\n1,b\n')
    ingest(tmp_path, "rows.csv")
    assert written(tmp_path).to_pydict() == {"late": [0, 1], "x": ['5" pipe', "b"]}


def test_files_of_a_folder_are_joined_by_name_in_any_order_of_columns_and_types_are_promoted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "2013-02.csv").write_text("x,late\n2.5,1\n")
    (data / "2013-01.csv").write_text("late,x\n0,1\n")
    (data / "2014-01.csv").write_text("other\n0\n")
    manifest = ingest(tmp_path, "data", pattern="2013-*.csv")
    assert manifest.facts["source"]["files"] == ["data/2013-01.csv", "data/2013-02.csv"]
    assert written(tmp_path).to_pydict() == {"late": [0, 1], "x": [1.0, 2.5]}
    assert ingest(tmp_path, "data/2013-*.csv").facts == manifest.facts


def test_parquet_types_of_all_kinds_become_the_five(tmp_path: Path) -> None:
    moment = datetime(2013, 1, 1, 5)
    pq.write_table(
        pa.table(
            {
                "late": pa.array([0, 1], pa.uint8()),
                "small": pa.array([1.5, float("nan")], pa.float32()),
                "money": pa.array([1, None], pa.decimal128(9, 2)),
                "code": pa.array(["a", None]).dictionary_encode(),
                "long": pa.array(["a", "b"], pa.large_string()),
                "day": pa.array([moment.date(), None], pa.date32()),
                "local": pa.array([moment, None], pa.timestamp("ns")),
                "zoned": pa.array([moment, None], pa.timestamp("s", tz="America/New_York")),
                "nothing": pa.nulls(2),
            }
        ),
        tmp_path / "rows.parquet",
    )
    assert list(ingest(tmp_path, "rows.parquet").facts["columns"].values()) == [
        "int64", "float64", "float64", "string", "string", "timestamp", "timestamp", "timestamp", "float64",
    ]  # fmt: skip
    first, second = written(tmp_path).to_pylist()
    assert first["local"] == first["zoned"] == moment.replace(tzinfo=UTC)
    assert first["money"] == 1.0
    assert second == {"late": 1, "long": "b", **dict.fromkeys(set(first) - {"late", "long"})}


# The content hash


def frame(rows: int, seed: int = 7) -> pd.DataFrame:
    pick = random.Random(seed)  # noqa: S311 (not for secrets)

    def some(value: Any) -> Any:
        return None if pick.random() < 0.2 else value

    return pd.DataFrame(
        {
            "late": [pick.randint(0, 1) for _ in range(rows)],
            "x": pd.array([some(pick.gauss(0, 1)) for _ in range(rows)], dtype="Float64"),
            "n": pd.array([some(pick.randint(-9, 9)) for _ in range(rows)], dtype="Int64"),
            "who": [some(pick.choice(["UA", "über", "a,b", 'q"q'])) for _ in range(rows)],
            "flag": pd.array([some(pick.random() < 0.5) for _ in range(rows)], dtype="boolean"),
            "when": pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(range(rows), unit="min"),
        }
    )


def content_hash(root: Path, name: str) -> str:
    return str(ingest(root, name).facts["content_hash"])


def test_the_same_data_has_the_same_hash_in_every_format_and_chunking(tmp_path: Path) -> None:
    data = frame(70_000)
    data.to_csv(tmp_path / "a.csv", index=False)
    data.to_parquet(tmp_path / "a.parquet", index=False)
    table = pa.Table.from_pandas(data, preserve_index=False)
    pq.write_table(table, tmp_path / "small-groups.parquet", row_group_size=999, compression="zstd")
    for part in range(3):
        start = part * 30_000
        pq.write_table(table.slice(start, 30_000), tmp_path / f"part-{part}.parquet")
    sources = ("a.csv", "a.parquet", "small-groups.parquet", "part-*.parquet")
    assert len({content_hash(tmp_path, source) for source in sources}) == 1


def test_bytes_under_a_null_and_the_spelling_of_missing_do_not_count(tmp_path: Path) -> None:
    validity = pa.py_buffer(b"\x05")  # the middle of three values is missing
    for name, hidden in (("a", 0.0), ("b", 99.0)):
        values = pa.py_buffer(pa.array([1.0, hidden, 3.0]).buffers()[1].to_pybytes())
        array = pa.Array.from_buffers(pa.float64(), 3, [validity, values])
        table = pa.table({"late": [0, 1, 0], "x": array})
        with pa.OSFile(str(tmp_path / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    from tasks.ingest.snapshot import ContentHash

    hashes = set()
    for name in "ab":
        table = pa.ipc.open_file(tmp_path / f"{name}.arrow").read_all()
        content = ContentHash(table.schema)
        content.update(table)
        hashes.add(content.hexdigest())
    assert len(hashes) == 1
    pq.write_table(pa.table({"late": [0, 1], "x": [1.0, float("nan")]}), tmp_path / "nan.parquet")
    pq.write_table(pa.table({"late": [0, 1], "x": [1.0, None]}), tmp_path / "null.parquet")
    assert content_hash(tmp_path, "nan.parquet") == content_hash(tmp_path, "null.parquet")


@pytest.mark.parametrize(
    "other",
    [
        {"late": [0, 1, 0], "x": ["a", "bc", None]},  # another value
        {"late": [0, 1], "x": ["ab", "c"]},  # texts cut elsewhere
        {"late": [0, 1], "x": ["a", None]},  # one missing
        {"late": [0, 1], "y": ["a", "bc"]},  # another name
        {"x": ["a", "bc"], "late": [0, 1]},  # another order of columns
        {"late": [1, 0], "x": ["bc", "a"]},  # another order of rows
        {"late": [0.0, 1.0], "x": ["a", "bc"]},  # another type
        {"late": [0, 1], "x": ["", "abc"]},
    ],
)
def test_other_data_has_another_hash(tmp_path: Path, other: dict[str, Any]) -> None:
    pq.write_table(pa.table({"late": [0, 1], "x": ["a", "bc"]}), tmp_path / "one.parquet")
    pq.write_table(pa.table(other), tmp_path / "other.parquet")
    assert content_hash(tmp_path, "one.parquet") != content_hash(tmp_path, "other.parquet")


def test_an_empty_text_is_not_a_missing_one(tmp_path: Path) -> None:
    for name, value in (("empty", ""), ("missing", None)):
        pq.write_table(pa.table({"late": [0], "x": pa.array([value], pa.string())}), tmp_path / f"{name}.parquet")
    assert content_hash(tmp_path, "empty.parquet") != content_hash(tmp_path, "missing.parquet")


# Bad input


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [
        ("none.csv", {}, "ingest.source must exist"),
        ("data/*.csv", {}, "matches none"),
        ("data", {"pattern": "2013-*.csv"}, "matches none"),
        ("data", {}, "must hold data files"),
        ("data/rows.xlsx", {}, "data files end in .csv or .parquet"),
        ("rows.csv", {"pattern": "*.csv"}, "belongs to a source that is a folder"),
        ("*.csv", {"pattern": "*.csv"}, "belongs to a source that is a folder"),
        ("source.yaml", {"pattern": "*.csv"}, "belongs to a source that is a folder"),
        ("rows.*", {}, "one format"),
        ("data", {"pattern": "/x/*.csv"}, "must be a glob"),
    ],
)
def test_a_source_that_is_not_there_is_a_usage_error(
    tmp_path: Path, source: str, settings: dict[str, Any], said: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.xlsx").touch()
    (tmp_path / "rows.csv").write_text(GOOD)
    (tmp_path / "rows.parquet").touch()
    assert said in rejected(tmp_path, source, UsageError, **settings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must have a header and rows"),
        (b"\n\n", "must have a header and rows"),
        (b"late,x", "a header and no rows"),
        (b"late,x\n", "must have rows"),
        (b"late,x,y,x,y,y\n0,1,2,3,4,5\n", "`x` (2 times), `y` (3 times)"),
        (b"late,,x\n0,1,2\n", "no name for column 2"),
        (b"late,row\n0,1\n", "`row` is kept"),
        (b"late,who\n0,M\xfcnchen\n", "byte 0xfc at offset 12, line 2"),
        (b"l\xe4te,who\n0,x\n", "byte 0xe4 at offset 1, line 1"),
        (b"late,x\n0,1\n1,2,3\n0,4\n", "line 3: 3 fields, and 2 in the header"),
        (b'late,x\n0,1\n1,"2\n0,4\n', "from line 3 on"),
        (b'late,x\n0,1\n1,"2', "from line 3 on"),
        (b"late,x\n0,1\n1", "line 3: 1 fields"),
        (b"lat,x\n0,1\n", "did you mean `lat`?"),
    ],
)
def test_a_bad_csv_file_is_rejected_with_the_place(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    assert said in rejected(tmp_path, "rows.csv")


def test_a_bad_byte_is_found_where_chunks_of_the_file_meet(tmp_path: Path) -> None:
    head = b"late,who\n"
    padding = b"0," + b"x" * ((1 << 20) - len(head) - 3)
    (tmp_path / "rows.csv").write_bytes(head + padding + b"\xc3\xfc\n")  # the first half of a character, then no second
    assert f"byte 0xc3 at offset {(1 << 20) - 1}, line 2" in rejected(tmp_path, "rows.csv")


def test_a_quote_that_is_never_closed_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "BLOCK", 1 << 16)
    (tmp_path / "rows.csv").write_text("late,x\n" + "0,a\n" * 10 + '1,"b\n' + "0,a\n" * 100_000)
    assert "line 12" in rejected(tmp_path, "rows.csv")


@pytest.mark.parametrize(
    ("given", "value", "expected"),
    [("int64", "2.5", "int64"), ("bool", "maybe", "bool"), ("timestamp", "01/02/2013", "timestamp"),
     ("float64", "n/a", "float64")],
)  # fmt: skip
def test_a_value_that_does_not_fit_a_given_type_is_named_with_its_row(
    tmp_path: Path, given: str, value: str, expected: str
) -> None:
    good = {"int64": "1", "bool": "true", "timestamp": "2013-01-01", "float64": "1.5"}[given]
    (tmp_path / "rows.csv").write_text("late,x\n" + f"0,{good}\n" * 5000 + f"0,{value}\n" + f"0,{good}\n" * 5000)
    message = rejected(tmp_path, "rows.csv", types={"x": given})
    assert f"`x` must hold {expected} values" in message
    assert f"row 5001: {value!r}" in message


def test_parquet_values_that_do_not_fit_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"late": [0, 1], "x": pa.array([1, 2**63], pa.uint64())}), tmp_path / "rows.parquet")
    assert f"row 2: '{2**63}'" in rejected(tmp_path, "rows.parquet")
    pq.write_table(pa.table({"late": [0, 1], "x": ["1", "two"]}), tmp_path / "rows.parquet")
    assert "row 2: 'two'" in rejected(tmp_path, "rows.parquet", types={"x": "int64"})
    pq.write_table(pa.table({"late": [0, 1], "x": [1.0, 1.5]}), tmp_path / "rows.parquet")
    assert "row 2: '1.5'" in rejected(tmp_path, "rows.parquet", types={"x": "int64"})
    assert "row 1" in rejected(tmp_path, "rows.parquet", types={"late": "timestamp"})


def test_a_given_type_for_no_column_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(GOOD)
    assert "did you mean `carrier`?" in rejected(tmp_path, "rows.csv", types={"carier": "string"})


def test_types_without_a_place_in_a_table_are_all_named(tmp_path: Path) -> None:
    table = pa.table({"late": [0], "tags": [["a"]], "blob": [b"x"], "x": [1]})
    pq.write_table(table, tmp_path / "rows.parquet")
    message = rejected(tmp_path, "rows.parquet")
    assert "`tags` (list" in message
    assert "`blob` (binary)" in message
    assert "`x`" not in message


def test_repeated_names_in_parquet_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([0])] * 3, names=["late", "x", "x"]), tmp_path / "rows.parquet")
    assert "`x` (2 times)" in rejected(tmp_path, "rows.parquet")


def test_files_with_other_columns_are_named_with_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("late,x,y\n0,1,2\n")
    (tmp_path / "b.csv").write_text("late,x,z\n0,1,2\n")
    message = rejected(tmp_path, "*.csv")
    assert "b.csv lacks y and adds z" in message


@pytest.mark.parametrize("damage", ["truncated", "scrambled", "no footer", "empty file", "no rows", "flipped bit"])
def test_a_damaged_parquet_file_is_rejected(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"late": [0, 1] * 5000, "x": [float(i) for i in range(10_000)]})
    pq.write_table(table.slice(0, 0 if damage == "no rows" else None), path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "scrambled":
        content[4:-600] = random.Random(1).randbytes(len(content) - 604)  # noqa: S311 (not for secrets)
    elif damage == "no footer":
        content = content[:-8]
    elif damage == "empty file":
        content = bytearray()
    elif damage == "flipped bit":
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = rejected(tmp_path, "rows.parquet")
    assert ("must have rows" if damage == "no rows" else "must be whole") in message


def test_damage_anywhere_in_a_file_is_never_a_crash(tmp_path: Path) -> None:
    pick = random.Random(3)  # noqa: S311 (not for secrets)
    frame(200).to_parquet(tmp_path / "good.parquet", index=False)
    frame(200).to_csv(tmp_path / "good.csv", index=False)
    for number in range(120):
        suffix = ("parquet", "csv")[number % 2]
        content = bytearray((tmp_path / f"good.{suffix}").read_bytes())
        for _ in range(pick.choice([1, 3, 20])):
            content[pick.randrange(len(content))] = pick.randrange(256)
        (tmp_path / f"rows.{suffix}").write_bytes(content[: pick.randrange(len(content)) if number % 3 == 0 else None])
        with suppress(DataRejected):
            ingest(tmp_path, f"rows.{suffix}")


def test_a_parquet_column_with_broken_texts_is_rejected(tmp_path: Path) -> None:
    texts = pa.array([b"fine", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"late": [0, 1], "x": texts}), tmp_path / "rows.parquet")
    assert "UTF8" in rejected(tmp_path, "rows.parquet")


def test_a_file_that_may_not_be_read_is_a_machine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text(GOOD)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    assert "must be readable" in rejected(tmp_path, "rows.csv", MachineError)


def test_the_previous_snapshot_stays_when_the_new_data_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(GOOD)
    ingest(tmp_path, "rows.csv")
    before = {path.name: path.read_bytes() for path in (tmp_path / "artifacts/ingest").iterdir()}
    (tmp_path / "rows.csv").write_text(GOOD + "0,1\n")
    with pytest.raises(DataRejected):
        ingest(tmp_path, "rows.csv")
    assert {path.name: path.read_bytes() for path in (tmp_path / "artifacts/ingest").iterdir()} == before


# As a process


def process(root: Path) -> list[str]:
    return [sys.executable, "-m", "tasks", "ingest", "--params", str(root / "params.yaml")]


def write_params(root: Path) -> None:
    root.mkdir(exist_ok=True)
    (root / "params.yaml").write_text(
        "base: {name: tiny, target: late}\ningest: {source: rows.csv}\n"
        "validate: {suite: suite.yaml, split: {by: random}}\n"
    )


def test_a_users_mistake_gives_its_exit_code_and_no_traceback(tmp_path: Path) -> None:
    write_params(tmp_path)
    missing = subprocess.run(process(tmp_path), capture_output=True, text=True, check=False)
    (tmp_path / "rows.csv").write_text("x,x\n1,2\n")
    bad = subprocess.run(process(tmp_path), capture_output=True, text=True, check=False)
    assert (missing.returncode, bad.returncode) == (2, 3)
    assert "Traceback" not in missing.stderr + bad.stderr
    assert "way out" in missing.stderr


def test_killed_in_the_middle_and_run_again_leaves_the_same_manifest(tmp_path: Path) -> None:
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    block = "".join(f"{i % 2},{i * 7919 % 10007 / 8},carrier-{i % 97},2013-01-01T05:00:00Z\n" for i in range(100_000))
    for root in (killed, straight):
        write_params(root)
        with (root / "rows.csv").open("w") as file:
            file.write("late,x,who,when\n" + block * 10)
    running = subprocess.Popen(process(killed), stderr=subprocess.DEVNULL)
    partial = killed / "artifacts/.ingest.partial/rows.parquet"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 10_000):
        assert running.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (killed / "artifacts/ingest").exists()
    for root in (killed, straight):
        subprocess.run(process(root), check=True, stderr=subprocess.DEVNULL)
    assert not partial.parent.exists()
    manifests = [(root / "artifacts/ingest/manifest.json").read_bytes() for root in (killed, straight)]
    assert manifests[0] == manifests[1]
    assert json.loads(manifests[0])["facts"]["rows"] == 1_000_000
