"""`ingest` of arrays: .npz, idx files, image folders, cards of files; what comes out, and what bad input is told."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.core import tensors
from tasks.core.errors import AssayError, DataRejected, IntegrityError, MachineError, UsageError
from tasks.core.manifest import Manifest
from tasks.core.settings import parse
from tasks.core.stage import run_stage
from tasks.ingest import archive, snapshot
from tasks.ingest.arrays import idx, images, stored


def ingest(root: Path, source: str, target: str = "label", **settings: Any) -> Manifest:
    raw = {
        "base": {"name": "tiny", "target": target, "workload": "array"},
        "ingest": {"source": source, **settings},
        "validate": {"suite": "suite.yaml", "split": {"by": "random"}},
    }
    return run_stage("ingest", parse(raw), root)


def written(root: Path) -> pa.Table:
    return pq.read_table(root / "artifacts/ingest/rows.parquet")


def rejected(root: Path, source: str, kind: type[AssayError] = DataRejected, **settings: Any) -> str:
    with pytest.raises(kind) as caught:
        ingest(root, source, **settings)
    assert not (root / "artifacts/ingest").exists()
    return str(caught.value)


# .npz


def pictures(rows: int = 7, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, (rows, 4, 5)).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "stored_as"),
    [("float64", "float32"), ("float16", "float32"), ("bool", "uint8"), (">i2", "int32"), ("uint32", "int64"),
     ("uint8", "uint8"), ("int64", "int64")],
)  # fmt: skip
def test_npz_arrays_become_tensor_columns(tmp_path: Path, dtype: str, stored_as: str) -> None:
    x = pictures(dtype=dtype)
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(7), group=np.array(list("aabbccd")), split=["train"] * 7)
    facts = ingest(tmp_path, "set.npz").facts
    tensor = {"dtype": stored_as, "shape": [4, 5]}
    assert facts["tensors"] == {"x": tensor}
    assert facts["columns"] == {"label": "int64", "group": "string", "split": "string"}
    assert facts["source"] == {"kind": "npz", "files": ["set.npz"]}
    assert json.loads((tmp_path / "artifacts/ingest/schema.json").read_text())["tensors"] == {"x": tensor}
    table = written(tmp_path)
    np.testing.assert_array_equal(tensors.to_numpy(table["x"], tensor), x.astype(stored_as))
    assert table["label"].to_pylist() == list(range(7))


def test_several_arrays_and_labels_of_text(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", x_left=pictures(), x_right=np.ones((7, 3)), y=np.array([["cat"]] * 7))
    facts = ingest(tmp_path, "set.npz").facts
    assert facts["tensors"] == {
        "x_left": {"dtype": "uint8", "shape": [4, 5]},
        "x_right": {"dtype": "float32", "shape": [3]},
    }
    assert facts["columns"] == {"label": "string"}


def test_the_content_hash_covers_the_arrays(tmp_path: Path) -> None:
    hashes = []
    for index, x in enumerate((pictures(), pictures(), pictures() + 1, pictures().reshape(7, 5, 4))):
        save = np.savez if index == 0 else np.savez_compressed
        save(tmp_path / "set.npz", x=x, y=np.arange(7))
        hashes.append(ingest(tmp_path, "set.npz").facts["content_hash"])
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_bytes_under_a_null_do_not_change_the_hash() -> None:
    schema, tensor = pa.schema([("x", pa.binary(2))]), {"x": {"dtype": "uint8", "shape": [2]}}
    hashes = set()
    for hidden in (b"\0\0", b"zz"):
        column = pa.Array.from_buffers(pa.binary(2), 2, [pa.py_buffer(b"\1"), pa.py_buffer(b"ab" + hidden)])
        content = snapshot.ContentHash(schema, tensor)
        content.update(pa.table([column], schema=schema))
        hashes.add(content.hexdigest())
    assert len(hashes) == 1


def test_everything_wrong_with_an_npz_file_is_told_at_once(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "set.npz",
        x=pictures(),
        x_words=np.array([["a"]] * 7),
        x_objects=np.array([[{}]] * 7, dtype=object),
        x_flat=np.arange(7),
        group=np.arange(6),
        weights=np.ones(7),
    )
    said = rejected(tmp_path, "set.npz")
    for problem in (
        "no labels `y`", "`x_words` holds <U1", "`x_objects` cannot be read: it holds Python objects",
        "`x_flat` has the shape [7]", "rows differ: x 7", "group 6", "`weights` has no meaning here",
    ):  # fmt: skip
        assert problem in said


@pytest.mark.parametrize(
    ("y", "problem"),
    [(np.eye(7), "`y` has the shape [7, 7], not [rows]"), (np.ones(7, complex), "`y` holds complex128"),
     (np.float64(1), "`y` has the shape []")],
)  # fmt: skip
def test_labels_that_are_none(tmp_path: Path, y: Any, problem: str) -> None:
    np.savez(tmp_path / "set.npz", x=pictures(), y=y)
    assert problem in rejected(tmp_path, "set.npz")


def test_a_damaged_npz_file(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", x=pictures(400), y=np.arange(400))
    data = bytearray((tmp_path / "set.npz").read_bytes())
    data[300:340] = bytes(40)
    for damaged in (bytes(data), bytes(data[:500]), b"no zip file", b""):
        (tmp_path / "set.npz").write_bytes(damaged)
        assert "an .npz file must be whole" in rejected(tmp_path, "set.npz")


def test_unsigned_integers_beyond_int64(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.full((2, 3), 2**63, np.uint64), y=np.arange(2))
    assert "beyond int64" in rejected(tmp_path, "set.npz")


def test_a_target_with_the_name_of_an_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=pictures(), y=np.arange(7))
    assert "name of another array" in rejected(tmp_path, "set.npz", target="x")


def test_an_empty_npz_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=pictures(0), y=np.arange(0))
    assert "must have rows" in rejected(tmp_path, "set.npz")


# idx files


def idx_bytes(array: np.ndarray) -> bytes:
    codes = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}
    head = struct.pack(f">HBB{array.ndim}I", 0, codes[array.dtype.name], array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(folder: Path, name: str, rows: int, packed: bool = False, labels: int | None = None) -> None:
    folder.mkdir(exist_ok=True)
    for what, array in (
        ("images-idx3", pictures(rows)),
        ("labels-idx1", np.arange(rows if labels is None else labels, dtype=np.uint8)),
    ):
        data = idx_bytes(array)
        path = folder / f"{name}-{what}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_become_rows_with_their_split(tmp_path: Path, packed: bool) -> None:
    write_idx(tmp_path / "set", "train", 5, packed)
    write_idx(tmp_path / "set", "t10k", 3, packed)
    facts = ingest(tmp_path, "set").facts
    assert facts["tensors"] == {"image": {"dtype": "uint8", "shape": [4, 5]}}
    assert facts["source"]["kind"] == "idx"
    assert len(facts["source"]["files"]) == 4
    table = written(tmp_path)
    assert sorted(table["split"].to_pylist()) == ["test"] * 3 + ["train"] * 5
    assert sorted(table["label"].to_pylist()) == sorted([*range(5), *range(3)])


def test_a_pattern_chooses_among_idx_files(tmp_path: Path) -> None:
    write_idx(tmp_path / "set", "train", 5)
    write_idx(tmp_path / "set", "t10k", 3)
    assert ingest(tmp_path, "set", pattern="t10k*").facts["rows"] == 3


def test_one_set_of_idx_files_needs_no_split(tmp_path: Path) -> None:
    write_idx(tmp_path / "set", "all", 5)
    assert ingest(tmp_path, "set").facts["columns"] == {"label": "int64"}


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
def test_every_dtype_of_the_idx_format(dtype: str) -> None:
    array = pictures().astype(dtype)
    parsed = idx.parse(idx_bytes(array), "x")
    np.testing.assert_array_equal(parsed, array)
    assert parsed.dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "must be whole"),
        (b"\0\0\x08", "must be whole"),
        (b"\x89PNG\0\0\0\0", "begins with its magic number"),
        (struct.pack(">HBBI", 0, 8, 1, 2**32 - 1), "its header promises"),
        (gzip.compress(idx_bytes(pictures()), mtime=0)[:-9], "must be whole"),
        (b"\x1f\x8b broken", "must be whole"),
    ],
)
def test_damaged_idx_files(data: bytes, problem: str) -> None:
    with pytest.raises(DataRejected, match=problem):
        idx.parse(data, "x")


def test_idx_labels_missing_or_too_few(tmp_path: Path) -> None:
    write_idx(tmp_path / "set", "train", 5, labels=4)
    assert "5 images, 4 labels" in rejected(tmp_path, "set")
    (tmp_path / "set/train-labels-idx1-ubyte").unlink()
    assert "train-images-idx3-ubyte alone" in rejected(tmp_path, "set")
    assert "name its folder" in rejected(tmp_path, "set/train-images-idx3-ubyte", UsageError)


# Folders of images


def write_image(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    values = np.random.default_rng(sum(path.name.encode())).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(values).save(path, **options)


def png_of(width: int, height: int) -> bytes:
    """A PNG file whose header promises that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_class_folders_become_rows(tmp_path: Path) -> None:
    for name in ("cats/b.png", "cats/a.bmp", "dogs/c.png"):
        write_image(tmp_path / "set" / name)
    write_image(tmp_path / "set/dogs/.hidden.png")
    (tmp_path / "set/dogs/notes.txt").write_text("not an image")
    facts = ingest(tmp_path, "set").facts
    tensor = {"dtype": "uint8", "shape": [4, 6, 3]}
    assert facts["tensors"] == {"image": tensor}
    assert facts["columns"] == {"label": "string", "file": "string", "problem": "string"}
    assert facts["source"] == {"kind": "images", "folder": "set", "files": 3}
    table = written(tmp_path)
    assert table["label"].to_pylist() == ["cats", "cats", "dogs"]
    assert table["file"].to_pylist() == ["cats/a.bmp", "cats/b.png", "dogs/c.png"]
    with Image.open(tmp_path / "set/dogs/c.png") as image:
        np.testing.assert_array_equal(tensors.to_numpy(table["image"], tensor)[2], np.asarray(image))


