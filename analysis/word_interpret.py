"""Which words made the model say each label?

    python analysis/word_interpret.py --dataset_dir data --params_path checkpoint
    python analysis/word_interpret.py --dataset_dir data --params_path checkpoint --interpret_input_file dev.txt \
        --interpreter lime --num_rows 3

Reads   dataset_dir/bad_case.txt           of evaluate.py; or rows with or without labels, see cases.py
        params_path/                       the checkpoint, of train.py, prune.py or few-shot/train.py
Writes  dataset_dir/word_interpret.jsonl   {text, labels, prediction, explanations: [{label, probability, words, ...}]}
        dataset_dir/word_interpret.html    the same as a page, words coloured by their score
and to a terminal the coloured words. Each predicted label is explained on its own, and each given one that was missed.

A word's score is in logits (log odds) of the label: above 0 it speaks for the label, below 0 against it.
    ig     integrated gradients (Sundararajan, Taly and Yan 2017, Axiomatic attribution for deep networks), from the
           same text with every token masked: scores add up to logit - baseline_logit
    grad   gradient SHAP, or expected gradients (Erion et al. 2021, Improving performance of deep learning models with
           axiomatic attribution priors): the same at random points, with noise on the text's embeddings
    lime   local linear model of texts with words deleted (Ribeiro, Singh and Guestrin 2016, "Why should I trust you?")
What a linear branch adds is known exactly, and is added to each of them. The template around a text (few-shot/train.py
--method prompt) stays as it is: only the text's own words are masked or deleted.
TrustAI has these methods, too, but it explains the one label with the highest soft-max, its LIME needs an option that
scikit-learn removed and its gradient SHAP a package that is no longer kept; patching it takes more lines than these.
"""

import json
import os
import sys
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import NamedTuple

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.cases import in_directory, read_cases, report_other_predictions
from analysis.models import load_model, open_checkpoint
from analysis.report import render
from analysis.words import word_spans
from hierarchical.checkpoints import require_same_labels
from hierarchical.console import cut
from hierarchical.decisions import probabilities_of
from hierarchical.devices import set_device
from hierarchical.encoders import family_of
from hierarchical.linear import with_linear
from hierarchical.modeling import predict_logits
from metric import decide
from utils import (
    FLAT,
    InputError,
    add_checkpoint_arguments,
    add_dataset_arguments,
    atomic_write,
    check_minima,
    get_logger,
    label_faults,
    make_parser,
    progress_bar,
    require_directory,
    require_outputs,
    run,
    shown,
)

SAMPLES = {"ig": 64, "grad": 64, "lime": 1000}
NOISE = 0.1  # of grad, in standard deviations of the text's embeddings
KERNEL = 0.25  # of lime: how fast a text counts less the more words are deleted
TOLERANCE = 0.05  # of ig: scores may miss logit - baseline_logit by this share of it before a warning


def parse_args(argv):
    parser = make_parser("Words that speak for a label.")
    data = parser.add_argument_group("data")
    add_dataset_arguments(data, compared=True)
    data.add_argument("--interpret_input_file", default="bad_case.txt", help="texts to explain")
    data.add_argument("--num_rows", type=int, default=20, help="texts from the head of the file; 0: all")
    add_checkpoint_arguments(parser, batch_size=16, batch="steps or changed texts at a time")
    how = parser.add_argument_group("explanation")
    how.add_argument(
        "--interpreter", choices=SAMPLES, default="ig", help="ig: integrated gradients; grad: gradient SHAP; lime: LIME"
    )
    steps = ", ".join(f"{name} {count}" for name, count in SAMPLES.items())
    how.add_argument("--samples", type=int, help=f"steps or changed texts for each text (default: {steps})")
    how.add_argument("--label", nargs="+", help="explain these labels, predicted or not")
    how.add_argument("--top_k", type=int, default=5, help="key words of a label: those with the highest scores")
    how.add_argument("--seed", type=int, default=3, help="of grad and lime")
    result = parser.add_argument_group("result")
    result.add_argument("--interpret_result_file", default="word_interpret.jsonl", help="a bare name: in dataset_dir")
    result.add_argument("--html_file", default="word_interpret.html", help="a bare name: in dataset_dir")
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3, samples=1, top_k=1, num_rows=0, seed=0)
    args.samples = args.samples or SAMPLES[args.interpreter]
    return args


# ---- words and tokens ------------------------------------------------------------------------------------------------


