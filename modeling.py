"""Models: finding or downloading an encoder, building a network, logits and features of texts.

paddle is imported inside the functions, so that a script can check its arguments before the seconds that takes.
"""

import json
import os
from pathlib import Path

import numpy as np

from metric import Scores, decide
from utils import InputError, length_sorted_batches, pad, require_file
from weights import PICKLED_WEIGHTS

MODEL_NAMES = (
    "ernie-1.0-large-zh-cw ernie-3.0-xbase-zh ernie-3.0-base-zh ernie-3.0-medium-zh ernie-3.0-mini-zh "
    "ernie-3.0-micro-zh ernie-3.0-nano-zh ernie-2.0-base-en ernie-2.0-large-en ernie-m-base ernie-m-large"
).split()
MODEL_FILES = "A model directory holds config.json, vocab.txt, tokenizer_config.json and the weights."
WINDOW = 4096  # rows whose logits are held at a time, so that memory stays constant with large label sets
ARCHITECTURES = {"ernie": "ErnieForSequenceClassification", "ernie_m": "ErnieMForSequenceClassification"}


def require_model(name):
    """Raise InputError for what can be wrong with --model_name before paddle is loaded or anything downloaded."""
    if Path(name).is_dir():
        require_file(Path(name) / "config.json", MODEL_FILES)
    elif name not in MODEL_NAMES:
        raise InputError(
            f"--model_name {name}: neither a local directory nor a known name. Known: {', '.join(MODEL_NAMES)}."
        )


def model_directory(name):
    """The local directory of a model: the one given, or for one of MODEL_NAMES the downloaded files."""
    require_model(name)
    if Path(name).is_dir():
        return Path(name)
    import paddlenlp.transformers as library
    from paddlenlp.utils.download import resolve_file_path
    from paddlenlp.utils.env import MODEL_HOME

    # Only files are fetched here; from_pretrained() would also unpickle them.
    home = Path(MODEL_HOME) / "hierarchical" / name
    kind = "ErnieM" if name.startswith("ernie-m") else "Ernie"
    classes = getattr(library, f"{kind}Config"), getattr(library, f"{kind}Tokenizer"), getattr(library, f"{kind}Model")
    try:
        if not (home / PICKLED_WEIGHTS).exists():
            home.mkdir(parents=True, exist_ok=True)
            classes[1].from_pretrained(name).save_pretrained(home)
            classes[0].from_pretrained(name).save_pretrained(home)
            url = classes[2].pretrained_resource_files_map["model_state"][name]
            downloaded = resolve_file_path(name, [PICKLED_WEIGHTS], url=url, cache_dir=home)
            os.replace(downloaded, home / PICKLED_WEIGHTS)
    except Exception as error:  # whatever the network and the download code come up with
        raise InputError(
            f"--model_name {name}: could not be downloaded ({type(error).__name__}). Without a network, copy the model "
            "directory (config.json, vocab.txt, tokenizer_config.json and the weights) from a machine that has one, "
            "and pass its path: --model_name path/to/directory"
        ) from None
    return home


def read_config_file(directory):
    """config.json of a model directory as a dict whose model_type is supported; needs no paddle."""
    path = Path(directory) / "config.json"
    require_file(path, MODEL_FILES)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a model configuration ({error}).") from None
    if kind not in ARCHITECTURES:
        raise InputError(f"{path}: model_type is {kind!r}; supported are {', '.join(ARCHITECTURES)}.")
    return config


def read_config(directory):
    """The library's configuration object of a model directory."""
    kind = read_config_file(directory)["model_type"]
    import paddlenlp.transformers as library

    return getattr(library, ARCHITECTURES[kind].replace("ForSequenceClassification", "Config")).from_pretrained(
        str(directory)
    )


