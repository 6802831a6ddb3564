"""Retraining, without Prefect: a new snapshot, a decision, the DAG in a clean worktree, a comparison, a branch.

Whatever is published (bundle, branch, tag, record) is published last and together; what was cut off there is completed
by the next call, what was cut off before is taken up. The flow is in :mod:`flows.retrain`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from flows import registry
from flows.bundles import bundle, export_must_run
from flows.dvc_driver import dvc_errors, reproduce
from flows.pipeline import Pipeline, inspect
from flows.records import REFUSED, Records
from flows.stage_log import last_error
from flows.workplace import Workplace, git, stages_of
from tasks import promote, retrain
from tasks.core import files
from tasks.core.errors import AssayError, DataRejected, MachineError, NotProven, PromotionRefused, UsageError
from tasks.core.log import log_file
from tasks.core.settings import STAGES
from tasks.core.splitting import TimeSplit, moment
from tasks.export import publish

T = TypeVar("T")
#: Does a named step: plainly, or as a Prefect task.
Conduct = Callable[[str, Callable[[], T]], T]
#: Brings the stages up to the named one (None: all) up to date.
RunStages = Callable[[Pipeline, str | None], object]
#: Tells people of a record.
Tell = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Wanted:
    """A retraining as it is written on the command line: see :func:`flows.commands.retrain`."""

    params: Path = Path("params.yaml")
    force: bool = False
    as_of: str | None = None
    because: str | None = None


def plain(wanted: Wanted) -> dict[str, Any]:
    """:func:`carry_out` without Prefect."""

    def run_stages(pipeline: Pipeline, until: str | None) -> None:
        def forced(stage: str) -> bool:
            return stage == "export" and export_must_run(pipeline)

        reproduce(pipeline, lambda _, done: _done(done), forced, until)

    return carry_out(wanted, lambda _, step: step(), run_stages, lambda record: print(told(record), file=sys.stderr))


def told(record: Mapping[str, Any]) -> str:
    """A record in a few lines: what happened, why, and the command to run next."""
    staging = record.get("staging") or ""
    refused = [f"staging: {staging}"] if staging.startswith(REFUSED) else []
    return "\n".join([f"{record['name']}: {record['word']}: {record['reason']}", *refused, *way_on(record)])


def way_on(record: Mapping[str, Any]) -> list[str]:
    """The last of these lines: where the report is, what to run next."""
    report = [f"report: {Path(record['folder']) / 'report.html'}"] if "folder" in record else []
    return [*report, *(f"next:   {one}" for one in record.get("next", ()))]


def error_of(record: Mapping[str, Any]) -> AssayError | None:
    """The verdict against a rejected retraining, as an error with its exit code."""
    if record["word"] != "REJECTED":
        return None
    kinds: dict[str, type[AssayError]] = {"data": DataRejected, "candidate": NotProven, "champion": PromotionRefused}
    mend = "mend the source, then " if record["by"] == "data" else ""
    return kinds[record["by"]](
        "a retraining is accepted when data, gate and champion allow it",
        f"{record['name']}: {record['reason']}",
        f"read {Path(record['folder']) / 'report.html'}; {mend}`{'`, `'.join(record['next'])}`; "
        "what serves is untouched",
    )


def _done(done: Callable[[], object]) -> None:
    done()


def carry_out(wanted: Wanted, conduct: Conduct[Any], run_stages: RunStages, tell: Tell) -> dict[str, Any]:
    """Retrain if there is a reason to; see README, "Retraining".

    Args:
        wanted: what.
        conduct: does one step.
        run_stages: does stages.
        tell: called with the record of an earlier run, if that was cut off while it was published: it is completed.

    Returns:
        The record of the run (see :mod:`flows.records`). Its ``word``: ACCEPTED, NOTHING (no reason to train, or
        nothing new came of it), SKIPPED (another one works), or REJECTED, for good reasons.

    Raises:
        UsageError: for what the user has to correct; nothing was begun.
        MachineError: for what the machine refused; the next call goes on from there.
    """
    home = inspect(wanted.params)
    as_of = _as_of(home, wanted.as_of)
    place = Workplace.of(home)
    with files.machine_errors(home.artifacts), _alone(place.lock) as free:
        if not free:
            return {"word": "SKIPPED", "name": home.settings.base.name, "reason": "another retraining of it is running"}
        if (left := place.state()) is not None and left.get("version"):
            tell(conduct("publish", lambda: _publish(place, left)))
        state = _begin(place, as_of, conduct)
        try:
            with files.machine_errors(place.folder), stages_of(place):
                return _work(place, state, wanted, conduct, run_stages)
        except (DataRejected, NotProven) as error:
            by, stage = "data" if isinstance(error, DataRejected) else "candidate", _last_stage(place)
            reason = last_error(log_file(place.there_artifacts, stage)) or str(error)
            return _end(place, state | {"by": by, "until": stage}, "REJECTED", reason)
        except AssayError as error:
            _keep_failure(home, state, error)
            raise


def _last_stage(place: Workplace) -> str:
    """The stage that ended last; its log goes with the workplace."""
    logs = {stage: log_file(place.there_artifacts, stage) for stage in STAGES}
    ended = [stage for stage in STAGES if logs[stage].is_file()]
    return max(ended, key=lambda stage: logs[stage].stat().st_mtime_ns, default=STAGES[0])


def _keep_failure(home: Pipeline, state: Mapping[str, Any], error: AssayError) -> None:
    """The record of a failure, if there is room for one: it must not hide the failure itself."""
    try:
        Records(home).write(state, "FAILED", str(error))
    except (OSError, AssayError) as refused:
        print(f"no record of this is kept: {refused}", file=sys.stderr)


def _as_of(home: Pipeline, given: str | None) -> datetime | None:
    """The snapshot's moment: as given, else the last midnight in UTC, if the source says when its rows came."""
    if home.settings.ingest.time_column is None:
        if given is None:
            return None
        rule = "--as-of cuts by the column that ingest.time_column names"
        raise UsageError(rule, "there is no ingest.time_column", "add it, or leave --as-of out")
    if given is None:
        return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        return moment(datetime.fromisoformat(given))
    except ValueError as error:
        raise UsageError("--as-of is a date or a moment", given, "for example 2013-10-01") from error


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no other process retrains this model; the system drops the lock of one that dies."""
    from filelock import FileLock, Timeout

    with files.machine_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _begin(place: Workplace, as_of: datetime | None, conduct: Conduct[Any]) -> dict[str, Any]:
    """The workplace, taken up where a run for the same commit and moment left it, or made anew."""
    commit = git(place.top, "rev-parse", "HEAD")
    asked = {"commit": commit, "as_of": None if as_of is None else as_of.isoformat()}
    left = place.state()
    if left is not None and {key: left[key] for key in asked} == asked:
        print(f"going on with the retraining of {left['id']}", file=sys.stderr)
        conduct("take up", place.connect)
        return left
    records = Records(place.home)
    settings = place.home.settings
    trials = records.trials() if settings.retrain.warm_start and settings.tune.start_from is None else None
    own = f"{settings.base.name}.warm_start.csv"
    if settings.tune.warm_start not in (None, own):
        trials = None  # the user's own choice stands
    changes = {} if as_of is None else {("ingest", "as_of"): as_of.isoformat()}
    place.make(commit, changes, trials)
    state = {"id": records.new_id(), "name": settings.base.name, **asked}
    place.keep(state)
    return state


def _work(
    place: Workplace, state: dict[str, Any], wanted: Wanted, conduct: Conduct[Any], run_stages: RunStages
) -> dict[str, Any]:
    pipeline = place.pipeline()
    state["forced"] = wanted.force
    state["settings"] = _flat(pipeline.settings.model_dump(mode="json", by_alias=True))
    _check_source(place, pipeline)
    run_stages(pipeline, "validate")
    state["snapshot"] = conduct(
        "snapshot", lambda: retrain.profile(pipeline.artifacts / "ingest", _time_column(pipeline))
    )
    decision: retrain.Decision = conduct("decide", lambda: _decide(place, pipeline, state["snapshot"], wanted))
    state["decision"] = {"word": decision.word, "reason": decision.reason}
    state["findings"] = [one.as_json() for one in decision.findings]
    if decision.word == "BROKEN":
        return _end(place, state | {"by": "data", "until": "validate"}, "REJECTED", decision.reason)
    if decision.word == "NOTHING":
        return _end(place, state | {"until": "validate"}, "NOTHING", decision.reason)
    run_stages(pipeline, None)
    made = bundle(pipeline)
    if made is None:
        raise MachineError("`export` leaves a bundle", f"none in {pipeline.dist}", "run again")
    if (before := publish.find(place.home.dist, made.name.partition("-")[2])) is not None:
        return _end(place, state, "NOTHING", f"the same bundle as before came of it: {before.name}")
    said: promote.Said = conduct("champion", lambda: _against_champion(pipeline, made))
    state["champion"] = {"word": said.word, "reason": said.reason, "figures": dict(said.figures)}
    if said.word != "PASS":
        return _end(place, state | {"by": "champion"}, "REJECTED", said.reason)
    state["result"] = conduct("push", lambda: _commit_and_push(place, pipeline, state))
    state["version"] = made.name
    place.keep(state)
    return conduct("publish", lambda: _publish(place, state))  # type: ignore[no-any-return]  # what it is given


def _check_source(place: Workplace, pipeline: Pipeline) -> None:
    """DVC would name the file of the worktree, where nobody can bring it back."""
    source = pipeline.settings.ingest.source
    if "://" not in source and not (pipeline.root / source).exists():
        found = f"{place.home.root / source} does not, or neither Git nor DVC brings it back"
        raise UsageError("the source that ingest.source names must exist", found, "bring it back, and run again")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted key -> value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def _time_column(pipeline: Pipeline) -> str | None:
    return pipeline.settings.ingest.time_column


def _decide(place: Workplace, pipeline: Pipeline, snapshot: dict[str, Any], wanted: Wanted) -> retrain.Decision:
    settings = pipeline.settings
    unread = {*settings.tune.features.drop, _time_column(pipeline)}
    if isinstance(settings.validate_.split, TimeSplit):
        unread.add(settings.validate_.split.column)
    read = set(snapshot["columns"]) - unread
    new = retrain.New(pipeline.artifacts / "ingest", snapshot, _time_column(pipeline), read)
    last = Records(place.home).last_accepted()
    return retrain.retrain(new, last, datetime.now(UTC), settings.retrain, wanted.force, wanted.because)


def _against_champion(pipeline: Pipeline, made: Path) -> promote.Said:
    settings = pipeline.settings
    return promote.compare(promote.Asked(settings, pipeline.root, settings.base.name, "prod", "", ""), made)


def _commit_and_push(place: Workplace, pipeline: Pipeline, state: dict[str, Any]) -> str:
    """The commit with the new ``dvc.lock``, after its outputs have reached the remote, if there is one."""
    lock = pipeline.dvc_yaml.with_name("dvc.lock")
    commit = place.commit(f"Retrain {state['name']}: {state['decision']['reason']}", lock)
    _push(pipeline)
    return commit


def _push(pipeline: Pipeline) -> None:
    from dvc.lock import LockError
    from dvc.repo import Repo

    with dvc_errors(), Repo(str(pipeline.repo)) as repo:
        if not (remote := repo.config["core"].get("remote")):
            print("dvc push: no default remote is configured", file=sys.stderr)
            return
        try:
            repo.push([str(pipeline.dvc_yaml)])
        except LockError:
            raise
        except Exception as error:  # every kind of remote has a library, and errors, of its own
            raise MachineError(
                "DVC's remote must take what a retraining made",
                f"{remote}: {error}",
                "see `dvc remote list`; run again: everything that was made is kept, and pushed then",
            ) from error


def _publish(place: Workplace, state: dict[str, Any]) -> dict[str, Any]:
    """Bundle, branch, tag, record: each is left alone where it is there already."""
    pipeline, home = place.pipeline(), place.home
    version, commit = state["version"], state["result"]
    try:
        publish.adopt(home.dist, pipeline.dist / version)
    except UsageError:  # its number was taken meanwhile: the next run makes a bundle with another one
        place.discard()
        raise
    branch = state.get("branch") or _free_branch(place, state)
    if state.get("branch") is None:
        place.keep(state | {"branch": branch})
    if not git(place.top, "for-each-ref", f"refs/heads/{branch}"):  # a person may have gone on from there since
        git(place.top, "update-ref", f"refs/heads/{branch}", commit)
    registered = registry.register(pipeline, registry.artifact(pipeline), version, commit)
    told = {"branch": branch, "registered": registered, "staging": _to_staging(place, pipeline, version, state)}
    return _end(place, state | told, "ACCEPTED", state["decision"]["reason"])


def _free_branch(place: Workplace, state: dict[str, Any]) -> str:
    day = (state["as_of"] or datetime.now(UTC).isoformat())[:10]
    stem = f"retrain/{place.key}/{day}"
    taken = set(git(place.top, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/retrain").splitlines())
    return next(name for name in (stem, *(f"{stem}.{n}" for n in range(2, len(taken) + 3))) if name not in taken)


def _to_staging(place: Workplace, pipeline: Pipeline, version: str, state: dict[str, Any]) -> str | None:
    """What became of the promotion to staging; None if nobody asked for it."""
    from flows import promotion

    if not pipeline.settings.retrain.to_staging:
        return None
    store = pipeline.settings.promote.store
    if "://" not in store:
        (place.home.root / store).mkdir(parents=True, exist_ok=True)
        place.link(store)
    asked = promotion.Wanted(state["name"], version, "staging", pipeline.params, f"retraining: {state['id']}")
    try:
        return promotion.plain(asked)
    except AssayError as error:  # the version is registered all the same, and may be promoted by hand
        return f"{REFUSED}: {error}".replace(str(place.there_artifacts), str(place.home.artifacts))
    finally:
        _keep_what_the_gates_said(place)


def _keep_what_the_gates_said(place: Workplace) -> None:
    """Beside what they said of other promotions: the workplace goes."""
    kept = place.home.artifacts / promote.RECORDS
    for said in sorted((place.there_artifacts / promote.RECORDS).glob("*.json")):
        kept.mkdir(parents=True, exist_ok=True)
        files.copy(said, kept / said.name)


def _end(place: Workplace, state: dict[str, Any], word: str, reason: str) -> dict[str, Any]:
    """Keep the record, with the reports that the stages left; then the workplace goes."""
    place.ledger(place.there_artifacts, place.home.artifacts)
    record = Records(place.home).write(state, word, reason, place)
    place.discard()
    return record
