"""added_tokens.py: which tokens can be added, what the grown tokenizer and embedding are, and every later step with them."""

import json
import shutil

import numpy as np
import pytest

import export_model
import predict
import prune
import train
from analysis import evaluate
from hierarchical.added_tokens import add_tokens, grow_tokenizer, read_added_tokens
from hierarchical.checkpoints import Checkpoint
from hierarchical.encoders import read_config
from hierarchical.errors import InputError
from hierarchical.identity import digests_of
from hierarchical.modeling import build_model, library_config
from hierarchical.predictor import Predictor
from hierarchical.tokenizer import load_tokenizer
from hierarchical.weights import read_identity, read_weights
from tests.conftest import SAMPLE, without_identity
from tests.hierarchical.test_tokenizer import ODD_TEXTS, assert_equal, shared_model, slow_tokenizer, write_model

VOCAB = "[PAD] [CLS] [SEP] [MASK] [UNK] 区 块 链 国 t ##a ##b a b - c e".split()
TOKENS = "区块链\n🙂\nTAB\nT恤\n👍🏽\ne-a\n"
WORDS = "word_embeddings.weight"


@pytest.fixture
def grow(tmp_path):
    """grow(lines, **tokenizer configuration) -> (the tokenizer before, the one after, [Added])."""

    def call(lines=TOKENS, max_seq_length=32, vocab=VOCAB, **config):
        (tmp_path / "tokens.txt").write_text(lines, "utf-8")
        before = load_tokenizer(write_model(tmp_path / "model", vocab, **config), max_seq_length)
        added = read_added_tokens(tmp_path / "tokens.txt", before)
        return before, grow_tokenizer(before, added), added

    return call


def test_ids_follow_those_there_are(grow):
    before, after, added = grow()
    assert [(one.token, one.pieces, one.first) for one in added] == [
        ("区块链", [5, 6, 7], True),  # the tokenizer puts every Chinese character by itself
        ("🙂", [4], False),
        ("tab", [9, 10, 11], False),  # texts are read in lower case
        ("T恤", [9, 4], True),
        ("👍🏽", [4, 4], True),
        ("e-a", [16, 14, 12], True),
    ]
    assert [after.vocab[one.token] for one in added] == [17, 18, 19, 20, 21, 22]
    assert list(after.vocab) == [*VOCAB, "区块链", "🙂", "tab", "T恤", "👍🏽", "e-a"]
    text = "国区块链🙂 Tab tabb T恤👍🏽👍 e-a a[SEP]"
    assert after.encode([text]) == [[1, 8, 17, 18, 19, 19, 11, 20, 21, 4, 22, 12, 2, 2]]
    parts = [text[start:end] for start, end in after.spans(text)[1:-1]]
    assert parts == ["国", "区块链", "🙂", "Tab", "tab", "b", "T恤", "👍🏽", "👍", "e-a", "a", "[SEP]"]
    assert after.count("国🙂👍") == (5, ["👍"])
    assert before.encode(["国a-b"]) == after.encode(["国a-b"])


def test_a_token_with_a_letter_at_its_end_is_not_found_within_words(grow):
    _, after, _ = grow()
    for text in ("be-a", "e-ab", "AT恤", "e-a1"):
        assert not set(after.encode([text])[0]) & {20, 22}, text
    for text, index in (("(e-a)", 22), ("国e-a国", 22), ("国T恤", 20), ("T恤a", 20)):
        assert index in after.encode([text])[0], text


@pytest.mark.slow
@pytest.mark.parametrize("lower", [True, False])
def test_the_library_reads_the_same_ids(grow, tmp_path, lower):
    _, after, _ = grow(vocab=[*VOCAB, "国a"], do_lower_case=lower, additional_special_tokens=["国a"])
    (tmp_path / "grown").mkdir()
    after.save(tmp_path / "grown")
    texts = [text + "区块链 🙂 tab 国a" for text in ODD_TEXTS] + [
        "区区块链块链",
        "T恤 t恤",
        "👍🏽👍",
        "区块链\n",
        "x区块链[SEP]",
    ]
    assert_equal(tmp_path / "grown", texts, 32, slow_tokenizer(tmp_path / "grown"))


