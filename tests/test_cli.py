"""The command line: what it says, where it says it, and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_pipeline
import numpy as np
import pytest

import flows.session
from deploy import bundle
from flows import cli, doctor
from tasks.core.errors import MachineError, NotProven


def assay(monkeypatch, *arguments: str) -> int:
    """Run the command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["assay", *arguments])
    for name in cli._NO_TELEMETRY:
        monkeypatch.setenv(name, cli._NO_TELEMETRY[name])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def conducted(done_project, monkeypatch):
    """A finished project, and a flow that pretends to have found it up to date."""
    monkeypatch.chdir(done_project)
    monkeypatch.setattr(flows.session, "conduct", lambda *_: {"ingest": "unchanged"})
    return done_project


def test_help_names_every_command(monkeypatch, capsys):
    assert assay(monkeypatch, "--help") == 0
    told = capsys.readouterr().out
    assert all(command in told for command in ("run", "predict", "doctor"))
    assert assay(monkeypatch, "run", "--help") == 0
    told = capsys.readouterr().out
    assert all(option in told for option in ("--params", "--force", "--retries"))


def test_help_loads_nothing_heavy():
    code = "import sys, flows.cli; print(*{'prefect', 'dvc', 'torch', 'pandas', 'onnxruntime'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""


class TestRun:
    def test_nothing_to_do(self, conducted, monkeypatch, capsys):
        assert assay(monkeypatch, "run") == 0
        told = capsys.readouterr().out
        assert "shipped (int8)" in told
        assert "verdict: ACCEPT: as good" in told
        assert "All stages are up to date." in told

    def test_from_another_folder(self, conducted, monkeypatch, capsys, tmp_path):
        monkeypatch.chdir(tmp_path)
        assert assay(monkeypatch, "run", "--params", str(conducted / "params.yaml")) == 0
        (folder,) = (conducted / "dist" / "tiny").iterdir()
        assert f"bundle:  project/dist/tiny/{folder.name}" in capsys.readouterr().out

    def test_a_refusal_shows_the_candidate_and_keeps_its_exit_code(self, conducted, monkeypatch, capsys):
        report = conducted / "artifacts" / "rejected" / "verify" / "verdict.json"
        line = {"metric": "auc", "original": 0.8, "original_interval": [0.7, 0.9], "shipped": None,
                "shipped_interval": [None, None], "variant": "cpu"}  # fmt: skip

        def refuse(*_):
            report.parent.mkdir(parents=True)
            verdict = {"verdict": "INCONCLUSIVE", "reason": "about 9000 rows would decide", "lines": [line]}
            report.write_text(json.dumps(verdict))
            raise NotProven("stage verify must end well", "exit code 4", "read its log")

        monkeypatch.setattr(flows.session, "conduct", refuse)
        assert assay(monkeypatch, "run") == 4
        told = capsys.readouterr()
        assert "candidate (int8)" in told.out
        assert "verdict: INCONCLUSIVE: about 9000 rows would decide" in told.out
        assert "bundle:  none" in told.out
        assert told.err == "stage verify must end well\n  found:   exit code 4\n  way out: read its log\n"

    def test_an_old_refusal_is_not_shown_for_another_stages(self, conducted, monkeypatch, capsys):
        def refuse(*_):
            raise NotProven("stage tune must end well", "exit code 4", "read its log")

        report = conducted / "artifacts" / "rejected" / "verify" / "verdict.json"
        report.parent.mkdir(parents=True)
        report.write_text(json.dumps({"verdict": "REGRESSION", "reason": "old", "lines": []}))
        os.utime(report, (0, 0))
        monkeypatch.setattr(flows.session, "conduct", refuse)
        assert assay(monkeypatch, "run") == 4
        assert capsys.readouterr().out == ""

    def test_interrupted(self, conducted, monkeypatch, capsys):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(flows.session, "conduct", interrupt)
        assert assay(monkeypatch, "run") == 130
        assert capsys.readouterr().err == "interrupted; the previous artifacts are untouched\n"

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["--params", "nowhere.yaml"], "nowhere.yaml does not"),
            (["--force", "tuna"], "choose one of ingest, validate"),
            (["--retries", "-1"], "--retries"),
        ],
    )
    def test_wrong_use(self, conducted, monkeypatch, capsys, arguments, told):
        assert assay(monkeypatch, "run", *arguments) == 2
        found = capsys.readouterr().err
        assert told in found
        assert "Traceback" not in found

    def test_every_mistake_of_the_params_file_at_once(self, conducted, monkeypatch, capsys):
        text = fake_pipeline.PARAMS.replace("trials: 2", "trails: 2").replace("target: late", "target: 7")
        (conducted / "params.yaml").write_text(text)
        assert assay(monkeypatch, "run") == 2
        told = capsys.readouterr().err
        assert "2 mistakes" in told
        assert "did you mean `trials`" in told

    def test_no_repository(self, monkeypatch, capsys, tmp_path):
        (tmp_path / "params.yaml").write_text(fake_pipeline.PARAMS)
        monkeypatch.chdir(tmp_path)
        assert assay(monkeypatch, "run") == 2
        assert "`git init` and `dvc init`" in capsys.readouterr().err

    def test_a_bug_is_one_line_and_a_traceback_kept(self, conducted, monkeypatch, capsys, tmp_path):
        def stumble(*_):
            raise ZeroDivisionError("division by zero")

        monkeypatch.setattr(flows.session, "conduct", stumble)
        monkeypatch.setattr("platformdirs.user_log_dir", lambda *_, **__: str(tmp_path / "logs"))
        assert assay(monkeypatch, "run") == 1
        told = capsys.readouterr().err
        assert told.startswith("a bug: ZeroDivisionError: division by zero\n")
        (kept,) = (tmp_path / "logs").iterdir()
        assert str(kept) in told
        assert "in stumble" in kept.read_text()

        monkeypatch.setenv("ASSAY_DEBUG", "1")
        assert assay(monkeypatch, "run") == 1
        assert "in stumble" in capsys.readouterr().err


