"""The clean Git worktree that a retraining works in: beside the repository, so that nobody's files are touched.

It lies at the repository's own depth, so that what settings and DVC name outside of it is found from it as well. What
Git or DVC keep is taken as it was committed; what neither keeps (a growing source, keys, the store) is linked. A small
file under ``.dvc/tmp`` says what a workplace was made for: a killed run is taken up again by the next one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import template
from flows.dvc_driver import dvc_errors
from flows.pipeline import Pipeline, inspect, prepare
from tasks.core import files, uses
from tasks.core.errors import UsageError
from tasks.export import publish

_NOBODY = ("-c", "user.name=assay", "-c", "user.email=assay@localhost")


@dataclass(frozen=True)
class Workplace:
    """Where the retraining of one model happens.

    Attributes:
        home: the pipeline as the user has it, which is only read.
        top: the repository's folder, of Git.
    """

    home: Pipeline
    top: Path

    @staticmethod
    def of(home: Pipeline) -> Workplace:
        """The workplace of a pipeline, whether it exists or not.

        Raises:
            UsageError: if the params file or its pipeline is not committed.
        """
        top = Path(git(home.repo, "rev-parse", "--show-toplevel"))
        place = Workplace(home, top)
        for path in (home.params, home.dvc_yaml):
            if not holds(top, f"HEAD:{place.within(path).as_posix()}"):
                raise UsageError(
                    "a retraining starts from what is committed",
                    f"{path} is not in the present commit",
                    "commit it (`assay run` writes the pipeline)",
                )
        return place

    @property
    def key(self) -> str:
        """The model's name, made unique where the Git repository may hold another one of it: in another params file."""
        name, within = self.home.settings.base.name, self.within(self.home.params).as_posix()
        return name if within == "params.yaml" else f"{name}-{hashlib.sha256(within.encode()).hexdigest()[:8]}"

    @property
    def folder(self) -> Path:
        """The worktree."""
        return self.top.with_name(f".{self.top.name}.retrain-{self.key}")

    @property
    def marker(self) -> Path:
        """What the workplace was made for (JSON), there only if it is whole."""
        return self.home.repo / ".dvc" / "tmp" / f"retrain-{self.key}.json"

    @property
    def lock(self) -> Path:
        """Held by whoever works there."""
        return self.marker.with_suffix(".lock")

    def within(self, path: Path) -> Path:
        """A path of the repository, relative to its folder."""
        return path.resolve().relative_to(self.top.resolve())

    def there(self, path: Path) -> Path:
        """The same path in the worktree."""
        return self.folder / self.within(path)

    def state(self) -> dict[str, Any] | None:
        """The marker's content; None if there is no whole workplace."""
        if not (self.marker.is_file() and (self.folder / ".git").is_file()):
            return None
        state: dict[str, Any] = files.read_json(self.marker)
        return state

    def keep(self, state: Mapping[str, Any]) -> None:
        """Write the marker."""
        self.marker.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(self.marker, dict(state))

    def make(self, commit: str, params: Mapping[tuple[str, str], str], trials: Path | None) -> None:
        """Make the worktree anew, at a commit, with some params changed and committed there.

        Args:
            commit: to start from.
            params: (section, key) -> value.
            trials: of an earlier search, for a warm start; None without one.
        """
        self.discard()
        with files.machine_errors(self.folder.parent):
            # Twice forced: what a kill of git itself left of an earlier one is registered still, and locked.
            add = ("worktree", "add", "--quiet", "--force", "--force", "--detach", str(self.folder), commit)
            git(self.top, "-c", f"core.hooksPath={os.devnull}", *add)
            self.connect()
            publish.go_on_after(self.there(self.home.root) / self._dist, self.home.dist)
            self.ledger(self.home.artifacts, self.there_artifacts)
            self._write_params(params, trials)
        self.checkout()

    def discard(self) -> None:
        """Remove the worktree and its marker, whole or not. Nothing that was published depends on them.

        Raises:
            UsageError: if another folder lies in its place.
        """
        self.marker.unlink(missing_ok=True)
        if self.folder.exists():
            if not (self.folder / ".git").is_file() and any(self.folder.iterdir()):
                rule = "a retraining works in a folder of its own beside the repository"
                raise UsageError(rule, f"{self.folder} is no worktree", "move it away")
            self.ledger(self.there_artifacts, self.home.artifacts)
            for path in self.folder.iterdir():
                if path.name != ".git":  # it goes last: without it, what a kill leaves of a worktree is nobody's
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            shutil.rmtree(self.folder)
        git(self.top, "worktree", "prune")

    @property
    def there_artifacts(self) -> Path:
        """The stages' outputs in the worktree."""
        return self.there(self.home.root) / self.home.settings.base.artifacts_dir

    @property
    def _dist(self) -> Path:
        return Path(self.home.settings.base.dist_dir, self.home.settings.base.name)

    def ledger(self, source: Path, target: Path) -> None:
        """Carry the count of a test set's uses along: a worktree of its own must not start it anew."""
        uses.carry(source, target)

    def pipeline(self) -> Pipeline:
        """The pipeline in the worktree."""
        return inspect(self.there(self.home.root) / self.home.params.name)

    def commit(self, message: str, *paths: Path) -> str:
        """Commit some files of the worktree (nobody's hooks run), if they changed; return its commit."""
        present = [str(path) for path in paths if path.exists()]
        git(self.folder, "add", "--force", "--", *present)
        if git(self.folder, "diff", "--cached", "--name-only"):
            who = () if _identified(self.folder) else _NOBODY
            git(self.folder, *who, "-c", "commit.gpgsign=false", "commit", "--quiet", "--no-verify", "-m", message)
        return git(self.folder, "rev-parse", "HEAD")

    def connect(self) -> None:
        """Bring along what is not committed, as it is now: DVC's private configuration, a source that grows, keys."""
        self._share_dvc()
        self._link_what_nobody_keeps()

    def _share_dvc(self) -> None:
        """Give the worktree the repository's cache, its private configuration, and the remotes that are folders."""
        from dvc.config import Config
        from dvc.repo import Repo

        own = self.home.repo / ".dvc" / "config.local"
        there = self.there(self.home.repo) / ".dvc"
        (there / own.name).unlink(missing_ok=True)
        if own.is_file():
            shutil.copy(own, there / own.name)
        with Repo(str(self.home.repo)) as repo:
            cache = repo.cache.local_cache_dir
            remotes = {name: str(remote["url"]) for name, remote in repo.config["remote"].items()}
        with Config(str(there)).edit("local") as config:
            config["cache"]["dir"] = cache
            for name, url in remotes.items():
                if "://" not in url:  # as it reads there, a relative one would lie in the worktree, and go with it
                    config["remote"].setdefault(name, {})["url"] = str(Path(url).resolve())

    def _link_what_nobody_keeps(self) -> None:
        settings = self.home.settings
        named = [settings.ingest.source, settings.validate_.suite, settings.tune.start_from, settings.tune.warm_start,
                 settings.promote.public_key, settings.promote.store, settings.export.signing_key]  # fmt: skip
        kept: list[str] = []
        for name in filter(None, named):
            here = self.home.root / name
            if not here.exists() or not here.absolute().is_relative_to(self.home.root.absolute()):
                continue
            there = self.there(self.home.root) / name
            if there.with_name(f"{there.name}.dvc").is_file():
                kept.append(str(there.with_name(f"{there.name}.dvc")))
            else:
                self.link(name)
        if kept:
            self._dvc_checkout(kept)

    def link(self, name: str) -> None:
        """Let a path below the params file's folder lead out of the worktree, unless something is there."""
        there = self.there(self.home.root) / name
        if not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to((self.home.root / name).absolute())

    def checkout(self) -> None:
        """Bring back, from DVC's cache, the outputs of the stages that are up to date."""
        self._dvc_checkout([str(self.there(self.home.dvc_yaml))])

    def _dvc_checkout(self, targets: list[str]) -> None:
        from dvc.exceptions import CheckoutError
        from dvc.repo import Repo

        logging.getLogger("dvc_data").setLevel(logging.ERROR)  # what was never made is no warning here
        with dvc_errors(), Repo(str(self.there(self.home.repo))) as repo:
            try:
                repo.checkout(targets, force=True, allow_missing=True)
            except CheckoutError as error:  # an output that the cache lacks is made anew
                print(f"not all in DVC's cache: {', '.join(error.target_infos)}", file=sys.stderr)

    def _write_params(self, params: Mapping[tuple[str, str], str], trials: Path | None) -> None:
        path = self.there(self.home.root) / self.home.params.name
        changes, added = dict(params), [path]
        if trials is not None:
            table = path.with_name(f"{self.home.settings.base.name}.warm_start.csv")
            files.copy(trials, table)
            changes["tune", "warm_start"] = table.name
            added.append(table)
        if not changes:
            return
        _edit(path, changes)
        dvc_yaml = self.there(self.home.dvc_yaml)
        if trials is not None and dvc_yaml.parent == path.parent:
            _watch(dvc_yaml, "${tune.warm_start}")
        prepare(path)
        told = ", ".join(f"{section}.{key} = {value}" for (section, key), value in changes.items())
        self.commit(f"Retrain {self.home.settings.base.name}: {told}", *added, dvc_yaml)