def align(words, tokens):
    """(word spans, the word's number of each token int64 [T]): words that share a token are made one.

    words, tokens: ascending (start, end) in the text. A token between words belongs to the next one.
    """
    starts, ends = zip(*words)
    first = [min(bisect_right(ends, start), len(words) - 1) for start, _ in tokens]
    joined = np.zeros(len(words), bool)  # to the word before
    for word, (_, end) in zip(first, tokens):
        joined[word + 1 : bisect_left(starts, end)] = True
    group = np.cumsum(~joined) - 1
    spans = [
        (starts[np.argmax(group == g)], ends[len(group) - 1 - np.argmax(group[::-1] == g)])
        for g in range(group[-1] + 1)
    ]
    return spans, group[np.array(first, np.int64)]


# ---- methods: scores float64 [labels, tokens or words] ---------------------------------------------------------------


def halves_of(model, ids):
    """Of a model, for one text's token ids: (ids int64 [S, T] -> embeddings [S, T, H], embeddings -> logits [S, L])."""
    import paddle

    def mask(embedded):
        return paddle.ones(embedded.shape[:2], "int64")

    if not hasattr(model, "label_vectors"):  # one of train.py
        table = family_of(model).word_embeddings(model)
        return table, lambda embedded: model(inputs_embeds=embedded, attention_mask=mask(embedded))
    own = paddle.to_tensor([ids])
    counted = model.counted(own, paddle.ones_like(own))  # of a template, its masks, and none of those of a baseline

    def logits(embedded):
        return model.score(model.pool(embedded, mask(embedded), counted.expand(embedded.shape[:2])))

    return model.embed, logits


def path_gradients(model, logits_of, start, ends, shares, labels, batch_size):
    """Mean over S points of gradient x (end - start), at start + share x (end - start), for the logits of `labels`.

    logits_of: embeddings -> logits, see `halves_of`. start float32 [T, H], ends [S, T, H] or [T, H], shares [S] ->
    float64 [len(labels), T]
    """
    import paddle

    # Paddle 3.1's layer norm on CPUs forgets its weight in the gradient of its input, unless the gradient of the weight
    # is asked for, too.
    norms = [layer.weight for layer in model.sublayers() if isinstance(layer, paddle.nn.LayerNorm)]
    scores = np.zeros((len(labels), start.shape[0]))
    ends = np.broadcast_to(ends, (len(shares), *start.shape))
    for i in range(0, len(shares), batch_size):
        way = ends[i : i + batch_size] - start
        points = paddle.to_tensor(start + shares[i : i + batch_size, None, None].astype(np.float32) * way)
        points.stop_gradient = False
        logits = logits_of(points)
        for k, label in enumerate(labels):
            gradient, *_ = paddle.grad(logits[:, label].sum(), [points, *norms], retain_graph=k + 1 < len(labels))
            scores[k] += (gradient.numpy() * way).sum((0, 2), dtype=np.float64)
    return scores / len(shares)


def explain_by_gradients(model, ids, own, mask_id, labels, samples, batch_size, rng=None):
    """(scores float64 [len(labels), T], baseline logits float32 [len(labels)]) of one text's token ids.

    own: a slice, which of them are the text's. The baseline has [MASK], which the model knows, for these; the others,
    [CLS], [SEP] and a template, are no words of the text and score 0.
    rng: None for integrated gradients, by the midpoint rule; a random generator for gradient SHAP.
    """
    import paddle

    with paddle.no_grad():
        embed, logits_of = halves_of(model, ids)
        masked = [*ids[: own.start], *[mask_id] * (own.stop - own.start), *ids[own.stop :]]
        both = embed(paddle.to_tensor([masked, ids]))
        baseline_logits = logits_of(both[:1])[0].numpy()[labels]
        baseline, embeddings = both.numpy()
    shares = (np.arange(samples) + 0.5) / samples
    if rng:
        shares = rng.random(samples)
        noise = rng.standard_normal((samples, *baseline.shape)).astype(np.float32) * NOISE * embeddings.std()
        noise[:, : own.start] = noise[:, own.stop :] = 0
        embeddings = embeddings + noise
    return path_gradients(model, logits_of, baseline, embeddings, shares, labels, batch_size), baseline_logits