@pytest.fixture
def doubler(tmp_path) -> Path:
    """A bundle whose model doubles the column `x`."""
    import onnx

    shape = ["rows", 1]
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "twice")]
    node = onnx.helper.make_node("Add", ["x", "x"], ["twice"])
    graph = onnx.helper.make_graph([node], "doubler", tensors[:1], tensors[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    folder = tmp_path / "doubler"
    folder.mkdir()
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), folder / "model.onnx")
    sides = {side: [{"name": name, "datatype": "FP32", "shape": [-1, 1]}] for side, name in
             (("inputs", "x"), ("outputs", "twice"))}  # fmt: skip
    (folder / "signature.json").write_text(json.dumps(sides))
    bundle.write_manifest(folder)
    return folder


class TestPredict:
    @pytest.fixture
    def rows(self, tmp_path) -> Path:
        path = tmp_path / "rows.csv"
        path.write_text("name,x\na,1.5\nb,-2\n")
        return path

    def test_to_standard_output(self, doubler, rows, monkeypatch, capsys):
        assert assay(monkeypatch, "predict", str(doubler), str(rows)) == 0
        assert capsys.readouterr().out == "twice\n3.0\n-4.0\n"

    def test_to_a_file(self, doubler, rows, monkeypatch, tmp_path):
        out = tmp_path / "out.csv"
        assert assay(monkeypatch, "predict", str(doubler), str(rows), "--out", str(out)) == 0
        assert np.loadtxt(out, skiprows=1).tolist() == [3.0, -4.0]

    def test_each_mistake_has_its_exit_code(self, doubler, rows, monkeypatch, capsys, tmp_path):
        (tmp_path / "other.csv").write_text("y\n1\n")
        assert assay(monkeypatch, "predict", str(doubler), str(tmp_path / "other.csv")) == 3
        assert assay(monkeypatch, "predict", str(doubler), str(tmp_path / "nowhere.csv")) == 2
        assert assay(monkeypatch, "predict", str(doubler), str(rows), "--out", str(tmp_path / "no" / "out.csv")) == 2
        with (doubler / "model.onnx").open("ab") as file:
            file.write(b"x")
        assert assay(monkeypatch, "predict", str(doubler), str(rows)) == 5
        assert "Traceback" not in capsys.readouterr().err


