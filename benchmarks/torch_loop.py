"""What inference.py compares with: the same weights in Hugging Face transformers on torch, as one would write it there.

    python benchmarks/torch_loop.py --params_path checkpoint --data_file texts.txt --output_file torch.txt
    python benchmarks/torch_loop.py ... --repetitions 3 --bf16 --compile

Needs torch, transformers and safetensors, in an environment of their own; nothing else of this toolkit needs them.
ERNIE's encoder is BERT's, so the weights of a checkpoint (not of ERNIE-M) go into BertForSequenceClassification. The
fast tokenizer pads batches in the order of the file to their longest text. With --repetitions the network
alone is timed, on one thread and batches of like lengths that are tokenised already, but for a first pass.
"""

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.numpy import load_file
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


def parse_args(argv):
    parser = argparse.ArgumentParser(description="Label texts with torch.")
    parser.add_argument("--params_path", type=Path, required=True)
    parser.add_argument("--data_file", type=Path, required=True)
    parser.add_argument("--output_file", type=Path, required=True)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args(argv)


def convert(state):
    """PaddleNLP's parameters under transformers' names; its linear layers are stored the other way round."""
    result = {}
    for name, array in state.items():
        tensor, new = torch.from_numpy(array), name.replace("ernie.", "bert.", 1)
        if ".layers." in new:
            new = new.replace(".layers.", ".layer.")
            part = next(part for part in LAYER if f".{part}." in new)
            new = new.replace(part, LAYER[part])
        new = new.replace("embeddings.layer_norm", "embeddings.LayerNorm")
        linear = tensor.ndim == 2 and "embeddings" not in new
        result[new] = tensor.T.contiguous() if linear else tensor
    return result


def measure(model, tokenizer, texts, length, args):
    """Print the milliseconds that the network takes for a text, in the best of the repetitions."""
    torch.set_num_threads(1)
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=length)["input_ids"]]
    order = sorted(range(len(texts)), key=lambda i: lengths[i])
    batches = [
        tokenizer([texts[i] for i in order[start : start + args.batch_size]], truncation=True, max_length=length,
                  padding=True, return_tensors="pt")
        for start in range(0, len(texts), args.batch_size)
    ]  # fmt: skip
    compute = torch.compile(model, dynamic=True) if args.compile else model
    times = []
    for _ in range(1 + args.repetitions):
        began = time.perf_counter()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16) if args.bf16 else nullcontext():
            for batch in batches:
                compute(**batch)
        times.append(time.perf_counter() - began)
    name = f"torch {torch.__version__}, {'bfloat16' if args.bf16 else 'float32'}{', compiled' if args.compile else ''}"
    print(f"{name:<40} {1000 * min(times[1:]) / len(texts):7.2f} ms a text, first pass {times[0]:.1f} s", flush=True)


def main(argv=None):
    args = parse_args(argv)
    labels = (args.params_path / "label.txt").read_text(encoding="utf-8").split()
    settings = json.loads((args.params_path / "config.json").read_text(encoding="utf-8"))
    length = json.loads((args.params_path / "decision.json").read_text(encoding="utf-8"))["max_seq_length"]
    names = (
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act type_vocab_size "
        "max_position_embeddings layer_norm_eps"
    ).split()
    config = BertConfig(num_labels=len(labels), **{name: settings[name] for name in names if name in settings})
    model = BertForSequenceClassification(config)
    model.load_state_dict(convert(load_file(args.params_path / "model.safetensors")))
    model.eval()
    tokenizer = BertTokenizerFast(str(args.params_path / "vocab.txt"), do_lower_case=True)
    texts = args.data_file.read_text(encoding="utf-8").splitlines()
    if args.repetitions:
        return measure(model, tokenizer, texts, length, args)
    with open(args.output_file, "w", encoding="utf-8") as file, torch.inference_mode():
        for start in range(0, len(texts), args.batch_size):
            batch = texts[start : start + args.batch_size]
            inputs = tokenizer(batch, truncation=True, max_length=length, padding=True, return_tensors="pt")
            for row in model(**inputs).logits.sigmoid() > 0.5:
                file.write(",".join(labels[i] for i in row.nonzero()[:, 0].tolist()) + "\n")


if __name__ == "__main__":
    main()