def build_model(config):
    """A model with random parameters for the configuration: token ids in, logits [n, num_labels] out.

    A configuration with `head_dim` is that of a pruned network (see prune.py): num_attention_heads x head_dim need not
    be hidden_size. The library knows no such thing, so its linear layers are replaced here.
    """
    import paddlenlp.transformers as library

    network, head_dim = getattr(library, ARCHITECTURES[config.model_type]), getattr(config, "head_dim", None)
    if head_dim is None:
        return network(config)
    heads, hidden = config.num_attention_heads, config.hidden_size
    config.num_attention_heads = 1  # fits every hidden size
    model = network(config)
    config.num_attention_heads = heads
    for layer in model.base_model.encoder.layers:
        attention = layer.self_attn
        attention.num_heads, attention.head_dim = heads, head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(attention, name, _linear(hidden, heads * head_dim))
        attention.out_proj = _linear(heads * head_dim, hidden)
        layer.linear1 = _linear(hidden, config.intermediate_size)  # the library's ERNIE-M knows 4 x hidden_size only
        layer.linear2 = _linear(config.intermediate_size, hidden)
    return model


def _linear(n_inputs, n_outputs):
    import paddle

    return paddle.nn.Linear(n_inputs, n_outputs)


def model_inputs(ids, pad_id):
    """Lists of token ids -> the model's keyword arguments: padded ids and the mask that hides the padding.

    "[PAD]" spelt out in a text is hidden too, as in an exported graph, which has only the ids to tell by.
    """
    import paddle

    padded = pad(ids, pad_id)
    mask = (padded != pad_id).astype(np.int64)
    return {"input_ids": paddle.to_tensor(padded), "attention_mask": paddle.to_tensor(mask)}


def predict_logits(model, ids, pad_id, batch_size, progress=None):
    """float32 logits [N, L] of tokenised texts, in the order given; the model is in eval mode meanwhile.

    progress: called with the number of rows done after each batch.
    """
    return _outputs(model, model, model.config.num_labels, ids, pad_id, batch_size, progress)


def _outputs(model, forward, width, ids, pad_id, batch_size, progress):
    """What `forward(**model_inputs)` gives for tokenised texts, float32 [N, width]."""
    import paddle

    was_training = model.training
    model.eval()
    outputs = np.zeros((len(ids), width), np.float32)
    with paddle.no_grad():
        for batch in length_sorted_batches([len(row) for row in ids], batch_size):
            outputs[batch] = forward(**model_inputs([ids[i] for i in batch], pad_id)).numpy()
            if not np.isfinite(outputs[batch]).all():
                raise InputError("the model's outputs are not finite: its training diverged; use a lower learning rate")
            if progress:
                progress(len(batch))
    if was_training:
        model.train()
    return outputs


def score(model, tree, rows, ids, pad_id, decision, batch_size, progress=None, rank=0, world=1):
    """`metric.Scores` of a model on labelled Rows and their token ids; with several processes, on every `world`-th."""
    scores, own = Scores(tree), np.arange(rank, len(ids), world)
    for start in range(0, len(own), WINDOW):
        part = own[start : start + WINDOW]
        logits = predict_logits(model, [ids[i] for i in part], pad_id, batch_size, progress)
        gold = rows.multi_hot(len(tree), part)
        losses = (np.logaddexp(0, logits) - logits * gold).mean(1)  # binary cross-entropy of logits
        scores.update(decide(sigmoid(logits), tree, decision), gold, losses)
    return scores


def probability_windows(model, tokenizer, rows, batch_size, name):
    """Yield (row numbers, their probabilities float32 [n, L]) window by window, with a progress bar on a terminal."""
    from tqdm import tqdm

    with tqdm(total=len(rows.texts), desc=name, disable=None, leave=False) as bar:
        for start in range(0, len(rows.texts), WINDOW):
            window = range(start, min(start + WINDOW, len(rows.texts)))
            ids = tokenizer.encode([rows.texts[i] for i in window])
            yield window, sigmoid(predict_logits(model, ids, tokenizer.pad_id, batch_size, bar.update))


def encode_features(model, tokenizer, texts, batch_size, name):
    """float32 features [N, hidden size] of texts, in the order given, with a progress bar on a terminal.

    A text's feature is what the classifier layer sees of it: the pooled [CLS] vector, without dropout.
    """
    from tqdm import tqdm

    encoder, width = getattr(model, model.base_model_prefix), model.config.hidden_size
    ids = tokenizer.encode(texts)
    with tqdm(total=len(texts), desc=name, disable=None, leave=False) as bar:
        return _outputs(
            model, lambda **inputs: encoder(**inputs)[1], width, ids, tokenizer.pad_id, batch_size, bar.update
        )


def sigmoid(logits):
    """Probabilities of logits, float32, without overflow."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64))).astype(np.float32)
