"""The room `monitor`: distances, windows of logs and tables, late labels, when it asks for a retraining, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import worlds
from monitor_world import ROWS, START, after, drifted, ids, lines, log, steady
from serving_world import publish

from tasks.core.errors import AssayError, DataRejected, IntegrityError, SettingsError, UsageError
from tasks.core.settings import Params, parse
from tasks.monitor import Outcome, monitor
from tasks.monitor.bundle import Champion
from tasks.monitor.shift import compare
from tasks.monitor.state import Judged, State

#: Distances in another unit change the answers, too.
DRIFT = ("distance", "probability")
OWN: dict[str, Any] = {"predictions": "logs", "min_rows": 300, "in_a_row": 2, "cool_down_days": 3.0}


@pytest.fixture(scope="session")
def champion(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Champion:
    return Champion.read(publish(tiny, tmp_path_factory.mktemp("monitored") / "tiny", 1, None))


def settings(**changes: Any) -> Params:
    raw = worlds.params()
    return parse(raw | {"monitor": {key: value for key, value in (OWN | changes).items() if value is not None}})


def run(root: Path, champion: Champion, days: float, **changes: Any) -> Outcome:
    return monitor(settings(**changes), root, champion.folder, lambda _: None, after(days))


# Distances.


def counted(*counts: int) -> np.ndarray:
    return np.array(counts)


@pytest.mark.parametrize(
    ("window", "ordered", "psi", "ks"),
    [
        (counted(100, 200, 300, 400, 0), True, (0, 0.001), (0, 1e-9)),
        (counted(0, 0, 500, 500, 0), True, (0.5, 9), (0.29, 0.31)),  # the lower three tenths are gone
        (counted(100, 200, 300, 100, 300), True, (0.3, 9), (0.25, 0.26)),  # values go missing
        (counted(80, 180, 280, 360, 100), False, (0.2, 9), None),  # what had been rare
    ],
)
def test_a_distance_is_that_of_the_distributions(
    window: np.ndarray, ordered: bool, psi: tuple[float, float], ks: tuple[float, float] | None
) -> None:
    found = compare(counted(10_000, 20_000, 30_000, 40_000, 0), window, ordered, hidden=5)
    assert psi[0] <= found.psi <= psi[1]
    assert (found.ks is None) == (ks is None)
    if ks is not None and found.ks is not None:
        assert ks[0] <= found.ks <= ks[1]
    assert (found.p < 1e-6) == (psi[0] > 0)
    assert sum(found.window) == pytest.approx(1)


def test_a_column_of_one_value_tells_nothing_and_a_new_value_in_it_does() -> None:
    assert compare(counted(100_000, 0), counted(1000, 0), True, 5).effect == pytest.approx(0, abs=0.01)
    assert compare(counted(100_000, 0), counted(700, 300), True, 5).p < 1e-9


def test_without_drift_chances_are_spread_evenly_and_no_distance_counts() -> None:
    random = np.random.default_rng(1)
    shares = random.dirichlet(np.full(50, 0.5))
    reference = random.multinomial(100_000, shares)
    hidden = np.where(reference < 10, 0, reference)
    found = [compare(hidden, random.multinomial(1000, shares), False, 5) for _ in range(400)]
    assert max(one.effect for one in found) < 0.1
    low = np.mean([one.p < 0.05 for one in found])
    assert low < 0.09, "twice as many as there should be would be .1"


# Windows in a row.


def test_windows_whose_labels_came_in_another_order_are_taken_by_their_time() -> None:
    days = {"2030-01-03": ("auc",), "2030-01-01": (), "2030-01-02": ("auc",)}
    late = [Judged("performance", f"{day}T00:00:00+00:00", day, 1, what) for day, what in days.items()]
    assert State("d", tuple(late)).lasting("performance", 2) == ("auc",)
    assert State("d", tuple(late[:2])).lasting("performance", 2) == ()


def judged(*what: tuple[str, ...]) -> State:
    return State("d", tuple(Judged("rows", str(place), "", 1, one) for place, one in enumerate(what)))


@pytest.mark.parametrize(
    ("state", "lasting"),
    [
        (judged(), ()),
        (judged(("a",)), ()),
        (judged(("a", "b"), ("b", "c")), ("b",)),
        (judged(("a",), ("b",)), ()),
        (judged(("a",), (), ("a",)), ()),
        (judged((), ("a",), ("a", "b")), ("a",)),
    ],
)
def test_the_same_thing_must_drift_in_a_row(state: State, lasting: tuple[str, ...]) -> None:
    assert state.lasting("rows", 2) == lasting


def test_another_bundle_begins_anew_but_for_the_cool_down(tmp_path: Path) -> None:
    replace(judged(("a",)), asked="2030-01-01T00:00:00+00:00").write(tmp_path)
    assert State.read(tmp_path, "d").of("rows")[0].what == ("a",)
    assert State.read(tmp_path, "other") == State("other", (), "2030-01-01T00:00:00+00:00")
    (tmp_path / "state.json").write_text('{"digest": "d"}')
    with pytest.raises(IntegrityError, match=r"remove .*state\.json"):
        State.read(tmp_path, "d")


def test_logs_day_by_day(champion: Champion, tmp_path: Path) -> None:
    """Steady, then drifted: it is watched, then a retraining is asked for, once until the cool-down is over."""
    days = [steady(0), steady(1), *(drifted(day) for day in range(2, 8))]
    log(tmp_path / "logs", champion, days)
    found = [run(tmp_path, champion, day) for day in (0.5, 1, 2, 3, 4, 4, 5, 6, 7, 8)]
    words = [(one.word, one.asks) for one in found]
    assert words == [
        ("CANNOT TELL", ()), ("STEADY", ()), ("STEADY", ()), ("WATCH", ()), ("DRIFT", DRIFT), ("DRIFT", ()),
        ("DRIFT", ()), ("DRIFT", ()), ("DRIFT", DRIFT), ("DRIFT", ()),
    ]  # fmt: skip
    told = json.loads((tmp_path / "artifacts" / "monitor" / "monitor.json").read_text())
    assert [one["name"] for one in told["spreads"] if one["drifted"]] == [*DRIFT]
    assert [one["what"] for one in told["history"]] == [[], [], *[[*DRIFT]] * 6]
    assert "distance, probability drifted in 2 windows in a row" in told["reason"]
    page = (tmp_path / "artifacts" / "monitor" / "report.html").read_text()
    assert "DRIFT. The model is asked about other rows" in page
    assert "none is asked for again until 2030-01-11" in page
    assert "src=" not in page and "href=" not in page


def test_what_nobody_heard_is_asked_for_again_by_the_next_window(champion: Champion, tmp_path: Path) -> None:
    log(tmp_path / "logs", champion, [drifted(day) for day in range(3)])
    asked: list[Outcome] = []
    assert monitor(settings(), tmp_path, champion.folder, None, after(2)).asks == DRIFT
    assert monitor(settings(), tmp_path, champion.folder, asked.append, after(3)).asks == DRIFT
    assert len(asked) == 1


def test_columns_that_move_by_themselves_are_shown_but_never_called_drift(champion: Champion, tmp_path: Path) -> None:
    log(tmp_path / "logs", champion, [drifted(0), drifted(1)])
    found = run(tmp_path, champion, 2, ignore=[*DRIFT])
    assert (found.word, found.asks) == ("STEADY", ())
    (line,) = (one for one in found.told["spreads"] if one["name"] == "distance")
    assert (line["drifted"], line["ignored"], line["psi"] > 0.1) == (False, True, True)


def test_several_windows_at_once_come_to_the_same(champion: Champion, tmp_path: Path) -> None:
    log(tmp_path / "logs", champion, [steady(0), drifted(1), drifted(2)])
    found = run(tmp_path, champion, 3)
    assert (found.word, found.asks) == ("DRIFT", DRIFT)


def test_a_kill_before_the_end_asks_for_the_same_again(champion: Champion, tmp_path: Path) -> None:
    log(tmp_path / "logs", champion, [drifted(0), drifted(1)])
    asked: list[Outcome] = []

    def killed(outcome: Outcome) -> None:
        asked.append(outcome)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            monitor(settings(), tmp_path, champion.folder, killed, after(2))
    assert not (tmp_path / "artifacts" / "monitor" / "state.json").exists()
    assert [(one.asks, one.key) for one in asked] == [(DRIFT, (START + timedelta(days=1)).isoformat())] * 2
    monitor(settings(), tmp_path, champion.folder, asked.append, after(2))
    monitor(settings(), tmp_path, champion.folder, asked.append, after(2))
    assert len(asked) == 3


def test_rows_that_come_when_later_windows_were_judged_are_left_out(champion: Champion, tmp_path: Path) -> None:
    log(tmp_path / "logs", champion, [steady(1)], first=1)
    assert run(tmp_path, champion, 2).word == "STEADY"
    log(tmp_path / "logs", champion, [drifted(0)])
    found = run(tmp_path, champion, 2)
    assert found.word == "STEADY"
    assert "2030-01-01 00:00 to 2030-01-02 00:00 UTC is left out" in " ".join(found.told["notes"])


# Late labels.


def labels(path: Path, days: list[pa.Table], flipped: tuple[int, ...] = ()) -> None:
    parts = []
    for day, table in enumerate(days):
        values = table["late"].to_numpy()
        parts.append(pa.table({"id": ids(day, len(values)), "late": 1 - values if day in flipped else values}))
    pyarrow.csv.write_csv(pa.concat_tables(parts), path)


def test_labels_that_come_later_show_how_good_the_answers_were(champion: Champion, tmp_path: Path) -> None:
    days = [steady(day) for day in range(4)]
    log(tmp_path / "logs", champion, days)
    before = run(tmp_path, champion, 4)
    assert before.told["performance"] is None
    assert "no window has 300 rows with labels" in " ".join(before.told["notes"])
    labels(tmp_path / "late.csv", days[:2])
    good = run(tmp_path, champion, 4, labels="late.csv")
    own = good.told["performance"]
    assert (good.word, own["metric"], own["rows"], own["worse"]) == ("STEADY", "auc", ROWS, False)
    assert abs(own["drop"]) < 0.1
    labels(tmp_path / "late.csv", days, flipped=(2, 3))
    bad = run(tmp_path, champion, 4, labels="late.csv")
    assert (bad.word, bad.asks, bad.told["performance"]["worse"]) == ("DRIFT", ("auc",), True)
    assert bad.told["performance"]["figure"] < 0.5
    assert run(tmp_path, champion, 4, labels="late.csv").asks == ()


def test_a_row_without_a_finite_answer_is_left_out_of_the_metric_alone(champion: Champion, tmp_path: Path) -> None:
    days = [steady(0)]
    log(tmp_path / "logs", champion, days)
    labels(tmp_path / "late.csv", days)
    (path,) = (tmp_path / "logs").iterdir()
    head, first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, json.dumps(json.loads(first) | {"answer": None}) + "\n", *others]))
    told = run(tmp_path, champion, 1, labels="late.csv").told
    assert told["performance"]["rows"] == ROWS - 1
    assert "1 rows had no finite answer: the metric is that of the others" in told["notes"]
    assert told["window"]["rows"] == ROWS


def test_labels_are_read_however_they_are_written(champion: Champion, tmp_path: Path) -> None:
    days = [steady(0)]
    log(tmp_path / "logs", champion, days)
    numbers = days[0]["late"].to_pylist()
    for values in (list(map(float, numbers)), [str(value) for value in numbers], numbers):
        pq.write_table(pa.table({"id": ids(0, ROWS), "late": values}), tmp_path / "late.parquet")
        own = run(tmp_path, champion, 1, labels="late.parquet").told["performance"]
        assert (own["rows"], own["worse"]) == (ROWS, False)


# A table.


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_table_is_one_window_however_often_it_is_looked_at(champion: Champion, tmp_path: Path, kind: str) -> None:
    def put(table: pa.Table) -> None:
        write = pq.write_table if kind == "parquet" else pyarrow.csv.write_csv
        write(table, tmp_path / f"recent.{kind}")

    own = {"predictions": None, "rows": f"recent.{kind}"}
    put(steady(0))
    found = [run(tmp_path, champion, 0, **own) for _ in range(2)]
    assert [one.word for one in found] == ["STEADY", "STEADY"]
    assert found[0].told["performance"]["rows"] == ROWS, "the target is in the table"
    assert [one["series"] for one in found[1].told["history"]] == ["rows", "performance"]
    put(drifted(1))
    assert [run(tmp_path, champion, 0, **own).word for _ in range(2)] == ["WATCH", "WATCH"]
    put(drifted(2))
    assert run(tmp_path, champion, 0, **own).asks == DRIFT


# Bad input.


def no_logs(root: Path, champion: Champion) -> dict[str, Any]:
    (root / "logs").mkdir()
    return {}


def no_folder(root: Path, champion: Champion) -> dict[str, Any]:
    return {}


def nothing_named(root: Path, champion: Champion) -> dict[str, Any]:
    return {"predictions": None}


def another_model(root: Path, champion: Champion) -> dict[str, Any]:
    changed(root, champion, lambda text: text.replace('"model": "tiny"', '"model": "other"'))
    return {}


def another_version(root: Path, champion: Champion) -> dict[str, Any]:
    changed(root, champion, lambda text: text.replace(champion.digest, "0" * 64).replace(champion.version, "9-abc"))
    return {}


def broken_line(root: Path, champion: Champion) -> dict[str, Any]:
    changed(root, champion, lambda text: text.replace('"bins": [', '"bins": [,', 1))
    return {}


def impossible_bin(root: Path, champion: Champion) -> dict[str, Any]:
    changed(root, champion, lambda text: text.replace('"bins": [', '"bins": [99', 1))
    return {}


def no_head(root: Path, champion: Champion) -> dict[str, Any]:
    changed(root, champion, lambda text: text.partition("\n")[2])
    return {}


def changed(root: Path, champion: Champion, change: Callable[[str], str]) -> None:
    (root / "logs").mkdir()
    text = lines(champion, steady(0, 3), START)
    assert change(text) != text
    (root / "logs" / "predictions-1.jsonl").write_text(change(text))


def unknown_ignored(root: Path, champion: Champion) -> dict[str, Any]:
    return {"ignore": ["distance", "distnace"]}


def no_table(root: Path, champion: Champion) -> dict[str, Any]:
    return {"predictions": None, "rows": "recent.csv"}


def table_without_columns(root: Path, champion: Champion) -> dict[str, Any]:
    pq.write_table(steady(0).drop_columns(["seats", "carrier"]), root / "recent.parquet")
    return {"predictions": None, "rows": "recent.parquet"}


def half_a_table(root: Path, champion: Champion) -> dict[str, Any]:
    pq.write_table(steady(0), root / "recent.parquet")
    (root / "recent.parquet").write_bytes((root / "recent.parquet").read_bytes()[:2000])
    return {"predictions": None, "rows": "recent.parquet"}


def labels_without_ids(root: Path, champion: Champion) -> dict[str, Any]:
    log(root / "logs", champion, [steady(0, 3)])
    pyarrow.csv.write_csv(pa.table({"late": [0, 1]}), root / "late.csv")
    return {"labels": "late.csv"}


def strange_labels(root: Path, champion: Champion) -> dict[str, Any]:
    log(root / "logs", champion, [steady(0, 3)])
    pyarrow.csv.write_csv(pa.table({"id": ["0-0", "0-1"], "late": [0, 7]}), root / "late.csv")
    return {"labels": "late.csv"}


def two_labels(root: Path, champion: Champion) -> dict[str, Any]:
    log(root / "logs", champion, [steady(0, 3)])
    pyarrow.csv.write_csv(pa.table({"id": ["0-0", "0-0"], "late": [0, 1]}), root / "late.csv")
    return {"labels": "late.csv"}


@pytest.mark.parametrize(
    ("prepare", "kind", "said"),
    [
        (no_logs, UsageError, r"logs has none"),
        (no_folder, UsageError, r"logs does not exist"),
        (nothing_named, UsageError, r"monitor\.predictions or monitor\.rows"),
        (another_model, UsageError, r"is about other"),
        (another_version, UsageError, r"9-abc \(3 rows\)"),
        (broken_line, IntegrityError, r"predictions-1\.jsonl line 2"),
        (impossible_bin, IntegrityError, r"has no bin 99"),
        (no_head, IntegrityError, r"line 1: KeyError: 'digest'"),
        (unknown_ignored, UsageError, r"(?s)found:   distnace\n.*choose from carrier"),
        (no_table, UsageError, r"recent\.csv does not exist"),
        (table_without_columns, DataRejected, r"carrier: not given; seats: not given|seats: not given; .*carrier"),
        (half_a_table, DataRejected, r"a table must be whole"),
        (labels_without_ids, UsageError, r"late\.csv lacks id"),
        (strange_labels, DataRejected, r"7; it knows 0, 1"),
        (two_labels, DataRejected, r"1 have several: 0-0"),
    ],
)
def test_bad_input(
    champion: Champion,
    tmp_path: Path,
    prepare: Callable[[Path, Champion], dict[str, Any]],
    kind: type[AssayError],
    said: str,
) -> None:
    changes = prepare(tmp_path, champion)
    with pytest.raises(kind, match=said):
        run(tmp_path, champion, 1, **changes)
    assert not (tmp_path / "artifacts" / "monitor" / "state.json").exists()


def test_two_sources_are_a_mistake_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="leave one of them out"):
        settings(rows="recent.csv")


def test_what_cannot_be_used_of_a_log_is_left_out_and_said(champion: Champion, tmp_path: Path) -> None:
    """A line that is being written, rows of the version before, rows of a clock that runs ahead, equal names."""
    log(tmp_path / "logs", champion, [steady(0)])
    logs = tmp_path / "logs"
    torn = lines(champion, steady(1, 5), START + timedelta(hours=5))
    (logs / "predictions-torn.jsonl").write_text(torn[:-40])
    (logs / "predictions-old.jsonl").write_text(
        torn.replace(champion.digest, "1" * 64).replace(champion.version, "0-a")
    )
    (logs / "predictions-ahead.jsonl").write_text(lines(champion, steady(2, 6), START + timedelta(days=9)))
    (logs / "predictions-equal.jsonl").write_text(lines(champion, steady(3, 2), START, ["same", "same"]))
    labels(tmp_path / "late.csv", [steady(0)])
    found = run(tmp_path, champion, 1, labels="late.csv")
    assert found.word == "STEADY"
    assert found.told["window"]["rows"] == ROWS + 4 + 2
    said = " ".join(found.told["notes"])
    for note in (
        "5 rows of version 0-a",
        "6 rows are from the future",
        "1 files end with a torn",
        "2 rows share their",
    ):
        assert note in said


def test_too_few_rows_cannot_tell(champion: Champion, tmp_path: Path) -> None:
    log(tmp_path / "logs", champion, [drifted(0, 200), drifted(1, 200)])
    found = run(tmp_path, champion, 2)
    assert (found.word, found.asks, found.told["history"]) == ("CANNOT TELL", (), [])
    assert "has 200 rows, and 300 are needed" in found.told["reason"]
    assert "monitor.window_hours" in found.told["reason"]
