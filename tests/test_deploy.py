"""The serving code: a bundle is what its manifest says, and rows are what the signature says, or they are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy import bundle, score
from deploy.errors import DataRejected, IntegrityError, MachineError, UsageError
from deploy.predictor import Predictor
from deploy.rows import read, read_csv, read_npz, write_csv
from deploy.runtime import open_session, provider
from deploy.signature import MISSING, Signature, Tensor

SIGNATURE = Signature(
    (Tensor("a", "FP32", (-1, 1)), Tensor("n", "INT64", (-1, 1)), Tensor("t", "BYTES", (-1, 1))),
    (Tensor("probability", "FP32", (-1, 1)),),
)
NAN = float("nan")


# Bundles.


@pytest.fixture
def folder(world: Path) -> Path:
    """A published bundle of one's own."""
    (version,) = (path for path in (world / "dist" / "tiny").iterdir() if path.is_dir())
    return version


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def relink(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere.onnx"
    (folder / "model.onnx").rename(elsewhere)
    (folder / "model.onnx").symlink_to(elsewhere)


def drop_line(folder: Path) -> None:
    manifest = folder / "MANIFEST.sha256"
    manifest.write_text("".join(line for line in manifest.read_text().splitlines(True) if "README" not in line))


def escape(folder: Path) -> None:
    manifest = folder / "MANIFEST.sha256"
    manifest.write_text(manifest.read_text().replace("README.md", "../README.md"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit of the model": (lambda folder: flip(folder / "model.onnx"), "model.onnx: changed"),
    "one bit of the card": (lambda folder: flip(folder / "README.md"), "README.md: changed"),
    "one bit of the answer": (lambda folder: flip(folder / "golden/typical.response.json"), "response.json: changed"),
    "a truncated model": (lambda folder: os.truncate(folder / "model.onnx", 100), "model.onnx: changed"),
    "a file more": (lambda folder: (folder / "golden" / "x").touch(), "golden/x: not in the manifest"),
    "a hidden file more": (lambda folder: (folder / ".x").touch(), ".x: not in the manifest"),
    "a file less": (lambda folder: (folder / "verdict.json").unlink(), "verdict.json: missing"),
    "a link to the same content": (relink, "model.onnx: a link"),
    "a link to a folder": (lambda folder: (folder / "x").symlink_to("/etc"), "x: a link"),
    "a dangling link": (lambda folder: (folder / "x").symlink_to("nowhere"), "x: a link"),
    "a line less in the manifest": (drop_line, "README.md: not in the manifest"),
    "a path out of the bundle": (escape, "../README.md"),
    "an empty manifest": (lambda folder: (folder / "MANIFEST.sha256").write_text(""), "line 1"),
    "a manifest that is no text": (lambda folder: (folder / "MANIFEST.sha256").write_bytes(b"\xff\xfe\n"), "line 1"),
    "a line twice": (
        lambda folder: (folder / "MANIFEST.sha256").write_text((folder / "MANIFEST.sha256").read_text() * 2), "line",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_bundle_that_is_not_what_its_manifest_says_is_refused(folder: Path, name: str) -> None:
    damage, said = DAMAGES[name]
    damage(folder)
    with pytest.raises(IntegrityError) as caught:
        Predictor.load(folder, "cpu")
    assert said in caught.value.found
    assert caught.value.exit_code == 5


def test_every_damage_is_named_at_once(folder: Path) -> None:
    flip(folder / "model.onnx")
    (folder / "x").touch()
    (folder / "verdict.json").unlink()
    with pytest.raises(IntegrityError, match=r"verdict\.json: missing; x: not in the manifest; model\.onnx: changed"):
        bundle.check(folder)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_what_is_no_bundle_is_a_usage_error(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x")
    with pytest.raises(UsageError, match=r"MANIFEST\.sha256") as caught:
        Predictor.load(tmp_path / "x", "cpu")
    assert caught.value.exit_code == 2


def test_a_bundle_loads_through_a_link_to_its_folder_and_from_anywhere(folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "Ünï cöde")
    (tmp_path / "current").symlink_to(moved)
    assert Predictor.load(tmp_path / "current", "cpu").provider == "CPUExecutionProvider"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"\xff", b'{"inputs": 3, "outputs": 3}', b'{"inputs": [], "outputs": []}',
        b'{"inputs": [{"nme": 1}], "outputs": []}',
        b'{"inputs": [{"name": "a", "datatype": "FP8", "shape": [-1, 1]}], "outputs": []}',
    ],
)  # fmt: skip
def test_a_damaged_signature_is_an_integrity_error(folder: Path, content: bytes) -> None:
    (folder / "signature.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"signature\.json"):
        Predictor.open(folder, "cpu")


@pytest.mark.parametrize("word", ["inputs", "outputs"])
def test_a_signature_of_another_model_is_an_integrity_error(folder: Path, word: str) -> None:
    path = folder / "signature.json"
    signature = json.loads(path.read_text())
    signature[word][0]["name"] = "other"
    path.write_text(json.dumps(signature))
    with pytest.raises(IntegrityError, match=r"differ in .*other"):
        Predictor.open(folder, "cpu")


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_file_that_is_no_model_is_an_integrity_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(IntegrityError, match="must load"):
        open_session(tmp_path / "model.onnx", "cpu")


def test_a_device_that_is_not_known_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="'gpu'"):
        open_session(folder / "model.onnx", "gpu")


def test_cuda_that_is_not_really_used_fails_loudly_and_auto_takes_what_works(folder: Path) -> None:
    used = provider(open_session(folder / "model.onnx", "auto"))
    if used == "CUDAExecutionProvider":
        pytest.skip("CUDA works here")
    assert used == "CPUExecutionProvider"
    with pytest.raises(MachineError, match="runs this model on CPUExecutionProvider"):
        open_session(folder / "model.onnx", "cuda")


# Columns.


def tensors(**columns: Any) -> dict[str, np.ndarray]:
    given = {"a": [0.5], "n": [1], "t": np.array(["x"], object)} | columns
    return SIGNATURE.tensors({name: np.asarray(values) for name, values in given.items()})


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("a", [1, 2], [1.0, 2.0]),
        ("a", np.array([1.5, NAN], np.float64), [1.5, NAN]),
        ("a", np.array([[1.5], [2.5]]), [1.5, 2.5]),
        ("a", np.array([None, "", "NaN", " 2.5 ", "1e3", b"4", 7, True], object), [NAN, NAN, NAN, 2.5, 1e3, 4, 7, 1]),
        ("a", [True, False], [1.0, 0.0]),
        ("a", np.array([1e300, -1e300]), [float("inf"), float("-inf")]),
        ("a", np.array(["inf", "-inf"]), [float("inf"), float("-inf")]),
        ("n", [True, False], [1, 0]),
        ("n", np.array([1.0, NAN, -3.0]), [1, MISSING["INT64"], -3]),
        ("n", np.array([None, "", "12", "3.0", b"4", 5.0, NAN, True], object),
         [MISSING["INT64"], MISSING["INT64"], 12, 3, 4, 5, MISSING["INT64"], 1]),
        ("n", np.array(["true", "False", "TRUE"]), [1, 0, 1]),
        ("n", np.array(["9223372036854775807"]), [2**63 - 1]),
        ("n", np.array([7], np.uint8), [7]),
        ("t", np.array(["a", None, "", NAN, b"b\xc3\xa4"], object), ["a", "", "", "", "bä"]),
        ("t", np.array(["東京"]), ["東京"]),
        ("t", np.array([b"x"]), ["x"]),
    ],
)  # fmt: skip
def test_a_column_becomes_its_tensor(name: str, values: Any, expected: list[Any]) -> None:
    count = len(expected)
    others = {"a": [0.0] * count, "n": [0] * count, "t": np.array(["x"] * count, object)}
    found = tensors(**others | {name: values})[name]
    assert found.shape == (count, 1)
    assert found.dtype == {"a": np.float32, "n": np.int64, "t": np.object_}[name]
    if name == "a":
        np.testing.assert_array_equal(found[:, 0], np.array(expected, np.float32))
    else:
        assert found[:, 0].tolist() == expected


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("a", np.array(["fast"], object), "a: FP32 expected .*fast"),
        ("a", np.array([[1.0, 2.0]]), r"a: FP32 expected .*shape \(1, 2\)"),
        ("a", np.array([[[1.0]]]), "a: FP32 expected"),
        ("a", 3.0, "a: FP32 expected"),
        ("a", np.array([1 + 2j]), "a: FP32 expected .*complex"),
        ("a", np.array([datetime(2013, 1, 1)], "datetime64[us]"), "a: FP32 expected .*datetime"),
        ("a", np.array([[1, 2]], object), "a: FP32 expected"),
        ("a", np.array([{}], object), "a: FP32 expected"),
        ("n", np.array([1.5]), "n: INT64 expected .*fractions"),
        ("n", np.array([1.5], object), "n: INT64 expected .*fractions"),
        ("n", np.array(["1.5"]), "n: INT64 expected .*fractions"),
        ("n", np.array(["one"]), "n: INT64 expected"),
        ("n", np.array([float("inf")]), "n: INT64 expected"),
        ("n", np.array(["inf"]), "n: INT64 expected"),
        ("n", np.array([1e300]), "n: INT64 expected .*beyond int64"),
        ("n", np.array([10**30], object), "n: INT64 expected"),
        ("n", np.array([2**63], np.uint64), "n: INT64 expected .*beyond int64"),
        ("t", [3], "t: BYTES expected .*int64"),
        ("t", np.array([b"\xff"], object), "t: BYTES expected"),
        ("t", np.array([True]), "t: BYTES expected .*bool"),
    ],
)
def test_a_column_of_another_kind_is_rejected_by_name(name: str, values: Any, said: str) -> None:
    with pytest.raises(DataRejected, match=said) as caught:
        tensors(**{name: values})
    assert caught.value.exit_code == 3


