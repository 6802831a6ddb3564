"""A bundle that was tampered with, in any way that this file can think of, is refused, and what is wrong is named."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from deploy import bundle, golden, signing
from deploy.errors import IntegrityError, UsageError
from deploy.predictor import Predictor

GOLDEN = {f"golden/{case}.{side}.json" for case in ("typical", "single", "odd") for side in ("request", "response")}
NAMES = sorted(bundle.REQUIRED | GOLDEN | {bundle.MANIFEST})


class Signed(NamedTuple):
    """A bundle with a signature beside it, and the keys."""

    folder: Path
    private: Path
    public: Path


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return signing.new_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def _signed(tiny: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    (version,) = (path for path in (tiny / "dist" / "tiny").iterdir() if path.is_dir())
    folder = shutil.copytree(version, tmp_path_factory.mktemp("signed") / version.name)
    signing.sign(folder, keys[0])
    return folder


@pytest.fixture
def signed(_signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> Signed:
    """A copy of one's own."""
    folder = shutil.copytree(_signed, tmp_path / _signed.name)
    shutil.copyfile(signing.signature_path(_signed), signing.signature_path(folder))
    return Signed(folder, *keys)


def refused(signed: Signed) -> str:
    with pytest.raises(IntegrityError) as caught:
        bundle.verify(signed.folder, signed.public)
    assert caught.value.exit_code == 5
    return caught.value.found


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file in place."""
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_what_export_made_passes_with_its_key_and_without_one(signed: Signed) -> None:
    bundle.verify(signed.folder, signed.public)
    bundle.verify(signed.folder, None)
    assert {path.relative_to(signed.folder).as_posix() for path in signed.folder.rglob("*") if path.is_file()} == {
        *NAMES
    }


# Whole files.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [0, -1])
def test_one_byte_of_any_file(signed: Signed, name: str, place: int) -> None:
    flip(signed.folder / name, place)
    found = refused(signed)
    assert f"Hash mismatch for '{name}'" in found, "the signature knows"
    if name != bundle.MANIFEST:
        assert f"{name}: changed" in found, "and so does the manifest"


@pytest.mark.parametrize("name", NAMES)
def test_any_file_removed(signed: Signed, name: str) -> None:
    (signed.folder / name).unlink()
    assert f"{name}: missing" in refused(signed)


@pytest.mark.parametrize(
    "name", ["x", ".gitignore", ".git/config", "golden/x.pkl", "model.onnx.data", "deploy.py", "variants/../x", "a/b/c"]
)
def test_a_file_more(signed: Signed, name: str) -> None:
    path = Path(os.path.normpath(signed.folder / name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    name = path.relative_to(signed.folder).as_posix()
    found = refused(signed)
    assert f"{name}: not in the manifest" in found
    assert f"{name}: no file that a bundle has" in found
    bundle.write_manifest(signed.folder)
    assert f"Extra files found in model '{signed.folder.name}': {name}" in refused(signed)


def test_an_empty_folder_more(signed: Signed) -> None:
    (signed.folder / "cache").mkdir()
    assert refused(signed).endswith("cache: an empty folder")


def test_links_and_pipes_are_not_followed(signed: Signed) -> None:
    elsewhere = shutil.copyfile(signed.folder / "README.md", signed.folder.parent / "elsewhere.md")
    (signed.folder / "README.md").unlink()
    (signed.folder / "README.md").symlink_to(elsewhere)
    (signed.folder / "golden" / "etc").symlink_to("/etc")
    (signed.folder / "metrics.json").unlink()
    os.mkfifo(signed.folder / "metrics.json")
    found = refused(signed)
    for said in ("README.md: a link", "golden/etc: a link", "metrics.json: no plain file"):
        assert said in found


def test_a_file_without_end_is_not_read(signed: Signed) -> None:
    os.truncate(signed.folder / "README.md", 65 << 20)
    assert f"README.md: {65 << 20} bytes" in refused(Signed(signed.folder, signed.private, signed.public))


# Names, keys, signatures.


def test_another_version_s_name(signed: Signed) -> None:
    number, _, content = signed.folder.name.partition("-")
    for name in (f"{int(number) + 1}-{content}", f"{number}-{'0' * 12}", "latest"):
        renamed = signed.folder.rename(signed.folder.with_name(name))
        signing.signature_path(signed.folder).rename(signing.signature_path(renamed))
        signed = signed._replace(folder=renamed)
        assert f"the folder is called {name}, and this is version {number}-{content}" in refused(signed)


def test_a_link_to_a_version_is_no_version(signed: Signed) -> None:
    link = signed.folder.with_name("9-000000000000")
    link.symlink_to(signed.folder)
    with pytest.raises(UsageError, match="is a link"):
        bundle.verify(link, signed.public)


def test_another_key(signed: Signed, tmp_path: Path) -> None:
    _, other = signing.new_keys(tmp_path / "other")
    assert "Key mismatch" in refused(signed._replace(public=other))


def test_a_signature_by_another_key_that_claims_to_be_by_ours(signed: Signed, tmp_path: Path) -> None:
    path = signing.signature_path(signed.folder)
    ours = json.loads(path.read_text())
    private, _ = signing.new_keys(tmp_path / "other")
    signing.sign(signed.folder, private)
    edit(path, lambda theirs: theirs.update(verificationMaterial=ours["verificationMaterial"]))
    assert "not valid for this key (InvalidSignature)" in refused(signed)


def test_no_signature_though_one_is_wanted(signed: Signed) -> None:
    signing.signature_path(signed.folder).unlink()
    assert f"{signed.folder.name}.sig does not exist" in refused(signed)
    bundle.verify(signed.folder, None)


def test_a_link_in_place_of_a_signature(signed: Signed) -> None:
    path = signing.signature_path(signed.folder)
    path.rename(path.with_name("moved"))
    path.symlink_to(path.with_name("moved"))
    assert "is no plain file" in refused(signed)


@pytest.mark.parametrize("content", ["", "{}", "[]", "[" * 100_000, '{"verificationMaterial": {}}', "\x80"])
def test_a_broken_signature(signed: Signed, content: str) -> None:
    signing.signature_path(signed.folder).write_text(content, encoding="latin-1")
    assert "is not of these files" in refused(signed)


def test_every_byte_of_a_signature_counts(signed: Signed) -> None:
    path = signing.signature_path(signed.folder)
    whole = path.read_bytes()
    content = json.loads(whole)
    for part in (content["dsseEnvelope"]["payload"], content["dsseEnvelope"]["signatures"][0]["sig"]):
        at = whole.index(part.encode())
        for place in (at + 5, at + len(part) // 2):
            path.write_bytes(whole[:place] + (b"A" if whole[place : place + 1] != b"A" else b"B") + whole[place + 1 :])
            assert "is not of these files" in refused(signed)


def test_the_signature_of_another_bundle(signed: Signed, tmp_path: Path) -> None:
    other = shutil.copytree(signed.folder, tmp_path / "other" / signed.folder.name)
    (other / "README.md").write_text("another one")
    bundle.write_manifest(other)
    shutil.copyfile(signing.sign(other, signed.private), signing.signature_path(signed.folder))
    assert "Hash mismatch for 'README.md'" in refused(signed)


# Contents, with the manifest made to fit.


def answer_otherwise(folder: Path) -> None:
    edit(folder / "golden" / "typical.response.json", lambda raw: raw["outputs"][0]["data"].__setitem__(0, 0.75))


def test_an_edited_golden_answer_with_its_manifest(signed: Signed) -> None:
    answer_otherwise(signed.folder)
    bundle.write_manifest(signed.folder)
    assert "Hash mismatch for 'golden/typical.response.json'" in refused(signed)
    with pytest.raises(IntegrityError, match="is not named for this content"):
        bundle.verify(signed.folder, None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("../../etc/passwd", "'{}../../etc/passwd'"),
        ("/etc/passwd", "'{}/etc/passwd'"),
        ("golden/../../x", "'{}golden/../../x'"),
        ("golden/./x", "golden/./x: missing"),
    ],
)
def test_a_path_out_of_the_bundle_in_the_manifest(signed: Signed, line: str, said: str) -> None:
    with (signed.folder / bundle.MANIFEST).open("a") as file:
        file.write(f"{'0' * 64}  {line}\n")
    assert said.format("0" * 64 + "  ") in refused(signed)


def test_an_archive_is_no_bundle_and_nothing_is_unpacked(signed: Signed, tmp_path: Path) -> None:
    archives = [tmp_path / "1-a.zip", tmp_path / "1-a.tar"]
    with zipfile.ZipFile(archives[0], "w") as file:
        file.writestr("../escaped", "x")
        file.writestr(bundle.MANIFEST, "x")
    with tarfile.open(archives[1], "w") as file:
        file.add(signed.folder / "README.md", "../escaped")
    before = sorted(path.name for path in tmp_path.parent.iterdir()), sorted(path.name for path in tmp_path.iterdir())
    for path in archives:
        with pytest.raises(UsageError, match="is a file"):
            bundle.verify(path, signed.public)
    assert before == (
        sorted(path.name for path in tmp_path.parent.iterdir()),
        sorted(path.name for path in tmp_path.iterdir()),
    )


def consistent(folder: Path) -> Path:
    """Do what an attacker without the key could: make manifest, provenance and name fit the files."""
    content = bundle.digest(bundle.hashes(folder))
    version = f"1-{content[:12]}"
    edit(folder / "provenance.json", lambda raw: raw.update(digest=content, version=version))
    bundle.write_manifest(folder)
    return folder.rename(folder.with_name(version))


def replace_model(folder: Path, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)


def zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.onnx", "w") as file:
        file.writestr("data.pkl", pickle.dumps([1]))


def request(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "golden" / "typical.request.json", change)


def response(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "golden" / "typical.response.json", lambda raw: change(raw["outputs"][0]))


DISAGREEMENTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (lambda folder: replace_model(folder, pickle.dumps({"a": 1})), "model.onnx: a pickle"),
    "a zip": (zipped, "model.onnx: a zip archive"),
    "a text": (lambda folder: replace_model(folder, b"hello"), "model.onnx: no ONNX file"),
    "an empty model": (lambda folder: replace_model(folder, b""), "model.onnx: no ONNX file"),
    "weights elsewhere": (
        lambda folder: replace_model(folder, b"\x08\x0a" + b"\x0a\x08location\x12\x0b/etc/passwd"),
        "model.onnx: its weights lie outside it",
    ),
    "another model": (lambda folder: replace_model(folder, b"\x08\x0a"), "it is about another model.onnx"),
    "no accept": (
        lambda folder: edit(folder / "verdict.json", lambda raw: raw.update(verdict="REGRESSION")),
        "verdict.json: REGRESSION, of a model that is shipped",
    ),
    "better intervals": (
        lambda folder: edit(folder / "metrics.json", lambda raw: raw["intervals"][0].update(bound=0.0)),
        "metrics.json: other intervals",
    ),
    "no JSON": (lambda folder: (folder / "metrics.json").write_text("{"), "metrics.json: no JSON"),
    "no number": (
        lambda folder: (folder / "metrics.json").write_text('{"metrics": NaN}'), "metrics.json: no JSON: it holds NaN",
    ),
    "a key twice": (
        lambda folder: (folder / "metrics.json").write_text('{"a": 1, "a": 2}'),
        "metrics.json: no JSON: it holds a key twice",
    ),
    "a card of bytes": (lambda folder: (folder / "README.md").write_bytes(b"\xff\xfe"), "README.md: no text"),
    "another input": (
        lambda folder: edit(folder / "signature.json", lambda raw: raw["inputs"][0].update(name="other")),
        "typical.request.json: other inputs",
    ),
    "an input less": (request(lambda raw: raw["inputs"].pop()), "typical.request.json: other inputs"),
    "another shape": (
        request(lambda raw: raw["inputs"][0].update(shape=[1, 5])), "rows, in one case",
    ),
    "another type": (request(lambda raw: raw["inputs"][0].update(datatype="FP64")), "is no tensor of signature.json"),
    "a word for a number": (
        request(lambda raw: raw["inputs"][0]["data"].__setitem__(0, "far")), "'far' is no FP32",
    ),
    "an infinite tolerance": (
        response(lambda raw: raw["parameters"]["absolute_tolerance"].update(CPUExecutionProvider=1e999)), "no JSON",
    ),
    "no tolerance": (response(lambda raw: raw.pop("parameters")), "have a tolerance"),
    "an answer of another output": (response(lambda raw: raw.update(name="x")), "x is no tensor of signature.json"),
    "no golden case": (
        lambda folder: [path.unlink() for path in (folder / "golden").iterdir()], "no golden/*.request.json",
    ),
    "a variant that nobody judged": (
        lambda folder: shutil.copytree(folder, folder / "variants" / "x",
                                       ignore=lambda _, names: {*names} - {"model.onnx", "signature.json"}),
        "variants/x/model.onnx: a variant without variants.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_files_that_do_not_agree_are_named_even_if_every_hash_fits(signed: Signed, name: str) -> None:
    damage, said = DISAGREEMENTS[name]
    damage(signed.folder)
    folder = consistent(signed.folder)
    with pytest.raises(IntegrityError) as caught:
        bundle.verify(folder, None)
    assert said in caught.value.found
    assert "changed" not in caught.value.found


def test_everything_wrong_is_told_at_once(signed: Signed) -> None:
    flip(signed.folder / "model.onnx", -1)
    (signed.folder / "x").touch()
    (signed.folder / "metrics.json").unlink()
    signing.signature_path(signed.folder).unlink()
    found = refused(signed)
    for said in (".sig does not exist", "metrics.json: missing", "x: not in the manifest", "model.onnx: changed",
                 "about another model.onnx"):  # fmt: skip
        assert said in found


# Keys.


def test_keys_are_never_overwritten_and_the_private_one_is_private(tmp_path: Path) -> None:
    private, public = signing.new_keys(tmp_path / "new")
    assert private.stat().st_mode & 0o777 == 0o600
    assert "BEGIN PUBLIC KEY" in public.read_text()
    private.unlink()
    with pytest.raises(UsageError, match="never overwritten"):
        signing.new_keys(tmp_path / "new")


def test_a_key_with_a_password(signed: Signed, tmp_path: Path) -> None:
    private, public = signing.new_keys(tmp_path / "secret", b"open sesame")
    assert "ENCRYPTED" in private.read_text()
    for password, said in ((None, "not given"), (b"guess", "Incorrect password")):
        with pytest.raises(UsageError, match=said):
            signing.sign(signed.folder, private, password)
    bundle.verify(signed.folder, signed.public)
    signing.sign(signed.folder, private, b"open sesame")
    bundle.verify(signed.folder, public)


def on_an_unknown_curve(pem: str) -> str:
    """A key that says that it is on the curve prime239v2 instead of P-256."""
    head, body, foot = re.split(r"(?<=-----)\n|\n(?=-----END)", pem.strip())
    p256, other = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030105")
    return "\n".join([head, base64.b64encode(base64.b64decode(body).replace(p256, other)).decode(), foot, ""])


def test_a_private_key_on_a_curve_that_nobody_knows(signed: Signed, tmp_path: Path) -> None:
    private, _ = signing.new_keys(tmp_path / "other")
    private.write_text(on_an_unknown_curve(private.read_text()))
    with pytest.raises(UsageError, match="an elliptic-curve key"):
        signing.sign(signed.folder, private)


def test_no_wrong_password_is_taken_for_a_broken_key(tmp_path: Path) -> None:
    private, _ = signing.new_keys(tmp_path, b"open sesame")
    for guess in range(1_000):
        with pytest.raises(UsageError, match="Incorrect password"):
            signing.KeySigner(private, str(guess).encode())


@pytest.mark.parametrize("key", ["nowhere", "text", "private", "rsa", "curve"])
def test_what_is_no_public_key_is_a_matter_of_use(signed: Signed, tmp_path: Path, key: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    path = {"private": signed.private}.get(key, tmp_path / key)
    if key == "text":
        path.write_text("no key")
    if key == "rsa":
        other = rsa.generate_private_key(65537, 2048).public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        path.write_bytes(other.public_bytes(serialization.Encoding.PEM, form))
    if key == "curve":
        path.write_text(on_an_unknown_curve(signed.public.read_text()))
    with pytest.raises(UsageError, match="an elliptic-curve key"):
        bundle.verify(signed.folder, path)


def test_signing_that_fails_leaves_the_signature_that_was_there(signed: Signed) -> None:
    before = signing.signature_path(signed.folder).read_bytes()
    (signed.folder / "x").symlink_to("README.md")
    with pytest.raises(IntegrityError, match="only plain files"):
        signing.sign(signed.folder, signed.private)
    (signed.folder / "x").unlink()

    class Interrupted:
        def sign(self, folder: Path, signature: Path) -> None:
            signature.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        signing.sign_with(Interrupted(), signed.folder)
    assert signing.signature_path(signed.folder).read_bytes() == before
    assert not list(signed.folder.parent.glob(".*"))


def test_the_library_s_own_command_line_knows_the_signature(signed: Signed) -> None:
    """Whoever gets a bundle can check it without Assay."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed.folder), "--signature",
               str(signing.signature_path(signed.folder)), "--public_key", str(signed.public)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Golden cases.


