"""hierarchical/ledger.py: what stands after several answers, and a file that survives power cuts and other writers."""

import json
import multiprocessing
import unicodedata

import pytest

from hierarchical.ledger import Decision, Ledger, confirmed_rows, id_of, resolved, standing, verdict_of
from utils import InputError, LabelTree, Rows

TEXT = "国足今晚出战"


def said(who, *after, answer="changed", **others):
    return Decision(id_of(TEXT), answer, who, ("财经",), after or None, TEXT, **others)


def state(*decisions, resolve=None):
    verdict = verdict_of(id_of(TEXT), decisions, resolve)
    return verdict and (verdict.state, verdict.labels)


# ---- which text ------------------------------------------------------------------------------------------------------


def test_blanks_and_the_way_unicode_is_written_make_no_other_text():
    assert id_of(" café\u3000au\tlait\n") == id_of(unicodedata.normalize("NFD", "café au lait")) != id_of("café aulait")
    assert len(id_of("")) == 16 and id_of("ＡＢ") != id_of("AB")  # a full-width letter is another one


# ---- what stands -----------------------------------------------------------------------------------------------------


def test_the_newest_answer_of_each_annotator_stands_until_it_is_taken_back():
    first, second, other = said("ann", "体育"), said("ann", "财经"), said("bob", "体育")
    undone = said("ann", answer="undone")
    assert standing([first, other, second]) == [other, second]
    assert standing([first, second, undone]) == [first]
    assert standing([first, undone]) == [] == standing([undone])
    assert standing([first, undone, second]) == [second]


def test_verdicts():
    asked = said("", answer="asked")
    assert state(asked) == ("asked", None) and state(said("ann", "体育"), said("ann", answer="undone")) is None
    assert state(asked, said("ann", "体育"), said("ann", answer="undone")) == ("asked", None)
    assert state(said("ann", answer="skipped")) == ("skipped", None)
    assert state(said("ann", answer="skipped"), said("bob", "体育")) == ("settled", ("体育",))
    assert state(said("ann", "体育"), said("bob", "财经")) == ("disputed", None)
    assert (
        state(said("ann", "体育", "体育##足球"), said("bob", "体育##足球", "体育"))[0] == "settled"
    )  # whatever the order
    assert state(said("ann", "体育"), said("bob", answer="disputed")) == ("disputed", None)
    assert state(said("ann", "体育"), said("bob", "财经", final=True)) == ("settled", ("财经",))
    assert state(said("ann", "体育", answer="confirmed"), said("ann", "财经")) == ("settled", ("财经",))


def test_several_answers_brought_together():
    a, b, c = ("A", "A##B"), ("A", "A##C"), ("D",)
    assert resolved([a, a], None) == a and resolved([a, b], None) is None
    assert resolved([a, b, a, a], "majority") == a and resolved([a, b], "majority") is None
    assert resolved([a, b], "newest") == b
    assert resolved([a, b], "common_ancestor") == ("A",) and resolved([a, b, c], "common_ancestor") is None
    three_to_one = [said("ann", *a), said("bob", *b), said("cy", *a), said("di", *a)]
    assert state(*three_to_one) == ("disputed", None) and state(*three_to_one, resolve="majority") == ("settled", a)