@contextmanager
def stages_of(place: Workplace) -> Iterator[None]:
    """Let stages run the code of the worktree's commit, where that is Assay's own."""
    code = template.code_of(place.there(place.home.root) / place.home.params.name)
    before = os.environ.get("PYTHONPATH")
    if code.is_relative_to(place.folder):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(code), before]))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


def git(folder: Path, *arguments: str) -> str:
    """What Git says in a folder.

    Raises:
        UsageError: with its reason, if it refuses.
    """
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(
            "a retraining needs a Git repository that works",
            f"git {arguments[0]}: {done.stderr.strip() or done.returncode}",
            "mend that, and run again: a retraining that was begun is taken up",
        )
    return done.stdout.strip()


def holds(folder: Path, name: str) -> bool:
    """Whether a repository holds the object of a name: ``HEAD:path``, or ``<hash>^{commit}``."""
    command = ["git", "-C", str(folder), "cat-file", "-e", name]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _identified(folder: Path) -> bool:
    asked = ["git", "-C", str(folder), "var", "GIT_COMMITTER_IDENT"]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def _edit(path: Path, changes: Mapping[tuple[str, str], str]) -> None:
    """Change some keys of a YAML file; comments and order stay."""
    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import SingleQuotedScalarString

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    tree = yaml.load(path.read_text(encoding="utf-8"))
    for (section, key), value in changes.items():
        tree[section][key] = SingleQuotedScalarString(value)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)


def _watch(dvc_yaml: Path, dep: str) -> None:
    """Have the stage `tune` of a pipeline that is written by hand depend on one more file."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    tree = yaml.load(dvc_yaml.read_text(encoding="utf-8"))
    deps = tree["stages"]["tune"].setdefault("deps", [])
    if dep not in deps:
        deps.append(dep)
        with dvc_yaml.open("w", encoding="utf-8") as file:
            yaml.dump(tree, file)