def test_every_problem_of_the_columns_is_told_at_once() -> None:
    columns = {"a": np.array(["fast"], object), "t": np.array(["x", "y"], object), "extra": np.zeros(9)}
    with pytest.raises(DataRejected) as caught:
        SIGNATURE.tensors(columns)
    assert "n: not given" in caught.value.found
    assert "a: FP32 expected" in caught.value.found
    assert "a (FP32), n (INT64), t (BYTES)" in caught.value.way_out


def test_columns_of_different_lengths_are_rejected() -> None:
    with pytest.raises(DataRejected, match=r"different numbers of rows: \[1, 2\]"):
        tensors(a=[1.0, 2.0])


def test_columns_that_the_model_does_not_read_are_ignored_whatever_they_hold() -> None:
    assert set(tensors(other=np.zeros((7, 7)))) == {"a", "n", "t"}


def test_no_rows_are_answered_with_empty_arrays(folder: Path) -> None:
    predictor = Predictor.load(folder, "cpu")
    empty = {tensor.name: np.empty(0, object) for tensor in predictor.signature.inputs}
    found = predictor.predict(empty)["probability"]
    assert found.shape == (0, 1)
    assert found.dtype == np.float32


def test_a_signature_is_complete_in_json_and_says_nothing_that_is_empty() -> None:
    assert SIGNATURE.as_dict()["inputs"][0] == {"name": "a", "datatype": "FP32", "shape": (-1, 1)}