def test_an_edited_text_is_found_by_both_and_answers_only_for_the_new_one(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add([ledger.answer("国足今晚 3:0 出战", "ann", ["体育"], id=id_of(TEXT))])
    assert ledger.verdict(id_of(TEXT)).state == "edited"
    assert ledger.verdict(id_of("国足今晚 3:0 出战"))[:2] == ("settled", ("体育",))


# ---- rows that rest --------------------------------------------------------------------------------------------------


def test_a_checked_row_rests_until_the_model_changes_its_mind(tmp_path):
    ledger, text_id = Ledger(tmp_path), id_of(TEXT)
    model = {"财经": 0.3, "体育": 0.6, "娱乐": 0.04}
    ledger.add([Decision(text_id, "asked", before=("财经",), model=model)])
    assert not ledger.rests(text_id, ["财经"], model)  # no answer yet
    ledger.add([ledger.answer(TEXT, "ann", ["财经"])])
    assert Ledger(tmp_path).decisions[text_id][-1].answer == "confirmed"
    assert ledger.probabilities(text_id) == {"财经": 0.3, "体育": 0.6}
    assert ledger.rests(text_id, ["财经"], {"财经": 0.01, "体育": 0.99})  # by 0.29 and 0.39 more
    assert ledger.rests(text_id, ["财经"], {"财经": 0.3, "体育": 0.6, "娱乐": 0.5})
    assert not ledger.rests(text_id, ["财经"], {"财经": 0.3, "体育": 0.6, "娱乐": 0.51})  # something new
    assert not ledger.rests(text_id, ["财经"], {"财经": 0.01, "体育": 0.99}, margin=0.3)
    assert not ledger.rests(id_of("另一条"), ["财经"], {})
    # Its labels were changed to what the model wanted: no need to ask unless it no longer wants them.
    ledger.add([ledger.answer(TEXT, "ann", ["体育"])])
    assert ledger.rests(text_id, ["体育"], {"体育": 0.99}) and not ledger.rests(text_id, ["体育"], {"财经": 0.9})


def test_rows_with_the_labels_that_were_decided_on(tmp_path):
    ledger, tree = Ledger(tmp_path), LabelTree(["财经", "体育"])
    ledger.add(
        [ledger.answer("甲", "ann", ["财经"]), ledger.answer("乙", "ann", ["财经"]), ledger.answer("丙", "ann", None)]
    )
    assert confirmed_rows(ledger, Rows(["甲", "乙", "丙", "丁"], [(0,), (1,), (0,), (0,)], 0, 0), tree) == {0}


def test_an_answer_from_before_a_label_had_further_parents_still_stands(tmp_path):
    tree, ledger = LabelTree(["A", "A##B", "C"], further=[(1, 2)]), Ledger(tmp_path)
    ledger.add([ledger.answer("甲", "ann", ["A", "A##B"])])
    assert confirmed_rows(ledger, Rows(["甲", "甲"], [(0, 1, 2), (0, 1)], 0, 0), tree) == {0}


# ---- the file --------------------------------------------------------------------------------------------------------


def lines(folder):
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text("utf-8").splitlines()]