class TestSigning:
    @pytest.fixture(autouse=True)
    def _no_key(self, monkeypatch):
        for name in ("ASSAY_SIGNING_KEY", "ASSAY_SIGNING_PASSWORD"):
            monkeypatch.delenv(name, raising=False)

    @pytest.fixture
    def made(self, world) -> Path:
        return next(path for path in (world / "dist" / "tiny").iterdir() if path.is_dir())

    def test_from_a_new_key_to_a_signature_that_holds(self, made, monkeypatch, capsys, tmp_path):
        monkeypatch.setenv("ASSAY_SIGNING_PASSWORD", "open sesame")
        assert assay(monkeypatch, "keys", "new", str(tmp_path / "keys")) == 0
        assert "private, encrypted" in capsys.readouterr().out
        private, public = tmp_path / "keys" / "assay.key", tmp_path / "keys" / "assay.pub"
        assert assay(monkeypatch, "verify-bundle", str(made), "--key", str(public)) == 5
        assert f"{made.name}.sig does not exist" in capsys.readouterr().err
        assert assay(monkeypatch, "sign", str(made), "--key", str(private)) == 0
        assert capsys.readouterr().out == f"{made}.sig\n"
        assert assay(monkeypatch, "verify-bundle", str(made), "--key", str(public)) == 0
        assert "signed with the other half" in capsys.readouterr().out
        assert assay(monkeypatch, "keys", "new", str(tmp_path / "keys")) == 2

    def test_without_a_key_nothing_is_proven_of_its_maker(self, made, monkeypatch, capsys):
        assert assay(monkeypatch, "verify-bundle", str(made)) == 0
        assert "warning: nothing was proven about who made it" in capsys.readouterr().err
        (made / "README.md").write_text("better than ever")
        assert assay(monkeypatch, "verify-bundle", str(made)) == 5
        told = capsys.readouterr()
        assert "README.md: changed" in told.err
        assert told.out == ""

    def test_a_damaged_bundle_is_not_signed(self, made, monkeypatch, capsys, tmp_path):
        assay(monkeypatch, "keys", "new", str(tmp_path))
        (made / "README.md").write_text("better than ever")
        monkeypatch.setenv("ASSAY_SIGNING_KEY", str(tmp_path / "assay.key"))
        assert assay(monkeypatch, "sign", str(made)) == 5
        assert not list(made.parent.glob("*.sig"))

    def test_wrong_use(self, made, monkeypatch, capsys, tmp_path):
        assert assay(monkeypatch, "sign", str(made)) == 2
        assert assay(monkeypatch, "sign", str(made), "--key", str(tmp_path / "nowhere")) == 2
        assert assay(monkeypatch, "verify-bundle", str(tmp_path / "nowhere")) == 2
        assert "Traceback" not in capsys.readouterr().err

    def test_a_summary_says_that_a_bundle_is_not_signed(self, conducted, monkeypatch, capsys):
        assert assay(monkeypatch, "run") == 0
        assert "unsigned: nothing proves who made it (`assay sign dist/tiny/1-" in capsys.readouterr().out
        (folder,) = (conducted / "dist" / "tiny").iterdir()
        folder.with_name(f"{folder.name}.sig").touch()
        assert assay(monkeypatch, "run") == 0
        assert "unsigned" not in capsys.readouterr().out


class TestDoctor:
    @pytest.fixture(autouse=True)
    def _no_server(self, monkeypatch):
        monkeypatch.delenv("PREFECT_API_URL", raising=False)

    def test_a_machine_that_has_everything(self, done_project, monkeypatch, capsys):
        assert assay(monkeypatch, "doctor", "--params", str(done_project / "params.yaml")) == 0
        told = capsys.readouterr().out
        for what in (
            "Python",
            "packages",
            "git",
            "project",
            "onnxruntime",
            "CUDA",
            "disk",
            "memory",
            "threads",
            "Prefect",
        ):
            assert what in told

    def test_what_is_missing_is_named_with_the_way_out(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "params.yaml").write_text(fake_pipeline.PARAMS)
        monkeypatch.setattr(doctor, "_installed", lambda name: {"optuna": "3.1"}.get(name, "5.0.0"))
        monkeypatch.setenv("PATH", "")
        with pytest.raises(MachineError) as caught:
            doctor.examine(tmp_path / "params.yaml")
        assert caught.value.exit_code == 2
        assert caught.value.found == "packages, git, project"
        told = capsys.readouterr().out
        assert "optuna" in told
        assert "install Git" in told

    def test_a_server_that_does_not_answer(self, done_project):
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
            assert doctor._prefect().grade == "fail"


def test_serve_says_what_it_needs(monkeypatch, capsys, tmp_path):
    (tmp_path / "MANIFEST.sha256").touch()
    assert assay(monkeypatch, "serve", str(tmp_path)) == 2
    assert "--key, or served --unsigned" in capsys.readouterr().err
    stage = ("serve", "tiny@prod", "--store", str(tmp_path), "--unsigned", "--port", "0")
    assert assay(monkeypatch, *stage) == 2
    assert "assay promote tiny VERSION --to prod" in capsys.readouterr().err