# Files of rows.


def csv_file(folder: Path, content: str | bytes) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,n,t\n1,2,x\n", {"a": ["1"], "n": ["2"], "t": ["x"]}),
        ("\ufeffa,n,t\n1,2,x\n", {"a": ["1"], "n": ["2"], "t": ["x"]}),
        ("t,other,n,a\r\nx,?,2,1\r\n", {"a": ["1"], "n": ["2"], "t": ["x"]}),
        ('a,n,t\n1,2,"x, ""y""\nz"\n', {"a": ["1"], "n": ["2"], "t": ['x, "y"\nz']}),
        ('"a","n","t"\n"1","2","x"\n', {"a": ["1"], "n": ["2"], "t": ["x"]}),
        ("a,n,t\n1,2,x\n\n\n3,4,y", {"a": ["1", "3"], "n": ["2", "4"], "t": ["x", "y"]}),
        ("a,n,t\nNA,,null\n", {"a": [""], "n": [""], "t": [""]}),
        ("a,n,t\n", {"a": [], "n": [], "t": []}),
        ("a\n1\n", {"a": ["1"]}),
        ("a,n,t\n1,2,a\"b\n", {"a": ["1"], "n": ["2"], "t": ['a"b']}),
        ("a,n,t\n1,2,\x00\n", {"a": ["1"], "n": ["2"], "t": ["\x00"]}),
    ],
)  # fmt: skip
def test_a_csv_file_gives_the_columns_of_the_signature(
    tmp_path: Path, content: str, expected: dict[str, list[str]]
) -> None:
    found = read_csv(csv_file(tmp_path, content), SIGNATURE)
    assert {name: values.tolist() for name, values in found.items()} == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no header"),
        ("\n1,2,3\n", "no header"),
        ("a,n,a\n1,2,3\n", r"columns given twice: \['a'\]"),
        ("a,n,t\n1,2\n", "line 2"),
        ("a,n,t\n1,2,x\n1,2,x,4\n", "line 3"),
        ('a,n,t\n1,2,"x\ny"\n1,2\n', "line 4"),
        (b"a,n,t\n1,2,\xe9\n", "UTF-8"),
        ("a,n,t\n1,2,x\n".encode("utf-16"), "UTF-8"),
        ('a,n,t\n1,2,"x\n3,4,y\n', "unexpected end of data"),
        ('a,n,t\n1,2,"x"y\n', "expected after"),
        ("a,n,t\n1,2," + "x" * 200_000 + "\n", "field limit"),
    ],
)
def test_a_csv_file_that_cannot_be_read_for_sure_is_rejected(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(DataRejected, match=said) as caught:
        read_csv(csv_file(tmp_path, content), SIGNATURE)
    assert caught.value.exit_code == 3
    assert "rows.csv" in str(caught.value)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_csv_file_that_is_not_there_is_a_usage_error(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "rows.csv")
    with pytest.raises(UsageError, match=r"rows\.csv"):
        read_csv(tmp_path / "rows.csv", SIGNATURE)


def test_a_csv_file_and_arrays_have_the_same_answers(folder: Path, tmp_path: Path) -> None:
    """Texts as people write them: booleans in words, missing integers, whole numbers with a point."""
    predictor = Predictor.load(folder, "cpu")
    text = (
        "carrier,holiday,route,seats,distance,pressure,late\n"
        "東京,true,3,100,1000.5,1013,1\n"
        '"a,b",False,4.0,,NA,,0\n'
        ",,,,,,\n"
    )
    columns = {
        "carrier": np.array(["東京", "a,b", None], object),
        "holiday": np.array([1.0, 0.0, NAN]),
        "route": np.array([3, 4, None], object),
        "seats": np.array([100, NAN, NAN]),
        "distance": np.array([1000.5, NAN, NAN]),
        "pressure": np.array([1013, NAN, NAN]),
    }
    from_csv = predictor.predict(read_csv(csv_file(tmp_path, text), predictor.signature))
    np.testing.assert_array_equal(from_csv["probability"], predictor.predict(columns)["probability"])
    assert len(np.unique(from_csv["probability"])) == 3


def test_outputs_are_written_one_line_a_row(tmp_path: Path) -> None:
    outputs = {"p": np.array([[0.25], [0.5]], np.float32), "pair": np.array([[1, 2], [3, 4]])}
    write_csv(tmp_path / "out.csv", outputs)
    assert (tmp_path / "out.csv").read_text() == "p,pair_0,pair_1\n0.25,1,2\n0.5,3,4\n"


def test_no_outputs_are_written_as_a_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "out.csv", {"probability": np.empty((0, 1), np.float32)})
    assert (tmp_path / "out.csv").read_text() == "probability\n"


