"""Make the tiny random encoders beside this file, as transformers writes them, and what transformers makes of texts.

    pip install torch transformers sentencepiece tokenizers        # in an environment of its own
    python tests/data/encoders/make_encoders.py tests/data/encoders --seed 0

Reads   data/train.txt of this project, for the vocabularies
Writes  folder/{bert,ernie,roberta,xlm-roberta}/   encoders; each in another of the forms that such folders have
        folder/KIND/expected.json                  texts, and their ids by transformers
        folder/KIND/expected.safetensors           outputs of the first texts: hidden0 [tokens, 8], pooled0 [8], ...

bert         vocab.txt, model.safetensors, gelu_new, an epsilon of 0.001
ernie        tokenizer.json alone, pytorch_model.bin, relu, task types
roberta      vocab.json and merges.txt, pytorch_model.bin of before torch 1.6, with a prefix and the oldest names
xlm-roberta  sentencepiece.bpe.model, bfloat16 in several files with an index, a head for masks, no pooler
"""

import argparse
import json
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
N_OUTPUTS = 8  # texts whose outputs are kept
TEXTS = [
    "国足今晚出战，主帅说：“这是2022年最重要的比赛”",
    "The first train to Beijing left at 10:30, didn't it?",
    "Café naïve Ångström HELLO straße",
    "A股三大指数集体高开 up 3.5%",
    "",
    "a",
    "x " * 40,
    "😀 new 🫨 film ❤️ 👨‍👩‍👧",
    "² µ Ø 〇 ½ ㎡ ® ℃ ㈱ ﬁne",
    "ＡＢＣ１２３，。！？ ｱｲｳ",
    "a\u200bb\u00adc\ufeff\x01\x7f\x85 d\u3000e\u00a0f\u2028g\tи\n",
    "한국어 가 हिन्दी العربية עִבְרִית ภาษาไทย தமிழ்",
    "\u4e00\u3400\U00020000\U0002b820\uf900 々〆",
    "İstanbul ΑΣ Σ ǅ ẞ",
    "[SEP] a[MASK]b <mask> <s> </s> <pad> [UNK]",
    "a\u0300\u0323 e\u0301 \u1dfa \U00011c33 \u2e43 \u1b7d",
    "$100 ^_^ `code` {x|y} ~5 + 6 = 11 ‰ — …",
    "1" * 120 + " " + "ab" * 60,
    "北京今天下雨" * 12,
    "don't won't I'll we've THEY'RE 'tis",
]


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def corpus(n_lines=600):
    lines = [line.split("\t")[0] for line in (ROOT / "data" / "train.txt").read_text("utf-8").splitlines()]
    return lines[:n_lines] + TEXTS * 3


def config_of(kind, size, **more):
    import transformers

    name = {"bert": "Bert", "ernie": "Ernie", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}[kind]
    more |= {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    return getattr(transformers, name + "Config")(vocab_size=size, initializer_range=0.4, **more)


def disturbed(model):
    """All parameters are random, those too that start as zeros and ones."""
    import torch

    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def make_bert(folder):
    from tokenizers.implementations import BertWordPieceTokenizer
    from transformers import BertModel

    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator(corpus(), vocab_size=400, limit_alphabet=250, show_progress=False)
    tokenizer.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    config = config_of("bert", 400, hidden_act="gelu_new", layer_norm_eps=1e-3, max_position_embeddings=64)
    disturbed(BertModel(config)).save_pretrained(folder)


def make_ernie(folder):
    import torch
    from tokenizers.implementations import BertWordPieceTokenizer
    from transformers import BertTokenizer, ErnieForMaskedLM

    trained = BertWordPieceTokenizer(lowercase=False)
    trained.train_from_iterator(corpus(), vocab_size=300, limit_alphabet=200, show_progress=False)
    trained.save_model(str(folder))
    BertTokenizer.from_pretrained(folder, do_lower_case=False).save_pretrained(folder)
    (folder / "vocab.txt").unlink()
    config = config_of(
        "ernie", 300, hidden_act="relu", layer_norm_eps=1e-5, use_task_id=True, max_position_embeddings=64
    )
    model = disturbed(ErnieForMaskedLM(config))
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def make_roberta(folder):
    import torch
    from tokenizers.implementations import ByteLevelBPETokenizer
    from transformers import RobertaModel

    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(corpus(), vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.save_model(str(folder))
    config = config_of("roberta", 400, layer_norm_eps=1e-5, max_position_embeddings=66, type_vocab_size=1)
    model = disturbed(RobertaModel(config))
    model.config.save_pretrained(folder)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for name, value in model.state_dict().items():
        for now, then in old.items():
            name = name.replace(now, then)
        state[f"roberta.{name}"] = value
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def make_xlm_roberta(folder):
    import sentencepiece
    import torch
    from transformers import XLMRobertaForMaskedLM

    rules = folder / "rules.tsv"  # those of the real model would take 300 KB
    pairs = {
        "\u3000": " ",
        "㈱": "(株)",
        "ﬁ": "fi",
        "，": ",",
        "Ａ": "A",
        "½": "1/2",
        "\u200b": "",
        "\t": " ",
        "\n": " ",
    }
    rules.write_text("".join(f"{code(key)}\t{code(value)}\n" for key, value in pairs.items()))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus(40)), model_prefix=str(folder / "trained"), vocab_size=640,
        normalization_rule_tsv=str(rules), character_coverage=0.98, unk_id=0, bos_id=1, eos_id=2, minloglevel=2,
        hard_vocab_limit=False, num_threads=1,
    )  # fmt: skip
    (folder / "trained.model").rename(folder / "sentencepiece.bpe.model")
    (folder / "trained.vocab").unlink()
    rules.unlink()
    size = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model")).get_piece_size()
    config = config_of("xlm-roberta", size + 2, layer_norm_eps=1e-5, max_position_embeddings=66, type_vocab_size=1)
    model = disturbed(XLMRobertaForMaskedLM(config)).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="6KB")


def code(text):
    return " ".join(f"{ord(char):X}" for char in text)


def write_expected(folder):
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows, arrays = [tokenizer(text)["input_ids"] for text in TEXTS], {}
    for i, ids in enumerate(rows[:N_OUTPUTS]):
        if len(ids) > 32:
            ids = ids[:31] + ids[-1:]
        with torch.no_grad():
            outputs = model(torch.tensor([ids]))
        arrays[f"hidden{i}"] = outputs.last_hidden_state[0].contiguous()
        if folder.name in ("bert", "roberta"):  # the others have no pooler
            arrays[f"pooled{i}"] = outputs.pooler_output[0].contiguous()
    save_file(arrays, folder / "expected.safetensors")
    (folder / "expected.json").write_text(json.dumps({"texts": TEXTS, "ids": rows}))


def main(argv=None):
    args = parse_args(argv)
    import torch

    torch.manual_seed(args.seed)
    random.seed(args.seed)
    makers = {"bert": make_bert, "ernie": make_ernie, "roberta": make_roberta, "xlm-roberta": make_xlm_roberta}
    for kind, make in makers.items():
        folder = args.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)
        write_expected(folder)
        print(kind, sum(path.stat().st_size for path in folder.iterdir()), "bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
