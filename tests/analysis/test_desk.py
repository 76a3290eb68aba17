"""analysis/desk.py: who is asked what, what is kept, and the figures."""

import time

import pytest
from scipy.stats import beta

from analysis import desk as desk_module
from analysis.desk import PAGE, SAMPLE, Desk, errors_left, rate
from hierarchical.ledger import Decision, Ledger, id_of
from tests.analysis.conftest import LAYOFFS, SHARES, item, numbers

# ---- who is asked what -----------------------------------------------------------------------------------------------


def test_the_worst_first_and_nothing_twice(tmp_path):
    desk, asked = Desk([item(i, "suspect", rank=i) for i in range(5)], Ledger(tmp_path)), []
    while one := desk.next("b", "ann"):
        assert desk.next("b", "ann") is one  # a page that is loaded again shows the same
        asked.append(one)
        desk.answer("b", "ann", one["id"], [LAYOFFS, SHARES, None][len(asked) % 3])
    assert numbers(asked) == [0, 1, 2, 3, 4]
    answers = [desk.ledger.decisions[one["id"]][0].answer for one in asked]
    assert answers == ["confirmed", "skipped", "changed", "confirmed", "skipped"]
    # What one has skipped another is asked; and whoever opens the ledger later finds all of it.
    again = Desk(list(desk.items.values()), Ledger(tmp_path))
    assert again.next("b", "ann") is None and numbers([again.next("c", "bob")]) == [1]


def test_two_people_get_different_rows_and_abandoned_ones_come_back(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(desk_module.time, "monotonic", lambda: now)
    desk = Desk([item(i, "suspect", rank=i) for i in range(3)], Ledger(tmp_path), lease_seconds=20)
    first, second = desk.next("b1", "ann"), desk.next("b2", "bob")
    assert numbers([first, second]) == [0, 1]
    other = Desk(list(desk.items.values()), Ledger(tmp_path))  # another server on the same folder
    other.answer("b3", "cy", first["id"], SHARES)
    now += 19
    assert numbers([desk.next("b1", "ann")]) == [2]
    now += 2
    assert numbers([desk.next("b3", "cy")]) == [1]


def test_a_disagreement_that_one_has_settled_is_asked_nobody_else(tmp_path):
    desk = Desk([item(1, "disagreement"), item(2, "disagreement")], Ledger(tmp_path))
    first, second = desk.next("b", "bob"), desk.next("a", "ann")
    desk.answer("b", "bob", first["id"], SHARES)
    desk.answer("a", "ann", second["id"], None)  # skipped, so bob is asked
    assert desk.next("a", "ann") is None and desk.next("b", "bob") is second


def test_kinds_take_turns(tmp_path):
    items = [item(i, "suspect", rank=i) for i in range(20)] + [item(100 + i, "text", labels=None) for i in range(20)]
    items += [item(200 + i, "control") for i in range(20)] + [item(300, "disagreement")]
    desk, asked = Desk(items, Ledger(tmp_path)), []
    for _ in range(11):
        asked.append(desk.next("b", "ann"))
        desk.answer("b", "ann", asked[-1]["id"], SHARES)
    assert numbers(asked) == [300, 100, 0, 200, 1, 101, 2, 102, 3, 4, 5]
    assert numbers([desk.next("b", "ann", ["text"])]) == [103]
    vias = [desk.ledger.decisions[one["id"]][-1] for one in asked]
    assert [one.via for one in vias].count(SAMPLE) == 1 and vias[3].via == SAMPLE and vias[0].final
    assert vias[1].before is None and vias[1].answer == "changed"


def test_undo_brings_the_row_back_also_after_a_restart(tmp_path):
    items = [item(i, "suspect", rank=i) for i in range(3)]
    desk = Desk(items, Ledger(tmp_path))
    for labels in (SHARES, LAYOFFS):
        desk.answer("b", "ann", desk.next("b", "ann")["id"], labels)
        time.sleep(0.002)  # the ledger's times are in milliseconds
    desk.next("b", "ann")
    again = Desk(items, Ledger(tmp_path))
    assert numbers([again.undo("b", "ann")]) == [1] and numbers([again.next("b", "ann")]) == [1]
    assert (
        numbers([again.undo("b", "ann")]) == [0] and again.undo("b", "ann") is None and again.undo("c", "bob") is None
    )
    assert again.progress("ann")["done"] == 0


def test_of_100_000_rows_only_those_on_the_way_are_looked_at(tmp_path, monkeypatch):
    items, looks = [item(i, "suspect", rank=i) for i in range(100_000)], []
    desk = Desk(items, Ledger(tmp_path))
    for one in items[:200]:
        desk.answer("b", "ann", one["id"], SHARES)
    standing = desk_module.standing
    monkeypatch.setattr(desk_module, "standing", lambda lines: looks.append(1) or standing(lines))
    for _ in range(3):
        desk.next("b", "ann")
        desk.progress("ann")
    assert len(looks) < 3 * 500 + 200


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_the_stop_line(tmp_path):
    desk = Desk(
        [item(i, "suspect", rank=i) for i in range(60)] + [item(100 + i, "control", rank=70 + i) for i in range(50)],
        Ledger(tmp_path),
    )
    for i in range(50):
        desk.answer("b", "ann", id_of(f"第{i}条"), LAYOFFS if i < 10 or i in (20, 30) else SHARES)
    progress = desk.progress("ann")
    assert (progress["suspects"], progress["errors"], progress["last"]) == (50, 12, {"rows": 40, "errors": 2})
    assert progress["left"] is None and progress["done"] == 50 and progress["open"] == 60


def test_the_control_sample_counts_only_where_nobody_has_been():
    def answered(rank, answer, via, *kinds):
        return {"rank": rank, "kinds": list(kinds)}, Decision("", answer, "ann", via=via)

    asked = [answered(i, "changed", PAGE, "suspect") for i in range(10)]
    asked += [
        answered(4, "changed", SAMPLE, "suspect", "control"),
        answered(12, "changed", SAMPLE, "suspect", "control"),
    ]
    asked += [answered(100 + i, "confirmed", SAMPLE, "control") for i in range(49)]
    asked += [answered(500, "skipped", SAMPLE, "control")]
    left = errors_left(asked)
    assert (left["rows"], left["errors"], left["share"]) == (50, 1, 0.02)  # the row of rank 4 is among those looked at
    # Wilson's interval of 1 in 50, by its formula; Clopper and Pearson's, from the beta distribution, is wider
    z, n, p = 1.959964, 50, 0.02
    middle, half = (
        (p + z**2 / (2 * n)) / (1 + z**2 / n),
        z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5,
    )
    assert left["low"] == pytest.approx(middle - half, abs=1e-5) and left["high"] == pytest.approx(
        middle + half, abs=1e-5
    )
    assert left["high"] < beta.ppf(0.975, 2, 49)


def test_the_rate_leaves_breaks_out():
    now = time.time()
    stamps = [time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now - ago)) for ago in (600, 300, 290, 280, 270)]
    assert rate(stamps) == pytest.approx(6) and rate(stamps[:2]) is None