def test_a_pickle_in_an_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", a=np.array([object()], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_npz(tmp_path / "rows.npz")


# The scoring command.


def scored(folder: Path, tmp_path: Path, *options: str, **columns: Any) -> int:
    np.savez(tmp_path / "rows.npz", **columns)
    return score.main([str(folder), str(tmp_path / "rows.npz"), str(tmp_path / "out.npz"), *options])


@pytest.mark.parametrize(
    ("options", "columns", "code", "said"),
    [
        (["--device", "gpu"], {}, 2, "device must be auto, cpu, cuda or tensorrt"),
        (["--device", "cpu"], {"distance": np.zeros(2)}, 3, "seats: not given"),
    ],
)
def test_the_scoring_command_has_the_exit_code_of_the_error(
    folder: Path, tmp_path: Path, capsys: Any, options: list[str], columns: dict[str, Any], code: int, said: str
) -> None:
    assert scored(folder, tmp_path, *options, **columns) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_the_scoring_command_without_rows_or_room_is_a_machine_error(folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert score.main([str(folder), str(tmp_path / "none.npz"), str(tmp_path / "out.npz"), "--device", "cpu"]) == 2
    assert "none.npz" in capsys.readouterr().err


def test_serving_loads_numpy_and_onnxruntime_only(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from deploy.predictor import Predictor; from deploy import rows, score; "
        "Predictor.load(Path(sys.argv[1]), 'cpu'); print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    foreign = {"torch", "pandas", "pyarrow", "onnx", "pydantic", "optuna", "prefect", "dvc", "tasks", "flows"}
    assert not foreign & set(done.stdout.split())


HISTORY = Signature(
    (Tensor("user", "BYTES", (-1, 1)), Tensor("history", "BYTES", (-1, -1))), (Tensor("items", "BYTES", (-1, 3)),)
)


def test_a_list_in_a_cell_is_padded_to_the_longest(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('user,history\na,"[""x"", ""y""]"\nb,\nc,"[""z""]"\n')
    found = HISTORY.tensors(read(tmp_path / "rows.csv", HISTORY))
    assert found["history"].tolist() == [["x", "y"], ["", ""], ["z", ""]]


@pytest.mark.parametrize("cell", ["x", "{}", '"[""x"""', "3"])
def test_a_cell_that_is_no_list_is_rejected(tmp_path: Path, cell: str) -> None:
    (tmp_path / "rows.csv").write_text(f"user,history\na,{cell}\n")
    with pytest.raises(DataRejected, match="history must be a JSON list"):
        read(tmp_path / "rows.csv", HISTORY)


IMAGE = Signature((Tensor("x", "UINT8", (-1, 2, 3)),), (Tensor("probability", "FP32", (-1, 1)),))


def test_arrays_come_from_npz(tmp_path: Path) -> None:
    images = np.arange(24).reshape(4, 2, 3)
    np.savez(tmp_path / "rows.npz", x=images)
    found = IMAGE.tensors(read(tmp_path / "rows.npz", IMAGE))["x"]
    assert found.dtype == np.uint8
    assert (found == images).all()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((4, 3, 2)), r"shape \[any, 2, 3\] expected, got \[4, 3, 2\]"),
        (np.full((4, 2, 3), 256), "out of range"),
        (np.full((4, 2, 3), 0.5), "fractions"),
        (np.full((4, 2, 3), "a"), "got <U1"),
    ],
)
def test_an_array_that_does_not_fit_is_rejected(images: np.ndarray, said: str) -> None:
    with pytest.raises(DataRejected, match=said):
        IMAGE.tensors({"x": images})


def test_a_broken_or_pickled_npz_is_rejected(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no more")
    for name in ("objects", "broken"):
        with pytest.raises(DataRejected, match="without Python objects"):
            read(tmp_path / f"{name}.npz", IMAGE)
    with pytest.raises(UsageError):
        read(tmp_path / "absent.npz", IMAGE)


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01T00:00:01+00:00", 10**6),
        ("1970-01-01", 0),
        ("1969-12-31T23:59:59", -(10**6)),
        ("1970-01-01T02:00:00+02:00", 0),
        ("", np.iinfo(np.int64).min),
    ],
)
def test_a_moment_is_text_or_microseconds(text: str, microseconds: int) -> None:
    signature = Signature((Tensor("t", "INT64", (-1, 1), format="timestamp"),), IMAGE.outputs)
    for values in (np.array([text]), np.array([microseconds])):
        assert signature.tensors({"t": values})["t"].tolist() == [[microseconds]]
    if text:
        moment = np.array([np.datetime64(microseconds, "us")])
        assert signature.tensors({"t": moment})["t"].tolist() == [[microseconds]]
    with pytest.raises(DataRejected, match="t: INT64 expected"):
        signature.tensors({"t": np.array(["yesterday"])})