def explain_by_lime(model, ids, own, word_of, n_words, labels, samples, batch_size, pad_id, rng):
    """Scores float64 [len(labels), n_words]: a ridge regression of the logits on which words were left in.

    word_of: the word of each of the text's tokens, which are ids[own]. A sample lacks any number of words,
    from none to all; the more it lacks, the less it counts.
    """
    from sklearn.linear_model import Ridge

    kept = np.ones((samples, n_words), bool)
    for row in kept[1:]:
        row[rng.choice(n_words, rng.integers(n_words + 1), replace=False)] = False
    before, after = ids[: own.start], ids[own.stop :]
    texts = [[*before, *(token for token, word in zip(ids[own], word_of) if row[word]), *after] for row in kept]
    logits = predict_logits(model, texts, pad_id, batch_size)[:, labels]
    distance = 1 - np.sqrt(kept.mean(1))  # cosine distance from a row of ones
    weights = np.sqrt(np.exp(-((distance / KERNEL) ** 2)))
    return Ridge(alpha=0.1).fit(kept, logits, sample_weight=weights).coef_.reshape(len(labels), n_words)


def explain_linear(branch, text, words, labels):
    """(scores float64 [len(labels), len(words)], logits without any word [len(labels)]) of a linear branch, exactly.

    What stands between two words belongs to the next one, and what follows the last to that.
    """
    by_character, baseline = branch.parts(text, labels)
    return np.add.reduceat(by_character, [0, *(end for _, end in words[:-1])], axis=1), baseline


def explain(model, checkpoint, case, predicted, labels, args, rng):
    """What one text's row of the result file holds, as a dict."""
    tokenizer, tree, linear = checkpoint.tokenizer, checkpoint.tree, checkpoint.linear
    (ids,) = tokenizer.encode([case.text])
    own = tokenizer.text_part(ids)
    words, word_of = align(word_spans(case.text) or [(0, len(case.text))], tokenizer.spans(case.text)[own])
    read = int(word_of[-1]) + 1 if len(word_of) else 0  # the rest was cut off: the model has not seen it
    logits = predict_logits(model, [ids], tokenizer.pad_id, 1)[0]
    scores, baseline = np.zeros((len(labels), len(words))), None
    if args.interpreter == "lime" and read:
        settings = args.samples, args.batch_size, tokenizer.pad_id, rng
        scores[:, :read] = explain_by_lime(model, ids, own, word_of, read, labels, *settings)
    elif read:
        rng = rng if args.interpreter == "grad" else None
        by_token, baseline = explain_by_gradients(
            model, ids, own, tokenizer.mask_id, labels, args.samples, args.batch_size, rng
        )
        np.add.at(scores, (slice(None), word_of), by_token[:, own])
    if linear:
        of_branch, without = explain_linear(linear, case.text, words, labels)
        if args.interpreter != "lime":
            baseline = without + (baseline if read else logits[labels])  # without a token there is only the baseline
        scores, read = scores + of_branch, len(words)  # it reads all
        logits = logits + linear.logits([case.text])[0]
    explanations, probabilities = [], probabilities_of(logits[None], tree, checkpoint.decision)[0]
    for k, label in enumerate(labels):
        order = np.argsort(-scores[k], kind="stable")
        key_words = [case.text[slice(*words[i])] for i in order if scores[k, i] > 0]
        key_words = [word for word in dict.fromkeys(key_words) if any(map(str.isalnum, word))]  # not punctuation
        explanations.append(
            {
                "label": tree.labels[label],
                "probability": round(float(probabilities[label]), 6),
                "predicted": label in predicted,
                "logit": round(float(logits[label]), 4),
                **({} if baseline is None else {"baseline_logit": round(float(baseline[k]), 4)}),
                "key_words": key_words[: args.top_k],
                "words": [
                    {"word": case.text[start:end], "start": start, "end": end, "score": round(float(score), 4)}
                    for (start, end), score in zip(words[:read], scores[k])
                ],
            }
        )
    return {
        "text": case.text,
        "labels": None if case.labels is None else [tree.labels[i] for i in case.labels],
        "prediction": [tree.labels[i] for i in predicted],
        "explanations": explanations,
    }


def labels_to_explain(case, predicted, probabilities, asked):
    """Class indices: those asked for; else the predicted and the missed ones; else the most likely one."""
    missed = set(case.labels or ()) - set(predicted)
    return asked or sorted({*predicted, *missed}) or [int(probabilities.argmax())]