def test_golden_cases_are_answered_as_they_say(signed: Signed) -> None:
    predictor = Predictor.load(signed.folder, "cpu")
    for case in golden.read(signed.folder):
        outputs = predictor.predict(case.columns)
        assert case.differences(outputs, predictor.provider) == []
        off = {name: array + np.float32(0.1) for name, array in outputs.items()}
        assert "off by 0.1" in case.differences(off, predictor.provider)[0]


SCORES = np.array([[3.0, 2.0, 2.0 - 1e-5, 1.0]])


@pytest.mark.parametrize(
    ("items", "scores", "differences"),
    [
        ([["a", "b", "c", "d"]], SCORES, 0),
        ([["a", "c", "b", "d"]], SCORES, 0),
        ([["a", "b", "c", "e"]], SCORES, 0),
        ([["b", "a", "c", "d"]], SCORES, 1),
        ([["a", "b", "c", "d"]], SCORES + 1, 1),
        ([["a", "b", "c", "d"]], SCORES * np.nan, 1),
        ([["a", "b", "c"]], SCORES, 1),
    ],
)
def test_an_order_may_differ_where_the_scores_are_as_good_as_equal(items: Any, scores: Any, differences: int) -> None:
    answers = {
        "items": golden.Answer(np.array([["a", "b", "c", "d"]], object), {}, "scores"),
        "scores": golden.Answer(SCORES, {"cpu": 1e-4}),
    }
    case = golden.Case("x", {}, {}, answers)
    assert len(case.differences({"items": np.array(items, object), "scores": scores}, "cpu")) == differences