def test_where_the_map_of_special_tokens_names_some_it_is_the_one_that_counts(tmp_path, grow):
    folder = write_model(tmp_path / "model", VOCAB)
    (folder / "special_tokens_map.json").write_text('{"additional_special_tokens": ["国a"]}')
    _, after, _ = grow()
    assert json.loads(after.files["special_tokens_map.json"])["additional_special_tokens"] == [
        "国a", "区块链", "T恤", "👍🏽", "e-a",
    ]  # fmt: skip
    assert 17 in after.encode(["区块链"])[0]


def test_a_vocabulary_without_a_last_line_end_and_one_with_windows_line_ends(tmp_path, grow):
    for content in ("\n".join(VOCAB), "\r\n".join([*VOCAB, ""])):
        write_model(tmp_path / "model")
        (tmp_path / "tokens.txt").write_text("🙂\r\n", "utf-8")
        (tmp_path / "model" / "vocab.txt").write_bytes(content.encode())
        before = load_tokenizer(tmp_path / "model", 16)
        after = grow_tokenizer(before, read_added_tokens(tmp_path / "tokens.txt", before))
        assert after.vocab == before.vocab | {"🙂": 17}


def test_sentencepiece_finds_them_before_the_pieces(tmp_path):
    (tmp_path / "tokens.txt").write_text("㊙㊙\n元宇宙\nblockchain\n", "utf-8")
    before = load_tokenizer(shared_model("ernie-m-small"), 32)
    added = read_added_tokens(tmp_path / "tokens.txt", before)
    after = grow_tokenizer(before, added)
    count = len(before.vocab)
    assert all(one.first for one in added)
    assert added[1].pieces == before.encode(["元宇宙"])[0][1:-1]
    ids = after.encode(["我们 blockchain 和元宇宙", "blockchains"])
    assert {count + 1, count + 2} < set(ids[0]) and ids[1] == before.encode(["blockchains"])[0]
    (tmp_path / "grown").mkdir()
    after.save(tmp_path / "grown")
    assert_equal(tmp_path / "grown", ["我们 blockchain 和元宇宙。", "元宇宙", "a元宇宙b 元宇宙 c"], 32)


def test_what_is_wrong_with_the_file_is_told_by_line(tmp_path):
    path, tokenizer = tmp_path / "tokens.txt", load_tokenizer(write_model(tmp_path / "model", VOCAB), 32)
    lines = ["ok", "", "ok", "OK", "区 块", "[SEP]", "##x", "国", "Ab", "\u200d", "x" * 101]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\n\xe5\x8c\xba\xe5\x9d\x97\n")
    with pytest.raises(InputError) as caught:
        read_added_tokens(path, tokenizer)
    told = str(caught.value).splitlines()[1:]
    expected = [
        (2, "an empty line"),
        (3, "'ok' is the token of line 1 already"),
        (4, "'ok' is the token of line 1 already"),
        (5, "'区 块' has a blank inside"),
        (6, "'[SEP]' is a special token"),
        (7, "## does not"),
        (8, "'国' is known to the model already"),
        (10, "read as nothing"),
        (11, "101 characters; a token has 100 at most"),
        (12, "byte 1 is not UTF-8"),
    ]
    assert len(told) == len(expected)
    for (line, words), fault in zip(expected, told, strict=True):
        assert f"{path}:{line}: " in fault and words in fault, fault


def test_a_file_without_tokens(tmp_path):
    (tmp_path / "tokens.txt").touch()
    with pytest.raises(InputError, match="the file is empty. It holds one token per line"):
        read_added_tokens(tmp_path / "tokens.txt", load_tokenizer(SAMPLE / "tiny-ernie", 32))


