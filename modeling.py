"""The model side of what scripts share: runtime settings, building a model, checkpoints that are safe to load.

A checkpoint folder is self-contained:
    config.json, model.safetensors, model_state.pdparams     the library's files; weights are read from safetensors
    vocab.txt, tokenizer_config.json, ...                    the tokenizer
    label.txt                                                the labels in class-index order
    decision.json                                            maximum length, threshold(s), decoding it was scored with
Nothing in it is ever unpickled freely: a .pdparams is read through an unpickler that knows arrays and plain containers.

paddle is imported inside the functions, so that a script can check its arguments before the seconds that takes.
"""

import json
import os
import pickle
import re
import warnings
from pathlib import Path

import numpy as np

from metric import DECODINGS, Decision, Scores, decide
from tokenizer import load_tokenizer
from utils import InputError, LabelTree, atomic_write, get_logger, length_sorted_batches, pad, require_file

WEIGHTS, PICKLED_WEIGHTS, DECISION = "model.safetensors", "model_state.pdparams", "decision.json"
MODEL_NAMES = (
    "ernie-1.0-large-zh-cw ernie-3.0-xbase-zh ernie-3.0-base-zh ernie-3.0-medium-zh ernie-3.0-mini-zh "
    "ernie-3.0-micro-zh ernie-3.0-nano-zh ernie-2.0-base-en ernie-2.0-large-en ernie-m-base ernie-m-large"
).split()
MODEL_FILES = "A model directory holds config.json, vocab.txt, tokenizer_config.json and the weights."
WINDOW = 4096  # rows whose logits are held at a time, so that memory stays constant with large label sets
ARCHITECTURES = {"ernie": "ErnieForSequenceClassification", "ernie_m": "ErnieMForSequenceClassification"}


# ---- runtime ---------------------------------------------------------------------------------------------------------