def test_lines_say_what_is_to_be_said(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add([said("", answer="asked", via="dirty.py", model={"财经": 0.123456, "体育": 0.01})])
    ledger.add([ledger.answer(TEXT, "ann", ["体育"], via="page")])
    asked, changed = lines(tmp_path)
    assert asked["when"].endswith("Z") and asked.pop("when") <= changed.pop("when")
    same = {"id": id_of(TEXT), "before": ["财经"], "text": TEXT}
    assert asked == same | {"answer": "asked", "via": "dirty.py", "model": {"财经": 0.1235}}
    assert changed == same | {"answer": "changed", "who": "ann", "after": ["体育"], "via": "page"}
    assert Ledger(tmp_path).decisions == ledger.decisions


def test_an_export_that_is_read_twice_says_nothing_new(tmp_path):
    ledger = Ledger(tmp_path)
    ann, bob = ledger.answer(TEXT, "ann", ["体育"]), ledger.answer(TEXT, "bob", ["体育"])
    assert ledger.add([ann]) == 1 and Ledger(tmp_path).add([ann, bob]) == 1 and ledger.add([bob]) == 0
    assert ledger.add([ledger.answer(TEXT, "ann", ["财经"])]) == 1 and ledger.add([ann]) == 1  # a change of mind
    ledger.add([said("", answer="asked")])
    assert ledger.add([ann]) == 1  # asked again, and the same again


@pytest.mark.parametrize("torn", [b'{"id": "12', b"\0\0\0\0\0", '{"id": "甲'.encode()[:-1], b"7"])
def test_a_power_cut_costs_the_line_that_was_being_written(tmp_path, torn):
    Ledger(tmp_path).add([said("ann", "体育")])
    whole = (tmp_path / "ledger.jsonl").read_bytes()
    (tmp_path / "ledger.jsonl").write_bytes(whole + torn)
    reader = Ledger(tmp_path)
    assert reader.verdict(id_of(TEXT)).labels == ("体育",) and reader.torn == []  # someone may be writing it just now
    if torn == b"7":  # JSON, but no decision: nobody's half line
        with pytest.raises(InputError, match="ledger.jsonl:2: no decision"):
            reader.add([said("bob", "体育")])
        return
    reader.add([said("bob", "体育")])
    assert (tmp_path / "ledger.jsonl").read_bytes().startswith(whole + torn + b"\n")  # only ever added to
    again = Ledger(tmp_path)
    assert again.torn == [2] and [one.who for one in again.decisions[id_of(TEXT)]] == ["ann", "bob"]


def test_a_last_line_that_lacks_only_its_end_counts(tmp_path):
    Ledger(tmp_path).add([said("ann", "体育")])
    (tmp_path / "ledger.jsonl").write_bytes((tmp_path / "ledger.jsonl").read_bytes().rstrip(b"\n"))
    Ledger(tmp_path).add([said("bob", "体育")])
    assert Ledger(tmp_path).torn == [] and len(lines(tmp_path)) == 2


@pytest.mark.parametrize("line", ['{"answer": "changed"}', '{"id": "1", "answer": "perhaps"}', "[]"])
def test_a_line_that_no_script_wrote_is_named(tmp_path, line):
    (tmp_path / "ledger.jsonl").write_text(f"\n{line}\n", "utf-8")
    with pytest.raises(InputError, match="ledger.jsonl:2: no decision.*Mend or remove it"):
        Ledger(tmp_path)
    (tmp_path / "ledger.jsonl").write_text('{"id": "1", "answer": "changed", "after": "体育"}\n', "utf-8")
    with pytest.raises(InputError, match="ledger.jsonl:1: 'after' is '体育'"):
        Ledger(tmp_path)


def test_good_lines_behind_a_bad_one_are_read_the_next_time(tmp_path):
    """A server that goes on after the error misses nothing."""
    ledger = Ledger(tmp_path)
    ledger.add([said("ann", "体育")])
    good = (tmp_path / "ledger.jsonl").read_bytes()
    (tmp_path / "ledger.jsonl").write_bytes(good + b"[]\n" + good.replace(b"ann", b"bob"))
    with pytest.raises(InputError, match="ledger.jsonl:2: no decision"):
        ledger.refresh()
    ledger.refresh()
    assert [one.who for found in ledger.decisions.values() for one in found] == ["ann", "bob"]


def write_many(folder, who):
    ledger = Ledger(folder)
    for i in range(40):
        text = f"{who} {i} " + "长" * 3000  # of several disk blocks
        ledger.add([ledger.answer(text, who, ["体育"])])


def test_two_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path, who)) for who in ("ann", "bob")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    ledger = Ledger(tmp_path)
    assert len(ledger) == 80 and ledger.torn == []


def test_what_others_add_is_seen(tmp_path):
    mine, others = Ledger(tmp_path), Ledger(tmp_path)
    others.add([said("bob", "体育")])
    assert mine.verdict(id_of(TEXT)) is None
    mine.refresh()
    assert mine.verdict(id_of(TEXT)).labels == ("体育",)
    assert mine.add([said("bob", "体育")]) == 0


def test_edits_of_a_file_are_told(tmp_path):
    ledger, path = Ledger(tmp_path), tmp_path / "train_dirty.txt"
    assert not ledger.is_as_written(path)
    path.write_text("甲\t体育\n", "utf-8")
    assert not ledger.is_as_written(path)
    ledger.note_written(path)
    assert ledger.is_as_written(path) and Ledger(tmp_path).is_as_written(path)
    path.write_text("甲\t财经\n", "utf-8")
    assert not ledger.is_as_written(path)
