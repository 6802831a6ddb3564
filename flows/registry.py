"""Git tags of the registry (GTO) for what was promoted, so that ``dvc artifacts get . NAME --stage prod`` fetches it.

A bundle ``<number>-<digest>`` is version ``v<number>.0.0`` of the artifact that ``dvc.yaml`` declares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.pipeline import Pipeline
from tasks.core.errors import UsageError


def version_of(bundle: str) -> str:
    """A bundle's version as a semantic one."""
    return f"v{bundle.partition('-')[0]}.0.0"


def artifact(pipeline: Pipeline) -> str:
    """Name of the model's artifact: with the folder of its ``dvc.yaml``, if that is not the repository's own.

    GTO would tag a version of a ``dvc.yaml`` that does not parse, so this is asked before anything is promoted.

    Raises:
        UsageError: if ``dvc.yaml`` does not parse, or does not declare the output of `export` as the artifact.
    """
    from dvc.repo import Repo

    name = pipeline.settings.base.name
    with _told(pipeline), Repo(str(pipeline.repo)) as repo:
        declared = repo.artifacts.read()
        root = Path(repo.scm.root_dir)
    file = pipeline.dvc_yaml
    found = declared.get(str(file.relative_to(pipeline.repo)), {}).get(name)
    wanted = pipeline.artifacts / "export"
    if found is None or (file.parent / found.path).resolve() != wanted.resolve():
        raise UsageError(
            f"dvc.yaml declares the output of `export` as the artifact {name}",
            f"{file}: {'it is not there' if found is None else f'its path is {found.path}'}",
            "take the section `artifacts` from Assay's own dvc.yaml",
        )
    folder = file.parent.resolve().relative_to(root.resolve()).as_posix()
    return name if folder == "." else f"{folder}:{name}"


def is_registered(pipeline: Pipeline, name: str, bundle: str) -> bool:
    """Whether a bundle's version was tagged before."""
    from gto import api
    from gto.exceptions import ArtifactNotFound

    with _told(pipeline):
        try:
            return version_of(bundle) in {one["version"] for one in api.show(str(pipeline.repo), name)}
        except ArtifactNotFound:  # the first tag makes it
            return False


def other_at_commit(pipeline: Pipeline, name: str, bundle: str, commit: str) -> str | None:
    """The version, another one than the bundle's, that stands for a commit already; GTO allows a commit only one."""
    from gto.exceptions import ArtifactNotFound
    from gto.registry import GitRegistry

    with _told(pipeline), GitRegistry.from_url(str(pipeline.repo)) as registry:
        try:
            versions = registry.find_artifact(name).versions
        except ArtifactNotFound:  # the first tag makes it
            return None
        there = {one.version for one in versions if one.commit_hexsha == commit and one.is_registered and one.is_active}
    return min(there - {version_of(bundle)}, default=None)


def register(pipeline: Pipeline, name: str, bundle: str, commit: str) -> str:
    """Register the bundle's version at a commit, unless it is registered; return the version. See :func:`tag`."""
    from gto import api

    version = version_of(bundle)
    with _told(pipeline):
        if not is_registered(pipeline, name, bundle):
            message = f"{pipeline.settings.base.name} {bundle}"
            api.register(str(pipeline.repo), name, commit, version, message=message)
    return version


def tag(pipeline: Pipeline, name: str, bundle: str, stage: str, commit: str) -> str:
    """Register the bundle's version at a commit, unless it is registered, and give it the stage.

    Args:
        pipeline: of the model.
        name: see :func:`artifact`.
        bundle: its version.
        stage: that it serves at now.
        commit: whose ``dvc.lock`` names the bundle's output of `export`.

    Returns:
        The version.

    Raises:
        UsageError: if Git or GTO refuse.
    """
    from gto import api

    version, repo = register(pipeline, name, bundle, commit), str(pipeline.repo)
    with _told(pipeline):
        serves = api.find_versions_in_stage(repo, name, stage) or []
        if version not in {one.version for one in serves[:1]}:
            api.assign(repo, name, stage, version=version, force=True)  # it may have been there before
    return version


@contextmanager
def _told(pipeline: Pipeline) -> Iterator[None]:
    from dvc.exceptions import DvcException
    from gto.exceptions import GTOException
    from scmrepo.exceptions import SCMError

    try:
        yield
    except (DvcException, GTOException, SCMError) as error:
        raise UsageError(
            "a promoted version is tagged in Git, so DVC and GTO must be able to read the repository",
            f"{pipeline.repo}: {error}",
            "correct that, and promote again: what is done already stays done",
        ) from error
