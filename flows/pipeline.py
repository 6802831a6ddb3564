"""Which DVC pipeline belongs to a params file, and where its results lie.

``params.yaml`` is served by the ``dvc.yaml`` beside it. Any other params file ``x.yaml`` has its own pipeline in the
folder ``x/`` beside it, written from the project's own ``dvc.yaml`` (see :mod:`flows.template`) and committed by the
user, so that plain ``dvc repro x/dvc.yaml`` works as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from flows import template
from tasks.core import files
from tasks.core.errors import UsageError
from tasks.core.sections import read_yaml
from tasks.core.settings import STAGES, Params, load

PROJECT_FILE = "dvc.yaml"

_MARK = "# Written by `assay run` from Assay's own dvc.yaml; it is written anew when the two disagree. Commit it.\n"
_BESIDE_OUTPUTS = ("/logs", "/runs", "/scratch", "/rejected", "/promotions", "/monitor", "/.*", "!/.gitignore")


@dataclass(frozen=True)
class Pipeline:
    """A params file and the DVC pipeline that runs it.

    Attributes:
        params: the params file, absolute.
        settings: its checked content.
        repo: root folder of the DVC repository.
        dvc_yaml: the pipeline's file, absolute.
    """

    params: Path
    settings: Params
    repo: Path
    dvc_yaml: Path

    @property
    def root(self) -> Path:
        """Folder that relative paths in the settings start from."""
        return self.params.parent

    @property
    def artifacts(self) -> Path:
        """Folder of all stages' outputs."""
        return self.root / self.settings.base.artifacts_dir

    @property
    def dist(self) -> Path:
        """Folder of this model's finished bundles."""
        return self.root / self.settings.base.dist_dir / self.settings.base.name


def inspect(params: Path) -> Pipeline:
    """Check a params file and its surroundings; change nothing.

    Raises:
        SettingsError: every mistake of the params file.
        UsageError: no Git or DVC repository, a key that DVC needs and does not find, an artifacts folder that DVC
            cannot track, or a foreign ``dvc.yaml``.
    """
    params = params.absolute()
    settings = load(params)
    repo = _dvc_repository(params.parent)
    _check_what_dvc_reads(params, settings)
    _check_artifacts_dir(params, settings, repo)
    dvc_yaml = _home(params)
    if dvc_yaml.is_file() and not _is_ours(dvc_yaml):
        _check_foreign(dvc_yaml, params, _model_files(params, settings))
    return Pipeline(params, settings, repo, dvc_yaml)


def prepare(params: Path) -> Pipeline:
    """:func:`inspect` a params file, and see to it that its pipeline exists and is in step with the template."""
    pipeline = inspect(params)
    dvc_yaml = pipeline.dvc_yaml
    with files.machine_errors(pipeline.artifacts):
        _keep_out_of_git(pipeline.artifacts)
    if dvc_yaml.is_file() and not _is_ours(dvc_yaml):
        return pipeline
    text = _MARK + template.text(pipeline.params, dvc_yaml, _model_files(pipeline.params, pipeline.settings))
    if not dvc_yaml.is_file() or dvc_yaml.read_text(encoding="utf-8") != text:
        with files.machine_errors(dvc_yaml.parent):
            dvc_yaml.parent.mkdir(exist_ok=True)
            files.write_text(dvc_yaml, text)
    return pipeline


def _keep_out_of_git(artifacts: Path) -> None:
    """Have Git ignore what lies beside the stages' outputs (DVC sees to the outputs themselves)."""
    artifacts.mkdir(parents=True, exist_ok=True)
    path = artifacts / ".gitignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if missing := [line for line in _BESIDE_OUTPUTS if line not in lines]:
        files.write_text(path, "\n".join([*lines, *missing, ""]))


def _dvc_repository(folder: Path) -> Path:
    for parent in (folder, *folder.parents):
        if (parent / ".dvc").is_dir():
            break
    else:
        raise UsageError(
            "a run is versioned by DVC, so its params file lies in a DVC repository",
            f"no .dvc folder in {folder} or above it",
            "run `git init` and `dvc init` in your project's folder, or work in a clone",
        )
    if not any((above / ".git").exists() for above in (parent, *parent.parents)):
        raise UsageError(
            "a bundle names the commit it was made from, so a run needs a Git repository",
            f"{parent} is not in one",
            f"run `git init` in {parent} and commit your files",
        )
    return parent