def test_split_folders_grey_and_scaled(tmp_path: Path) -> None:
    for name in ("train/cats/a.png", "train/dogs/b.png", "val/cats/c.png", "test/dogs/d.png"):
        write_image(tmp_path / "set" / name, (8 + len(name), 9))
    facts = ingest(tmp_path, "set", image_size=[4, 5], channels=1).facts
    assert facts["tensors"] == {"image": {"dtype": "uint8", "shape": [4, 5]}}
    assert written(tmp_path)["split"].to_pylist() == ["test", "train", "train", "validation"]


def test_unusable_files_keep_their_row_and_say_why(tmp_path: Path) -> None:
    folder = tmp_path / "set/cats"
    write_image(folder / "a.png")
    (folder / "b.png").write_bytes(png_of(60_000, 60_000))
    (folder / "c.png").write_bytes(png_of(9_000, 9_000))
    (folder / "d.png").write_bytes((folder / "a.png").read_bytes()[:60])
    (folder / "e.jpg").write_bytes(b"no image")
    (folder / "f.png").write_bytes(b"")
    write_image(folder / "g.png", mode="L")
    Image.fromarray(np.ones((4, 6), np.uint16)).save(folder / "h.png")
    ingest(tmp_path, "set")
    rows = {row["file"].removeprefix("cats/")[0]: row for row in written(tmp_path).to_pylist()}
    assert [name for name, row in rows.items() if row["problem"] is None] == ["a", "g"]
    assert [name for name, row in rows.items() if row["image"] is None] == ["b", "c", "d", "e", "f", "h"]
    assert "bomb" in rows["b"]["problem"]
    assert "9000 x 9000 is too many pixels" in rows["c"]["problem"]
    assert all("cannot" in rows[name]["problem"] or "not an image" in rows[name]["problem"] for name in "def")
    assert "more than 8 bits" in rows["h"]["problem"]
    assert str(tmp_path) not in str(rows)


