"""Room `monitor`: whether the rows that a model is asked about, its answers, and how good they are, have drifted.

It lies beyond the DAG, and changes nothing that serves: at most it asks for a retraining. Its folder holds a page
(``report.html``), the same as JSON (``monitor.json``), and what was judged already (``state.json``).

A window drifts where a distance is large (``min_shift``, ``max_drop``) *and* no chance (``significance``, over all
columns together). A retraining is asked for when the same thing drifted ``in_a_row`` times, and not again for
``cool_down_days``. What too few rows cannot tell is said so, and counts neither way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core import files
from tasks.core.errors import UsageError
from tasks.core.settings import Params
from tasks.core.stage import only_one
from tasks.monitor.outcome import Outcome, Word

if TYPE_CHECKING:
    from tasks.monitor.bundle import Champion
    from tasks.monitor.window import Found

__all__ = ["Outcome", "Word", "monitor"]


def monitor(
    params: Params,
    root: Path,
    bundle: Path,
    ask: Callable[[Outcome], None] | None = None,
    now: datetime | None = None,
) -> Outcome:
    """Judge the windows that were not judged yet, leave the page, and ask for a retraining if it is time to.

    A kill before the end changes nothing: the same windows are judged again, and the same is asked for again.

    Args:
        params: the checked params file.
        root: its folder.
        bundle: what rows are held against.
        ask: for a retraining; None where nobody would hear it.
        now: this moment, in UTC.

    Raises:
        UsageError: if no rows are named or there, or they are about another model or bundle.
        DataRejected: if rows or labels do not fit the model.
        IntegrityError: if the bundle, a log or the state is not whole.
        MachineError: if the folder cannot be written.
    """
    from tasks.monitor import report
    from tasks.monitor.bundle import Champion
    from tasks.monitor.judging import Judging
    from tasks.monitor.state import State

    folder = root / params.base.artifacts_dir / "monitor"
    moment = now or datetime.now(UTC)
    with files.machine_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with only_one("monitor", folder.parent):
            champion = Champion.read(bundle)
            _check_ignored(params.monitor.ignore, champion)
            found = _read(params, root, champion, moment)
            before = State.read(folder, champion.digest)
            judging = Judging(params, champion, before)
            for window in found.windows:
                judging.judge(window)
            outcome, state = judging.outcome(found, folder, moment)
            files.write_json(folder / "monitor.json", files.without_nan(dict(outcome.told)))
            files.write_text(folder / "report.html", report.render(outcome.told))
            if outcome.asks and ask is not None:
                ask(outcome)
            elif outcome.asks:
                state = replace(state, asked=before.asked)  # nobody heard it: the next window asks again
            state.write(folder)
    return outcome


def _read(params: Params, root: Path, champion: Champion, now: datetime) -> Found:
    from tasks.monitor import labels, logs, rows

    own, name = params.monitor, params.base.name
    late = None
    if own.labels is not None and champion.shown is not None:
        late = labels.read(root / own.labels, champion.target, champion.signature)
    if own.rows is not None:
        return rows.read(root / own.rows, champion, late)
    if own.predictions is None:
        rule = "monitor needs rows: prediction logs of the server, or a table"
        raise UsageError(rule, "neither is named", "set monitor.predictions or monitor.rows in the params file")
    return logs.read(root / own.predictions, name, champion, own.window_hours, now, late)


def _check_ignored(names: tuple[str, ...], champion: Champion) -> None:
    known = {spread.tensor for spread in champion.spreads.values()}
    if strange := sorted(set(names) - known):
        rule, way_out = "monitor.ignore names columns that the model reads", f"choose from {', '.join(sorted(known))}"
        raise UsageError(rule, ", ".join(strange), way_out)
