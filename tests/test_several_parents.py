"""Labels under several parents, through every stage: label sets hold all parents, and the graph is lost nowhere."""

import json
import random
import shutil

import numpy as np
import pytest

import export_model
import predict
import train
from analysis import baseline, evaluate
from deploy.paddle_serving import make_config
from deploy.predictor import infer
from deploy.simple_serving.model import Work, load_exported, named, run
from deploy.triton_serving import make_repository
from hierarchical.checkpoints import Checkpoint, require_same_labels, save_checkpoint
from hierarchical.predictor import Predictor
from metric import Decision, decide
from tests.conftest import SAMPLE
from tests.deploy.triton_serving.asking import ask
from utils import InputError, LabelTree

pytestmark = pytest.mark.slow

# 转会 is sport and trade, 球迷经济 below 转会 and 消费 besides: levels 1 to 4, of which the names tell up to 3.
TREE = LabelTree(
    ["体育", "体育##足球", "体育##转会", "体育##转会##球迷经济", "财经", "财经##交易", "财经##消费"],
    further=[(2, 5), (3, 6)],
)
WORDS = [
    "赛事",
    "进球",
    "加盟",
    "周边",
    "股市",
    "收购",
    "购物",
]  # a text of a label holds its word, and not those above


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data folder; rows name 转会 by either path, and all that is above a label, but for 球迷经济, which is alone."""
    folder, chance = tmp_path_factory.mktemp("data"), random.Random(0)
    TREE.write(folder / "label.txt")
    for name, count in (("train", 140), ("dev", 42)):
        with open(folder / f"{name}.txt", "w", encoding="utf-8") as file:
            for i in range(count):
                names = [TREE.labels[label] for label in (TREE.closure([i % 7]) if i % 7 != 3 else [3])]
                if i % 2:
                    names = ["财经##交易##转会" if name == "体育##转会" else name for name in names]
                filling = "".join(chance.choices("甲乙丙丁戊己庚辛", k=4))
                file.write(f"{filling}{WORDS[i % 7] * 3}{filling}\t{','.join(names)}\n")
    (folder / "data.txt").write_text("".join(f"{word * 3}\n" for word in WORDS), "utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(paddle, data, tmp_path_factory):
    """(checkpoint, its export); of a training that finds most labels."""
    folder = tmp_path_factory.mktemp("run")
    quick = "--epochs 8 --batch_size 16 --learning_rate 3e-3 --max_seq_length 24 --device cpu --seed 1"
    flags = ["--dataset_dir", data, "--model_name", SAMPLE / "tiny-ernie", "--save_dir", folder / "checkpoint"]
    train.main([*map(str, flags), *quick.split()])
    flags = ["--params_path", folder / "checkpoint", "--output_path", folder / "export", "--dataset_dir", data]
    export_model.main([*map(str, flags), "--precision", "float32"])
    return folder / "checkpoint", folder / "export"


def rows_in(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    "how", [{"decoding": "closure"}, {"decoding": "path"}, {"decoding": "topdown", "min_labels": 4}]
)
def test_same_closed_sets_everywhere(trained, data, tmp_path, how):
    checkpoint, export = trained
    texts = (data / "data.txt").read_text("utf-8").splitlines()
    probabilities = Predictor(checkpoint).probabilities(texts)
    sets = [np.flatnonzero(row).tolist() for row in decide(probabilities, TREE, Decision(**how))]
    assert all(TREE.closure(row) == row for row in sets)
    assert {0, 2, 4, 5} <= set(sets[2]), "else the sets of other labels would be all that is compared"
    assert sets[3] == TREE.closure([3]) or how["decoding"] != "closure"
    expected = [[TREE.labels[i] for i in row] for row in sets]
    settings = [word for name, value in how.items() for word in (f"--{name}", str(value))]
    output = ["--dataset_dir", str(data), "--output_file", str(tmp_path / "out.jsonl"), "--device", "cpu", *settings]

    def same(answers):
        assert [row["labels"] for row in answers] == expected
        for row, labels in zip(answers, sets):
            levels = {str(level): names for level, names in TREE.by_level(labels).items()}
            assert {str(level): names for level, names in row["levels"].items()} == levels

    predict.main([*output, "--params_path", str(checkpoint)])
    same(rows_in(tmp_path / "out.jsonl"))
    infer.main([*output, "--model_path_prefix", str(export / "float32")])
    same(rows_in(tmp_path / "out.jsonl"))
    model = load_exported(export, "float32")
    works = [Work(text, 24, named, model.decision.updated(**how), 0.0, None) for text in texts]
    items = [type("Item", (), {"work": work, "group": model}) for work in works]
    same([json.loads(row) for row in run(items)])
    made = ["--output", str(tmp_path / "models"), "--precision", "float32", "--backend", "python", *settings]
    make_repository.main(["--model_path", str(export), *made])
    assert [[name for _, name, _ in row] for row in ask(tmp_path / "models", [texts])[0]] == expected
    made = ["--output", str(tmp_path / "serving"), *settings]
    make_config.main(["--model_path", str(export / "float32"), *made])
    assert LabelTree.read(tmp_path / "serving" / "serving_server" / "label.txt").is_same(TREE)


def test_scores_are_those_of_closed_sets(trained, data, tmp_path):
    flags = ["--dataset_dir", data, "--params_path", trained[0], "--output_json", tmp_path / "scores.json"]
    report = ["--train_file", "", "--report", tmp_path / "report.html", "--device", "cpu"]
    evaluate.main([*map(str, flags), *map(str, report)])
    scores = json.loads((tmp_path / "scores.json").read_text("utf-8"))["dev"]
    assert [level["n_labels"] for level in scores["levels"]] == [2, 3, 1, 1]
    assert scores["labels"]["体育##转会"]["support"] == 6  # by both paths
    lines = (data / "dev.txt").read_text("utf-8").splitlines()
    gold = [set(TREE.closure([i % 7])) for i in range(len(lines))]
    probabilities = Predictor(trained[0]).probabilities([line.split("\t")[0] for line in lines])
    given = [set(TREE.closure(np.flatnonzero(row > 0.5).tolist())) for row in probabilities]
    both = sum(len(a & b) for a, b in zip(given, gold))
    assert scores["hierarchical_f1"] == pytest.approx(2 * both / (sum(map(len, given)) + sum(map(len, gold))))
    assert scores["hierarchical_f1"] > 0.8


def test_a_graph_is_tied_to_its_model(trained, data, tmp_path):
    for source, exported, numbers in zip(trained, (False, True), ("model.safetensors", "export.json")):
        folder = shutil.copytree(source, tmp_path / source.name)
        assert Checkpoint.open(folder, exported=exported).tree.is_same(TREE)
        (folder / "label_graph.txt").write_text("体育##转会\t财经##交易\n", "utf-8")
        with pytest.raises(InputError, match=f"label_graph.txt: is not the file that goes with {numbers}"):
            Checkpoint.open(folder, exported=exported)
        (folder / "label_graph.txt").unlink()
        with pytest.raises(InputError, match=f"label_graph.txt: is missing, and goes with {numbers}"):
            Checkpoint.open(folder, exported=exported)
    folder = shutil.copytree(data, tmp_path / "data")
    require_same_labels(TREE, folder / "label.txt")
    (folder / "label_graph.txt").write_text("体育##转会\t财经##消费\n体育##转会\t财经##交易\n", "utf-8")
    with pytest.raises(InputError, match="label_graph.txt: differs from the further parents .*only in the checkpoint: "
                       "体育##转会##球迷经济 under 财经##消费; only in the file: 体育##转会 under 财经##消费"):  # fmt: skip
        require_same_labels(TREE, folder / "label.txt")
    (folder / "label_graph.txt").unlink()
    with pytest.raises(InputError, match="label_graph.txt: differs"):
        evaluate.main(["--dataset_dir", str(folder), "--params_path", str(trained[0]), "--device", "cpu"])
    folder = shutil.copytree(trained[0], tmp_path / "tree")
    save_checkpoint(
        folder,
        Checkpoint.open(folder).load_model(),
        Checkpoint.open(folder).tokenizer,
        LabelTree(TREE.labels),
        Decision(),
    )
    assert not (folder / "label_graph.txt").exists()
    TREE.write(folder / "label.txt")
    with pytest.raises(
        InputError, match="label_graph.txt: does not go with model.safetensors beside it, which was made"
    ):
        Checkpoint.open(folder)


def test_a_linear_model(data, tmp_path):
    flags = ["--dataset_dir", data, "--save_dir", tmp_path / "linear"]
    baseline.main([str(flag) for flag in flags])
    output = ["--dataset_dir", data, "--output_file", tmp_path / "out.jsonl", "--decoding", "closure"]
    predict.main([str(flag) for flag in ["--params_path", tmp_path / "linear", *output]])
    found = [[TREE.index[label] for label in row["labels"]] for row in rows_in(tmp_path / "out.jsonl")]
    assert found == [TREE.closure([i]) for i in range(7)]
    (tmp_path / "linear" / "label_graph.txt").unlink()
    with pytest.raises(InputError, match="or label_graph.txt is not; the answers would be wrong"):
        Checkpoint.open(tmp_path / "linear", kind="linear")
