"""What `validate` does with interactions: rules, repeats, the k-core, the split, and what came before a row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import validate_world as world

from tasks.core.errors import DataRejected

BASE = {"workload": "recommender", "target": "item", "user": "user", "time": "time", "task": "ranking"}
LEAVE_LAST = {"by": "leave_last"}


def table(pairs: Sequence[tuple[Any, Any, int]]) -> dict[str, list[Any]]:
    """Interactions from (user, item, day)."""
    return {
        "user": [user for user, _, _ in pairs],
        "item": [item for _, item, _ in pairs],
        "time": [world.START + timedelta(days=day) for _, _, day in pairs],
    }


def many(users: int = 12, items: int = 8, each: int = 5) -> list[tuple[Any, Any, int]]:
    return [(f"u{u}", f"i{(u + n) % items}", 10 * n + u) for u in range(users) for n in range(each)]


def made(folder: Path, pairs: Sequence[tuple[Any, Any, int]], **validate: Any) -> Path:
    options: dict[str, Any] = {"split": LEAVE_LAST, "base": BASE, "max_quarantine_share": 0.0, **validate}
    return world.make(folder, table(pairs), **options)


def pairs_of(params: Path, name: str) -> list[tuple[Any, Any]]:
    rows = world.part(params, name)
    return list(zip(rows["user"].to_pylist(), rows["item"].to_pylist(), strict=True))


def rejected(params: Path) -> str:
    with pytest.raises(DataRejected) as caught:
        world.run(params)
    return str(caught.value)


def test_each_users_last_item_is_for_the_test_and_the_one_before_for_validation(tmp_path: Path) -> None:
    params = made(tmp_path, many())
    manifest = world.run(params)
    assert pairs_of(params, "test") == [(f"u{u}", f"i{(u + 4) % 8}") for u in range(12)]
    assert pairs_of(params, "validation") == [(f"u{u}", f"i{(u + 3) % 8}") for u in range(12)]
    assert len(pairs_of(params, "train")) == 36
    assert "history" not in world.part(params, "train").column_names
    assert manifest.facts["rows"]["test"] == 12


def test_a_history_is_all_that_came_before_oldest_first_without_the_rows_own_item(tmp_path: Path) -> None:
    params = made(tmp_path, many())
    world.run(params)
    for name, count in (("validation", 3), ("test", 4)):
        for row in world.part(params, name).to_pylist():
            user = int(row["user"][1:])
            assert row["history"] == [f"i{(user + n) % 8}" for n in range(count)]
    for row in world.part(params, "calibration").to_pylist():
        user = int(row["user"][1:])
        assert row["history"] == [item for n in range(3) if (item := f"i{(user + n) % 8}") != row["item"]]


def test_users_with_fewer_than_three_items_only_train(tmp_path: Path) -> None:
    params = made(tmp_path, [*many(), ("few", "i1", 1), ("few", "i2", 2)])
    world.run(params)
    assert {user for user, _ in pairs_of(params, "train")} >= {"few"}
    assert "few" not in {user for name in ("validation", "test") for user, _ in pairs_of(params, name)}


def test_ties_are_shuffled_by_the_seed_alone(tmp_path: Path) -> None:
    at_once = [(user, item, 0) for user, item, _ in many(30, 30, 10)]
    found = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        params = made(tmp_path / folder, at_once, base=BASE | {"seed": seed})
        world.run(params)
        found.append(pairs_of(params, "test"))
    assert found[0] == found[1] != found[2]
    last_in_the_file = [(f"u{u}", f"i{(u + 9) % 30}") for u in range(30)]
    assert found[0] != last_in_the_file


def test_of_a_repeated_pair_the_first_in_time_stays_and_the_rest_is_no_fault(tmp_path: Path) -> None:
    params = made(tmp_path, [("u0", "i0", 400), *many(), ("u0", "i0", 500)])
    world.run(params)
    aside = world.part(params, "quarantine").to_pylist()
    assert [(row["row"], row["reason"]) for row in aside] == [
        (0, "repeats an earlier interaction"),
        (61, "repeats an earlier interaction"),
    ]
    assert world.results(params)["quarantine"]["rows"] == 0


def test_the_core_is_peeled_until_everybody_has_enough_partners(tmp_path: Path) -> None:
    # `thin` has three items, one of which only it has: without that one it has two, and goes as well.
    thin = [("thin", "i0", 1), ("thin", "i1", 2), ("thin", "rare", 3)]
    params = made(tmp_path, [*many(), *thin], min_interactions=3)
    world.run(params)
    aside = world.part(params, "quarantine").to_pylist()
    assert [row["user"] for row in aside] == ["thin"] * 3
    assert all("fewer than 3 partners" in row["reason"] for row in aside)


def test_a_split_by_time_gives_each_row_what_its_user_did_in_earlier_parts(tmp_path: Path) -> None:
    def day(count: int) -> str:
        return (world.START + timedelta(days=count)).isoformat()

    split = {"by": "time", "column": "time", "validation_from": day(30), "test_from": day(40), "fresh_from": day(45)}
    params = made(tmp_path, [*many(), ("new", "i3", 44)], split=split)
    world.run(params)
    rows = {name: world.part(params, name).to_pylist() for name in ("validation", "test", "fresh")}
    for name, of in rows.items():
        for row in of:
            user = row["user"]
            if user != "new":
                expected = {"validation": 3, "test": 4, "fresh": 4}[name]
                before = [f"i{(int(user[1:]) + n) % 8}" for n in range(5)]
                assert row["history"] == before[: len(row["history"])]
                assert len(row["history"]) <= expected
                assert row["item"] not in row["history"]
    assert [row["history"] for row in rows["test"] if row["user"] == "new"] == [[]]


def test_integer_ids_stay_integers(tmp_path: Path) -> None:
    params = made(tmp_path, [(int(u[1:]), int(i[1:]), day) for u, i, day in many()])
    world.run(params)
    assert world.part(params, "test")["history"].to_pylist()[0] == [0, 1, 2, 3]


def test_test_items_that_train_never_saw_are_counted_and_told(tmp_path: Path) -> None:
    params = made(tmp_path, [*many(), ("u0", "novelty", 999)])
    world.run(params)
    (line,) = [o for o in world.results(params)["outcomes"] if "never saw" in o["name"]]
    assert line["outcome"] == "passed"
    assert line["found"].startswith("1 of 12 test rows")


def test_one_user_is_no_interaction_table(tmp_path: Path) -> None:
    said = rejected(made(tmp_path, [("only", f"i{n}", n) for n in range(40)]))
    assert "at least two users are left" in said


def test_one_item_is_none_either(tmp_path: Path) -> None:
    assert "at least two items are left" in rejected(made(tmp_path, [(f"u{n}", "only", n) for n in range(40)]))


def test_a_core_that_leaves_nothing_is_told(tmp_path: Path) -> None:
    assert "at least two users are left" in rejected(made(tmp_path, many(), min_interactions=50))


@pytest.mark.parametrize(("user", "item"), [(None, "i1"), ("u1", None), ("", "i1"), ("u1", "")])
def test_an_interaction_without_user_or_item_is_refused(tmp_path: Path, user: str | None, item: str | None) -> None:
    assert "has a user, an item and a time" in rejected(made(tmp_path, [*many(), (user, item, 3)]))


def test_the_columns_must_be_there_and_of_their_types(tmp_path: Path) -> None:
    said = rejected(made(tmp_path, many(), base=BASE | {"user": "usr", "time": "item"}))
    assert "base.user is there, as string or int64" in said
    assert "user" in said
    assert "base.time is there, as timestamp" in said


def test_other_ways_to_split_are_refused(tmp_path: Path) -> None:
    assert "split by leave_last or by time" in rejected(made(tmp_path, many(), split={"by": "random"}))


def test_a_column_called_history_is_refused(tmp_path: Path) -> None:
    pairs = many()
    rows = table(pairs) | {"history": ["x"] * len(pairs)}
    params = world.make(tmp_path, rows, split=LEAVE_LAST, base=BASE)
    assert "history" in rejected(params)
