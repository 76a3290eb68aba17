"""few-shot/sample.py: who is drawn, and what can be wrong."""

import pytest

from tests.few_shot.conftest import load_script
from utils import InputError, LabelTree, load_rows

LABELS = "体育\n体育##足球\n体育##篮球\n财经\n"
ROWS = [("体育,体育##足球", 10), ("体育,体育##篮球", 3), ("财经", 5), ("体育,体育##足球,财经", 1)]


@pytest.fixture
def run_main():
    sample = load_script("sample")

    def call(*arguments):
        sample.main(list(map(str, arguments)))

    return call


@pytest.fixture
def folder(data_dir):
    rows = [f"文{i}{labels}\t{labels}" for labels, count in ROWS for i in range(count)]
    return data_dir(label_txt=LABELS, train_txt="\n".join(rows) + "\n")


def test_each_label_gets_its_rows_and_the_rest_is_the_rest(folder, tmp_path, run_main):
    drawn, rest = tmp_path / "few" / "train.txt", tmp_path / "rest.txt"
    run_main("--data_dir", folder, "--shots", 2, "--output_file", drawn, "--rest_file", rest)
    tree = LabelTree.read(folder / "label.txt")
    everything, few, others = (load_rows(path, tree) for path in (folder / "train.txt", drawn, rest))
    assert len(few.texts) == 2 * len(tree) and len(set(few.texts)) == len(few.texts)
    assert (few.multi_hot(len(tree)).sum(0) >= 2).all()
    assert set(few.texts) | set(others.texts) == set(everything.texts) and not set(few.texts) & set(others.texts)
    labels_of = dict(zip(everything.texts, everything.labels))
    assert all(labels_of[text] == labels for text, labels in zip(few.texts, few.labels))


def test_the_seed_decides(folder, tmp_path, run_main):
    contents = []
    for seed in (0, 0, 1):
        run_main("--data_dir", folder, "--seed", seed, "--output_file", tmp_path / "few.txt")
        contents.append((tmp_path / "few.txt").read_text(encoding="utf-8"))
    assert contents[0] == contents[1] != contents[2]


def test_labels_with_too_few_rows_are_named(folder, tmp_path, run_main, printed):
    run_main("--data_dir", folder, "--shots", 5, "--output_file", tmp_path / "few.txt")
    assert any("体育##篮球 (3)" in message for message in printed)


def test_rarest_first():
    # label 0 has all rows, label 1 has one: taken first by label 0, it would be lost to label 1
    labels = [(0,)] * 9 + [(0, 1)]
    for seed in range(5):
        drawn = load_script("sample").draw(labels, 2, 1, seed)
        assert len(drawn) == 2 and 9 in drawn


def test_what_must_not_be_overwritten(folder, run_main):
    with pytest.raises(InputError, match="would overwrite"):
        run_main("--data_dir", folder, "--output_file", folder / "train.txt")
    with pytest.raises(InputError, match="name the same file"):
        run_main("--data_dir", folder, "--output_file", folder / "a.txt", "--rest_file", folder / "a.txt")
    with pytest.raises(InputError, match="no such directory"):
        run_main("--data_dir", folder / "none", "--output_file", folder / "a.txt")