def prepare_runtime(device):
    """Settings that count only before paddle is loaded; what the user has set in the environment stays."""
    warnings.filterwarnings("ignore")  # the libraries' own import-time noise
    settings = {"GLOG_minloglevel": "2", "FLAGS_use_stride_kernel": "0", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        if code_path := _mkl_code_path():
            settings["MKL_DEBUG_CPU_TYPE"] = code_path
        # Left alone, paddle uses a single core. Several processes share the cores among themselves.
        if "OMP_NUM_THREADS" not in os.environ and int(os.environ.get("PADDLE_TRAINERS_NUM", 1)) == 1:
            settings["MKL_NUM_THREADS"] = str(available_cores())
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def available_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _mkl_code_path(cpuinfo="/proc/cpuinfo"):
    """On AMD processors MKL takes its slowest code path unless told which instructions it may use (measured: 2.6x)."""
    try:
        text = Path(cpuinfo).read_text()
    except OSError:
        return None
    found = re.search(r"^flags\s*:(.*)", text, re.M)
    if "AuthenticAMD" not in text or not found:
        return None
    flags = found[1].split()
    return "7" if "avx512f" in flags else "5" if "avx2" in flags else None


def set_device(device):
    """Load paddle and choose the device; without the accelerator asked for, warn and use the CPU. Returns paddle."""
    prepare_runtime("cpu" if device == "gpu" and not has_nvidia_driver() else device)
    import paddle

    logging_off()
    kind = device.partition(":")[0]
    built = {"cpu": True, "gpu": paddle.is_compiled_with_cuda(), "xpu": paddle.is_compiled_with_xpu()}
    present = built.get(kind, kind in paddle.device.get_all_custom_device_type())
    if kind == "gpu" and present:
        present = paddle.device.cuda.device_count() > 0
    if not present:
        get_logger().warning(
            f"--device {device} asked for, but this machine or this build of paddle has none: running on the CPU. "
            "Pass --device cpu to say so yourself; for GPUs install requirements-gpu.txt."
        )
        device = "cpu"
    try:
        paddle.set_device(device)
    except (ValueError, OSError, RuntimeError) as error:  # such as gpu:7 where there are two
        raise InputError(f"--device {device}: {error}") from None
    return paddle


def has_nvidia_driver():
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version"))


def logging_off():
    """The libraries' logs are about themselves; the scripts say what they do."""
    import logging

    from paddlenlp.utils.log import logger

    logger.set_level("ERROR")
    logging.getLogger("paddle").setLevel(logging.ERROR)


# ---- weights ---------------------------------------------------------------------------------------------------------


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers, and refuses everything else: nothing in the file is run."""

    KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),
    }

    def find_class(self, module, name):
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is code, not numbers")
        return super().find_class(module, name)


def read_weights(path):
    """Parameter name -> numpy array, from a .safetensors or .pdparams file. Raises InputError for anything foreign."""
    path = Path(path)
    require_file(path, "It holds the parameters of a model.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            state = load_file(path)
        else:
            with open(path, "rb") as file:
                state = _ArrayUnpickler(file).load()
            state.pop("StructuredToParameterName@@", None)
        if not all(isinstance(value, np.ndarray) and value.dtype.kind in "fiub" for value in state.values()):
            raise ValueError("not a dict of arrays of numbers")
        # numpy has no bfloat16: paddle writes its bits as uint16, which are the upper half of a float32
        return {
            name: (value.astype(np.uint32) << 16).view(np.float32) if value.dtype == np.uint16 else value
            for name, value in state.items()
        }
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile file can make the readers raise anything
        raise InputError(
            f"{path}: not a usable parameter file ({error}). It may be cut short, or was not written by paddle; "
            "copy it again, or train anew."
        ) from None


def write_weights(directory, model):
    """model.safetensors, and the same numbers as model_state.pdparams for tools that expect the older name."""
    from safetensors.numpy import save

    state = {name: value.numpy() for name, value in model.state_dict().items()}
    with atomic_write(Path(directory) / WEIGHTS, "wb") as file:
        file.write(save(state, {"format": "np"}))
    with atomic_write(Path(directory) / PICKLED_WEIGHTS, "wb") as file:
        pickle.dump(state, file, protocol=4)


def find_weights(directory):
    """The parameter file of a model directory, safetensors before .pdparams; None if it has neither."""
    return next((p for name in (WEIGHTS, PICKLED_WEIGHTS) if (p := Path(directory) / name).exists()), None)


def load_weights(model, path, encoder_only=False):
    """Copy a file's parameters into `model`, by name, with or without the encoder's prefix.

    encoder_only: the file is a pre-trained encoder: heads it brings are ignored, and ours need not be in it.
    Raises InputError for a parameter that is missing or whose shape differs: never a silent random start.
    """
    state, wanted, prefix = read_weights(path), model.state_dict(), model.base_model_prefix + "."
    if encoder_only:
        wanted = {name: value for name, value in wanted.items() if name.startswith(prefix)}
    found, faults = {}, []
    for name in wanted:
        value = state.get(name, state.get(name.removeprefix(prefix)))
        if value is None:
            if not (encoder_only and "pooler" in name):  # encoders without one exist; it then starts at random
                faults.append(f"{name} is missing")
        elif list(value.shape) != list(wanted[name].shape):
            faults.append(f"{name} has the shape {list(value.shape)}, this model needs {list(wanted[name].shape)}")
        else:
            found[name] = value
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise InputError(f"{path}: does not fit this model: {'; '.join(faults[:5])}{more}.")
    model.set_state_dict({name: value.astype("float32") for name, value in found.items()})


# ---- models ----------------------------------------------------------------------------------------------------------


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


# ---- decision settings on the command line ---------------------------------------------------------------------------


def add_decision_arguments(parser, default):
    """The flags that turn probabilities into label sets; returns their group. default: a Decision, or None for "as
    stored with the checkpoint"."""
    group = parser.add_argument_group("decision")
    stored = "" if default else " (default: as stored in the checkpoint)"
    shown = default.to_dict() if default else dict.fromkeys(Decision().to_dict())
    group.add_argument(
        "--threshold", type=float, default=shown["threshold"], help=f"a label needs a probability above this{stored}"
    )
    group.add_argument(
        "--decoding",
        choices=DECODINGS,
        default=shown["decoding"],
        help="raw: each label on its own; closure: a label brings its ancestors; topdown: no label without its "
        f"ancestors{stored}",
    )
    for name, text in (
        ("min_labels", "at least this many labels in every row"),
        ("max_labels", "at most this many labels in every row"),
        ("top_k", "exactly this many labels in every row, whatever the threshold"),
    ):
        group.add_argument(f"--{name}", type=int, default=shown[name], help=f"{text}{stored}")
    return group


def decision_from_arguments(args, stored=None):
    """The Decision asked for on the command line; what it leaves open is taken from `stored`."""
    names = ("threshold", "decoding", "min_labels", "max_labels", "top_k")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    settings = stored.to_dict() if stored else {}
    if "top_k" in given:  # a number of labels asked for now replaces any limits stored earlier, and the other way round
        settings |= {"min_labels": 0, "max_labels": None}
    elif "min_labels" in given or "max_labels" in given:
        settings["top_k"] = None
    try:
        return Decision.from_dict(settings | given)
    except ValueError as error:
        raise InputError(f"decision settings: {error}.") from None


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def write_settings(directory, tree, max_seq_length, decision):
    """The part of a checkpoint that makes it self-contained: label.txt and decision.json."""
    with atomic_write(Path(directory) / "label.txt") as file:
        file.writelines(f"{label}\n" for label in tree.labels)
    with atomic_write(Path(directory) / DECISION) as file:
        json.dump({"max_seq_length": max_seq_length, **decision.to_dict()}, file, ensure_ascii=False, indent=1)


def read_settings(directory, exported=False):
    """(LabelTree, max_seq_length, Decision) of a checkpoint; needs no paddle. Raises InputError if it is not one.

    exported: the directory is one of export_model.py, which needs no weights of train.py.
    """
    directory = Path(directory)
    if not directory.is_dir():
        flag = "--output_path of export_model.py" if exported else "--save_dir of train.py"
        raise InputError(f"{directory}: no such directory. Pass the {flag}.")
    hint = f"{directory} is not a complete {'export of export_model.py' if exported else 'checkpoint of train.py'}."
    if not exported and find_weights(directory) is None:
        raise InputError(f"{directory}: no {WEIGHTS} in it. {hint}")
    require_file(directory / "config.json", hint)
    tree = LabelTree.read(directory / "label.txt")
    return tree, *read_decision(directory, tree, hint)


def read_decision(directory, tree, hint="It lies beside label.txt."):
    """(max_seq_length, Decision) of a directory that `write_settings` wrote for the labels of `tree`."""
    path = Path(directory) / DECISION
    require_file(path, hint)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        max_seq_length = settings.pop("max_seq_length")
        if not isinstance(max_seq_length, int) or max_seq_length < 3:
            raise ValueError(f"max_seq_length is {max_seq_length!r}")
        decision = Decision.from_dict(settings)
        if isinstance(decision.threshold, list) and len(decision.threshold) != len(tree):
            raise ValueError(f"{len(decision.threshold)} thresholds for {len(tree)} labels")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not the decision settings of a checkpoint ({error}).") from None
    return max_seq_length, decision


def open_checkpoint(directory, max_seq_length=None, exported=False):
    """(LabelTree, tokenizer, stored Decision) of a checkpoint; needs no paddle. Raises InputError if it is not one.

    max_seq_length: replaces the one of the training, with a warning; the tokenizer holds the one in force.
    exported: the directory is one of export_model.py.
    """
    tree, trained, decision = read_settings(directory, exported)
    length = max_seq_length or trained
    if length != trained:
        get_logger().warning(f"--max_seq_length {length}: the model was trained with {trained}")
    if length > (limit := read_config_file(directory).get("max_position_embeddings", length)):
        raise InputError(f"--max_seq_length {length}: this model reads at most {limit} tokens.")
    return tree, load_tokenizer(directory, length), decision


def save_checkpoint(directory, model, tokenizer, tree, decision):
    """Write a checkpoint, each file atomically, the weights last."""
    model.config.architectures = [type(model).__name__]
    with atomic_write(Path(directory) / "config.json") as file:
        file.write(model.config.to_json_string())
    tokenizer.save(directory)
    write_settings(directory, tree, tokenizer.max_seq_length, decision)
    write_weights(directory, model)


def require_same_labels(tree, path):
    """Raise InputError when a data folder's label.txt is not the list the checkpoint was trained with."""
    if not Path(path).exists():
        return
    other = LabelTree.read(path)
    if other.labels == tree.labels:
        return
    gone, new = [x for x in tree.labels if x not in other.index], [x for x in other.labels if x not in tree.index]
    what = [f"only in the checkpoint: {', '.join(gone[:5])}"] * bool(gone)
    what += [f"only in the file: {', '.join(new[:5])}"] * bool(new)
    raise InputError(
        f"{path}: differs from the labels the checkpoint was trained with "
        f"({'; '.join(what) or 'same labels in another order'}). Restore the file, or train again."
    )


def load_checkpoint(directory):
    """The model of a checkpoint, in eval mode. Raises InputError when its files do not fit each other."""
    tree = LabelTree.read(Path(directory) / "label.txt")
    config = read_config(directory)
    if config.num_labels != len(tree):
        raise InputError(f"{directory}: the model has {config.num_labels} outputs, but label.txt {len(tree)} labels.")
    model = build_model(config)
    load_weights(model, find_weights(directory) or Path(directory) / WEIGHTS)
    model.eval()
    return model
