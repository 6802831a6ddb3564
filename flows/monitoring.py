"""`assay monitor`: the room `monitor`, held against what serves. The flow is in :mod:`flows.monitor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks import monitor as room
from tasks.core.errors import DataRejected, UsageError
from tasks.core.settings import Params, load
from tasks.monitor import Outcome
from tasks.promote import moves
from tasks.promote.store import find


class NothingServes(UsageError):
    """Nothing was promoted yet. Asked for by a person it is a mistake; on a schedule there is nothing to do."""


def examine(params: Path, bundle: Path | None = None, ask: Callable[[Outcome], None] | None = None) -> Outcome:
    """Judge the newest rows; for errors see :func:`tasks.monitor.monitor`.

    Args:
        params: the params file.
        bundle: what they are held against; None takes what serves at ``monitor.stage``.
        ask: for a retraining; None where nobody would hear it.
    """
    settings, root = load(params), params.parent
    with _champion(settings, root, bundle) as folder:
        return room.monitor(settings, root, folder, ask)


@contextmanager
def _champion(settings: Params, root: Path, bundle: Path | None) -> Iterator[Path]:
    if bundle is not None:
        yield bundle
        return
    name, stage = settings.base.name, settings.monitor.stage
    store = find(settings.promote.store, root)
    served = moves.read(store, name).serves(stage)
    if served is None:
        rule = "rows are held against the bundle that serves"
        way_out = f"assay promote {name} VERSION --to {stage}, set monitor.stage, or name one with --bundle"
        looked = (root / settings.base.artifacts_dir / "monitor").is_dir()  # then something served: a store is lost
        error = UsageError if looked else NothingServes
        raise error(rule, f"nothing was promoted to {stage} in {settings.promote.store}", way_out)
    with store.fetched(name, served.version) as folder:
        yield folder


def said(outcome: Outcome) -> str:
    """What a terminal shows."""
    lines = [f"{outcome.word}: {outcome.reason}", *(f"note: {note}" for note in outcome.told["notes"])]
    if outcome.asks:
        lines.append("a retraining is due: `assay retrain` makes one (a Prefect automation does, where one listens)")
    return "\n".join([*lines, str(outcome.folder / "report.html")])


def refuse(outcome: Outcome) -> None:
    """Raise :class:`DataRejected` if it is drift."""
    if outcome.word == "DRIFT":
        rule = "recent rows, and the answers to them, are like those that the model was proven on"
        raise DataRejected(rule, outcome.reason, f"read {outcome.folder / 'report.html'}, and retrain")