def test_a_photograph_is_put_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "set/cats/a.png", (6, 4), exif=exif)
    write_image(tmp_path / "set/cats/b.png", (4, 6))
    assert ingest(tmp_path, "set").facts["tensors"]["image"]["shape"] == [6, 4, 3]
    assert written(tmp_path)["image"].null_count == 0


def test_mixed_sizes_and_no_readable_file(tmp_path: Path) -> None:
    write_image(tmp_path / "set/cats/a.png", (6, 4))
    write_image(tmp_path / "set/dogs/b.png", (7, 4))
    write_image(tmp_path / "set/dogs/c.png", (7, 4))
    said = rejected(tmp_path, "set")
    assert "4 x 7 (2), 4 x 6 (1)" in said
    assert "set ingest.image_size" in said
    for path in (tmp_path / "set").rglob("*.png"):
        path.write_bytes(b"")
    assert "none of 3 files" in rejected(tmp_path, "set")


def test_a_label_column_that_is_taken(tmp_path: Path) -> None:
    write_image(tmp_path / "set/cats/a.png")
    assert "choose another base.target" in rejected(tmp_path, "set", UsageError, target="image")


def test_images_are_decoded_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(5):
        write_image(tmp_path / f"set/cats/{index}.png")
    monkeypatch.setattr(stored, "BATCH_BYTES", 2 * 4 * 6 * 3)
    part = images.part(tmp_path / "set", images.files(tmp_path / "set"), "label", None, 3)
    assert [len(batch) for batch in part.read()] == [2, 2, 1]