# ---- results ---------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A word, or what stands between two words, which has no score.

    weight: -1 to 1, the score as a share of the highest
    """

    text: str
    score: float | None = None
    weight: float | None = None


def coloured(text, words):
    """The text cut into Parts."""
    highest = max((abs(word["score"]) for word in words), default=0) or 1.0
    parts, position = [], 0
    for word in words:
        parts.append(Part(cut(text[position : word["start"]])))
        parts.append(Part(cut(word["word"]), word["score"], word["score"] / highest))
        position = word["end"]
    return [*parts, Part(cut(text[position:]))]


def terminal_line(text, words):
    """The text with green behind words that speak for the label, red behind those against it, in three strengths.

    Words that the model has read are shown, however many; of what comes after them, the beginning.
    """
    green, red = (194, 78, 34), (224, 210, 167)  # of the 256 terminal colours, from weak to strong
    line = ""
    for part in coloured(text, words):
        word, weight = part.text.translate(FLAT), part.weight or 0.0
        strength = min(int(abs(weight) * 4), 3)
        line += f"\033[30;48;5;{(green if weight > 0 else red)[strength - 1]}m{word}\033[0m" if strength else word
    return line


def print_row(row, colours):
    print(f"text: {shown(row['text'])}")
    print(f"label: {','.join(row['labels'] or []).translate(FLAT)}")
    print(f"predict label: {','.join(row['prediction']).translate(FLAT)}")
    for item in row["explanations"]:
        note = "" if item["predicted"] else ", not predicted"
        print(
            f"{item['label'].translate(FLAT)} ({item['probability']:.4f}{note}): {shown(' '.join(item['key_words']))}"
        )
        if colours:
            print(f"    {terminal_line(row['text'], item['words'])}")
    print("-" * 20)


def main(argv=None):
    args = parse_args(argv)
    logger, checkpoint = get_logger(), open_checkpoint(args.params_path, args.max_seq_length)
    tree, tokenizer, decision = checkpoint.tree, checkpoint.tokenizer, checkpoint.decision
    directory = require_directory(args.dataset_dir)
    source = in_directory(directory, args.interpret_input_file)
    require_same_labels(tree, directory / args.label_file)
    labels = list(dict.fromkeys(args.label or ()))
    if faults := label_faults(labels, tree):
        raise InputError(f"--label: {faults}")
    asked = [tree.index[label] for label in labels]
    names = {"--interpret_result_file": args.interpret_result_file, "--html_file": args.html_file}
    outputs = {flag: in_directory(directory, name) for flag, name in names.items()}
    require_outputs(outputs, [source, directory / args.label_file])
    cases = read_cases(source, tree, logger)
    cases = cases[: args.num_rows or None]

    set_device(args.device)
    model, rng = load_model(checkpoint), np.random.default_rng(args.seed)
    ids = tokenizer.encode([case.text for case in cases])
    logits = predict_logits(model, ids, tokenizer.pad_id, args.batch_size)
    logits_of_all = with_linear(logits, checkpoint.linear, [case.text for case in cases])
    probabilities = probabilities_of(logits_of_all, tree, checkpoint.decision)
    predicted = [tuple(np.flatnonzero(row).tolist()) for row in decide(probabilities, tree, decision)]
    report_other_predictions(source, cases, predicted, logger)
    rows, colours = [], sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for i, case in enumerate(progress_bar(len(cases), "texts", iterable=cases)):
        labels = labels_to_explain(case, predicted[i], probabilities[i], asked)
        rows.append(explain(model, checkpoint, case, predicted[i], labels, args, rng))
    for row in rows:
        print_row(row, colours)
    if args.interpreter == "ig" and (worst := max(map(incompleteness, rows))) > TOLERANCE:
        logger.warning(
            f"scores miss logit - baseline_logit by up to {worst:.0%}; take more --samples than {args.samples}"
        )
    if cut := sum(length > tokenizer.max_seq_length for length in tokenizer.lengths([case.text for case in cases])):
        logger.warning(f"{cut} texts have more than {tokenizer.max_seq_length} tokens; the rest of them was not read")
    with atomic_write(outputs["--interpret_result_file"]) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    facts = {"texts": source, "checkpoint": args.params_path, "method": args.interpreter, "samples": args.samples}
    for row in rows:
        for item in row["explanations"]:
            item["parts"] = coloured(row["text"], item["words"])
    with atomic_write(outputs["--html_file"]) as file:
        file.write(render("words.html", title="Words that speak for a label", facts=facts, rows=rows))
    logger.info(f"Words of {len(rows)} texts saved in {', '.join(map(str, outputs.values()))}")


def incompleteness(row):
    """How far the scores of a row are from adding up to logit - baseline_logit, as the largest share of it."""
    found = [0.0]
    for item in row["explanations"]:
        if item["words"]:
            wanted = item["logit"] - item["baseline_logit"]
            found.append(abs(sum(word["score"] for word in item["words"]) - wanted) / max(abs(wanted), 1.0))
    return max(found)


if __name__ == "__main__":
    run(main)