@pytest.mark.parametrize("spare", [0, 2, 9])
def test_rows_are_the_means_of_their_pieces(paddle, tmp_path, spare):
    """spare: rows that the embedding has beyond the vocabulary, as those of published encoders do."""
    vocab, config = (
        (SAMPLE / "tiny-ernie" / "vocab.txt").read_text("utf-8").split("\n"),
        read_config(SAMPLE / "tiny-ernie"),
    )
    lines = len(vocab) - 1
    model = build_model(library_config(config | {"vocab_size": lines + spare}))
    before = model.ernie.embeddings.word_embeddings.weight.numpy()
    assert vocab[lines] == "" and {"球", "队"} < set(vocab)
    (tmp_path / "tokens.txt").write_text("球队\n🙂\n队球队\n", "utf-8")
    tokenizer = load_tokenizer(SAMPLE / "tiny-ernie", 32)
    grown, said = add_tokens(tmp_path / "tokens.txt", model, tokenizer)
    rows = model.ernie.embeddings.word_embeddings.weight.numpy()
    first, second = before[vocab.index("球")], before[vocab.index("队")]
    assert np.array_equal(rows[:lines], before[:lines]) and np.array_equal(rows[lines + 3 :], before[lines + 3 :])
    np.testing.assert_allclose(rows[lines], (first + second) / 2, rtol=1e-6)
    np.testing.assert_array_equal(rows[lines + 1], before[vocab.index("[UNK]")])
    np.testing.assert_allclose(rows[lines + 2], (first + 2 * second) / 3, rtol=1e-6, atol=1e-9)
    assert model.config.vocab_size == len(rows) == lines + max(3, spare)
    assert said.startswith("--add_tokens: 3 more tokens; 1 of them were unknown so far")
    assert model(paddle.to_tensor([[1, lines + 2, 2]])).shape == [1, model.config.num_labels]


# ---- from one end to the other ---------------------------------------------------------------------------------------

DATA = {
    "train_txt": "国足今晚出战🙂\t体育,体育##足球\n联赛第三轮T恤开打\t体育,体育##篮球\n两市小幅收涨\t财经,财经##股票\n"
}
QUICK = ["--model_name", str(SAMPLE / "tiny-ernie"), "--device", "cpu", "--batch_size", "2", "--max_seq_length", "32"]


@pytest.fixture
def trained(paddle, data_dir, tmp_path):
    """(data directory, checkpoint, file of tokens) of a training that added two tokens."""
    data, path = data_dir(**DATA), tmp_path / "tokens.txt"
    path.write_text("🙂\nT恤\n", "utf-8")
    flags = ["--dataset_dir", str(data), "--save_dir", str(tmp_path / "checkpoint"), "--add_tokens", str(path)]
    train.main([*QUICK, "--epochs", "2", "--learning_rate", "1e-3", *flags])
    return data, tmp_path / "checkpoint", path