def test_row_groups_of_large_arrays_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "GROUP_BYTES", 3 * 20)
    np.savez(tmp_path / "set.npz", x=pictures(), y=np.arange(7))
    ingest(tmp_path, "set.npz")
    file = pq.ParquetFile(tmp_path / "artifacts/ingest/rows.parquet")
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [3, 3, 1]


def test_a_folder_of_tables_with_pictures_beside_them_is_one_of_tables(tmp_path: Path) -> None:
    write_image(tmp_path / "set/plots/a.png")
    (tmp_path / "set/rows.csv").write_text("label,x\n0,1\n1,2\n")
    assert ingest(tmp_path, "set").facts["source"]["kind"] == "csv"


# Cards of files


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on the folder ``web``."""
    (tmp_path / "web").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path / "web"))

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def carded(tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two idx files on the web server, and ``source.yaml`` that names them."""
    monkeypatch.setenv(archive.CACHE_VARIABLE, str(tmp_path / "cache"))
    write_idx(tmp_path / "web", "train", 5, packed=True)
    files = {
        path.name: hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
        for path in (tmp_path / "web").iterdir()
    }
    card = {
        "kind": "files", "package": "dataset-tiny", "installed": str(tmp_path / "installed"), "url": web,
        "files": files, "licence": "MIT", "attribution": "nobody", "reader": "idx", "columns": {"image": "a picture"},
    }  # fmt: skip
    (tmp_path / "source.yaml").write_text(json.dumps(card))
    return tmp_path


def test_files_are_fetched_once_and_then_cached(carded: Path) -> None:
    facts = ingest(carded, "source.yaml").facts
    assert facts["rows"] == 5
    assert facts["source"]["kind"] == "files"
    for path in (carded / "web").iterdir():
        path.unlink()
    assert ingest(carded, "source.yaml").facts == facts


def test_installed_files_are_taken_unless_they_are_others(carded: Path, caplog: pytest.LogCaptureFixture) -> None:
    facts = ingest(carded, "source.yaml").facts
    (carded / "cache").rename(carded / "unused")
    (carded / "web").rename(carded / "installed")
    assert ingest(carded, "source.yaml").facts == facts
    write_idx(carded / "installed", "train", 6, packed=True)
    with pytest.raises(MachineError, match="install the system's package dataset-tiny"):
        ingest(carded, "source.yaml")
    assert "looking elsewhere" in caplog.text


def test_a_fetched_file_with_another_content_is_refused(carded: Path) -> None:
    write_idx(carded / "web", "train", 6, packed=True)
    assert "must be the one that its source card names" in rejected(carded, "source.yaml", IntegrityError)
    for path in (carded / "web").iterdir():
        path.write_bytes(b"\x1f\x8b broken")
    assert "must be whole" in rejected(carded, "source.yaml", IntegrityError)


def test_a_damaged_cache_is_fetched_again(carded: Path) -> None:
    facts = ingest(carded, "source.yaml").facts
    for path in archive.cache_folder().glob("*.gz"):
        path.write_bytes(b"damaged")
    assert ingest(carded, "source.yaml").facts == facts


def test_every_mistake_in_a_card_of_files_is_told(carded: Path) -> None:
    card = json.loads((carded / "source.yaml").read_text())
    card |= {"url": "ftp://example.org/", "files": {"../x": "1"}, "reader": "fashion"}
    (carded / "source.yaml").write_text(json.dumps(card))
    said = rejected(carded, "source.yaml", UsageError)
    for key in ("url =", "reader =", "files"):
        assert key in said


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert "single array" in rejected(tmp_path, "x.npz")


def test_labels_of_the_other_byte_order_are_read(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2, 1])
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 3, 3), np.uint8), y=labels.astype(">i4"))
    ingest(tmp_path, "x.npz")
    assert written(tmp_path)["label"].to_pylist() == labels.tolist()