def _check_what_dvc_reads(params: Path, settings: Params) -> None:
    """DVC knows no defaults: what dvc.yaml names must stand in the file."""
    absent = [f"`{stage}: {{}}`" for stage in STAGES if stage not in _given(settings)]
    if "artifacts_dir" not in settings.base.model_fields_set:
        folder = settings.base.artifacts_dir
        absent.append(f"`artifacts_dir: {folder if params.name == 'params.yaml' else f'{folder}/{params.stem}'}`")
    if absent:
        raise UsageError(
            "every stage's section and base.artifacts_dir must stand in the params file, because dvc.yaml reads them",
            f"{params} lacks {len(absent)} of them",
            f"add {', '.join(absent)}",
        )
    if any(letter in settings.ingest.source for letter in "*?["):
        raise UsageError(
            "DVC watches a file or a folder, not a glob",
            f"{params}: ingest.source is {settings.ingest.source}",
            "name the folder in ingest.source, and the glob in ingest.pattern",
        )
    if dates := _dates(read_yaml(params, "a params file", "name one with --params FILE")):
        raise UsageError(
            "DVC takes no bare dates in a params file",
            f"{params}: {', '.join(dates)}",
            "put them between quotation marks",
        )


def _dates(node: Any) -> list[str]:
    """The dates in parsed YAML, as text."""
    if isinstance(node, dict):
        return [found for value in node.values() for found in _dates(value)]
    if isinstance(node, list):
        return [found for value in node for found in _dates(value)]
    return [node.isoformat()] if isinstance(node, date) else []


def _given(settings: Params) -> set[str]:
    return {Params.model_fields[name].alias or name for name in settings.model_fields_set}


def _check_artifacts_dir(params: Path, settings: Params, repo: Path) -> None:
    given = settings.base.artifacts_dir
    inside = (params.parent / given).resolve().is_relative_to(repo.resolve())
    if Path(given).is_absolute() or not inside:
        raise UsageError(
            "base.artifacts_dir must be a relative path inside the DVC repository",
            f"{given} (the repository is {repo})",
            "choose a folder inside; to use another disk, mount or link it there",
        )


def _home(params: Path) -> Path:
    if params.name == "params.yaml":
        return params.with_name(PROJECT_FILE)
    folder = params.with_suffix("")
    if (folder / "params.yaml").exists():
        raise UsageError(
            f"the folder {folder.name}/ is the pipeline of {params.name}",
            f"{folder / 'params.yaml'} would share it",
            f"rename {params.name}",
        )
    return folder / PROJECT_FILE


def _is_ours(dvc_yaml: Path) -> bool:
    return dvc_yaml.read_bytes().startswith(_MARK.encode())


def _model_files(params: Path, settings: Params) -> list[str]:
    """What `tune` reads of a user's model or earlier search, relative to the params file's folder.

    Raises:
        UsageError: if it is not there.
        IntegrityError: if it is no ONNX file.
    """
    given = settings.tune.start_from
    if given is None:
        return [settings.tune.warm_start] if settings.tune.warm_start else []
    path = params.parent / given
    if not path.is_file():
        raise UsageError("tune.start_from must name a file", f"{path} does not exist", "correct the path")
    if path.suffix != ".onnx":
        return [given]
    from tasks.core.brought import door

    return [given, *((Path(given).parent / name).as_posix() for name in door.external_files(door.read(path)))]


def _check_foreign(dvc_yaml: Path, params: Path, model_files: Sequence[str]) -> None:
    """A hand-written pipeline is used as it is, if it is one for ``params.yaml``, whole, and watches the model."""
    stages = (read_yaml(dvc_yaml, "a pipeline", "write one") or {}).get("stages") or {}
    missing = [stage for stage in STAGES if stage not in stages]
    if params.name != "params.yaml" or missing:
        raise UsageError(
            f"{dvc_yaml} is where the pipeline of {params.name} belongs",
            "another pipeline is there" + (f", without {', '.join(missing)}" if missing else ""),
            f"rename {params.name} (not to params.yaml), or move that pipeline",
        )
    given = next(iter(model_files), "")
    deps = {
        str(dep).replace("${tune.start_from}", given).replace("${tune.warm_start}", given)
        for dep in stages["tune"].get("deps", [])
    }
    if unwatched := [name for name in model_files if name not in deps]:
        lines = ", ".join(f"`- {name}`" for name in unwatched)
        raise UsageError(
            "DVC must watch the model of tune.start_from, or the search of tune.warm_start: when it changes, `tune` "
            "must run again",
            f"{dvc_yaml} is written by hand, and its stage tune does not depend on {', '.join(unwatched)}",
            f"add {lines} to the deps of tune there; or keep these settings in another params file, such as "
            "brought.yaml, whose pipeline is written for you",
        )