@pytest.mark.slow
def test_every_later_step_knows_them(trained, tmp_path, printed):
    data, folder, _ = trained
    count = len((SAMPLE / "tiny-ernie" / "vocab.txt").read_text("utf-8").splitlines())
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config["vocab_size"] == count + 2
    assert checkpoint.tokenizer.encode(["球🙂T恤"])[0][2:] == [count, count + 1, checkpoint.tokenizer.sep_id]
    identity = read_identity(folder / "model.safetensors")
    assert identity.items() >= digests_of(folder).items()
    weights = read_weights(folder / "model.safetensors")["ernie.embeddings.word_embeddings.weight"]
    assert weights.shape == (count + 2, 128)

    texts = ["前锋梅开二度🙂", "大盘T恤跳水", "🙂", "T恤T恤🙂公司"]
    (data / "data.txt").write_text("\n".join(texts) + "\n", "utf-8")
    path = ["--params_path", str(folder), "--device", "cpu"]
    export_model.main([*path[:2], "--output_path", str(tmp_path / "export")])
    expected = Predictor(folder).probabilities(texts)
    assert len(np.unique(expected.round(5), axis=0)) == 4  # the new rows count
    np.testing.assert_allclose(Predictor(tmp_path / "export").probabilities(texts), expected, atol=1e-5)
    evaluate.main([*path, "--dataset_dir", str(data), "--bad_case_file", str(tmp_path / "bad.txt")])
    predict.main([*path, "--dataset_dir", str(data), "--output_file", str(tmp_path / "p.jsonl"), "--floor", "0"])
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text("utf-8").splitlines()]
    found = [[row["probabilities"][label] for label in checkpoint.tree.labels] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    flags = ["--params_dir", str(folder), "--dataset_dir", str(data), "--output_dir", str(tmp_path / "prune")]
    prune.main([*flags, "--device", "cpu", "--num_train_epochs", "1", "--width_mult_list", "1/2"])
    width = next((tmp_path / "prune").glob("width_mult_*"))
    assert Predictor(width, kind="checkpoint").tokenizer.encode(texts) == checkpoint.tokenizer.encode(texts)
    assert Predictor(width, kind="checkpoint").config["vocab_size"] == count + 2
    # a next training goes on with them, and with what it adds itself
    (tmp_path / "more.txt").write_text("🙃\n", "utf-8")
    again = [
        "--model_name",
        str(folder),
        "--save_dir",
        str(tmp_path / "again"),
        "--add_tokens",
        str(tmp_path / "more.txt"),
    ]
    train.main([*QUICK, *again, "--dataset_dir", str(data), "--epochs", "1"])
    assert Checkpoint.open(tmp_path / "again").tokenizer.vocab == checkpoint.tokenizer.vocab | {"🙃": count + 2}


@pytest.mark.slow
def test_with_resume_and_init_from_ckpt(trained, tmp_path, capsys):
    data, folder, tokens = trained
    flags = [*QUICK, "--learning_rate", "1e-3", "--dataset_dir", str(data), "--add_tokens", str(tokens)]
    train.main([*flags, "--save_dir", str(tmp_path / "long"), "--epochs", "3"])
    train.main([*flags, "--save_dir", str(folder), "--epochs", "3", "--resume"])
    once, resumed = (read_weights(place / "state.safetensors") for place in (tmp_path / "long", folder))
    assert all(np.array_equal(once[name], resumed[name]) for name in once)
    with pytest.raises(InputError, match="add_tokens: '[0-9a-f]{16}' then, None now"):
        train.main([*flags[:-2], "--save_dir", str(folder), "--epochs", "4", "--resume"])
    tokens.write_text("🙂\nT恤\n🙃\n", "utf-8")
    with pytest.raises(InputError, match="add_tokens: "):
        train.main([*flags, "--save_dir", str(folder), "--epochs", "4", "--resume"])

    first = ["--init_from_ckpt", str(folder / "model.safetensors")]
    with pytest.raises(InputError, match="are for another vocab.txt than that of --model_name"):
        train.main([*flags, *first, "--save_dir", str(tmp_path / "new")])
    more = tmp_path / "more.txt"
    more.write_text("🙃\n", "utf-8")
    flags = [*QUICK, "--model_name", str(folder), "--dataset_dir", str(data), "--add_tokens", str(more)]
    train.main([*flags, *first, "--save_dir", str(tmp_path / "new"), "--epochs", "1", "--learning_rate", "1e-12"])
    old, new = (
        read_weights(place / "model.safetensors")[f"ernie.embeddings.{WORDS}"] for place in (folder, tmp_path / "new")
    )
    np.testing.assert_allclose(new[: len(old)], old, atol=1e-6)
    np.testing.assert_allclose(new[-1], old[Checkpoint.open(folder).tokenizer.unk_id], atol=1e-6)


def test_a_bad_file_is_told_before_anything_is_written(data_dir, tmp_path):
    (tmp_path / "tokens.txt").write_text("国\n", "utf-8")
    flags = ["--dataset_dir", str(data_dir()), "--save_dir", str(tmp_path / "new")]
    with pytest.raises(InputError, match="tokens.txt:1: '国' is known"):
        train.main([*QUICK, *flags, "--add_tokens", str(tmp_path / "tokens.txt")])
    assert not (tmp_path / "new" / "train.log").exists()


def test_an_edited_vocabulary_names_the_remedy(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("🙂\n")
    for told in (lambda: Checkpoint.open(folder), lambda: Checkpoint.open(without_identity(folder))):
        with pytest.raises(InputError, match="train.py --add_tokens"):
            told()
