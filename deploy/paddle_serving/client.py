"""What http_client.py and rpc_client.py share: cutting texts into requests, asking, and printing."""

import json

from deploy.client_texts import print_certainty, texts_to_send
from deploy.paddle_serving.protocol import MAX_BYTES, certainties_of, labels_of
from hierarchical.console import FLAT, shown
from hierarchical.errors import InputError

BATCH_SIZE = 64  # texts of a request


def requests_of(texts):
    """Cut texts into lists of at most BATCH_SIZE that go into a request; one that is too long by itself stays alone."""
    batch, size = [], 0
    for text in texts:
        length = len(json.dumps(json.dumps(text)))  # an upper bound: the client escapes less
        if batch and (len(batch) == BATCH_SIZE or size + length > MAX_BYTES // 2):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def classify(texts, ask, certainty=False):
    """Yield (names, probabilities, certainty) for each text; the last is None unless it is asked for.

    ask(value): (err_no, err_msg, keys, values) of a request's value
    """
    for batch in requests_of(texts):
        number, message, keys, values = ask(json.dumps(batch, ensure_ascii=False))
        if number:
            raise InputError(f"the service refused a request (error {number}): {message}")
        certain = certainties_of(keys, values, len(batch)) if certainty else [None] * len(batch)
        for (names, probabilities), sure in zip(labels_of(keys, values, len(batch)), certain):
            yield names, probabilities, sure


def print_labels(args, ask):
    texts = texts_to_send(args)
    for text, (names, probabilities, certainty) in zip(texts, classify(texts, ask, args.certainty is not None)):
        print("text:", shown(text))
        print("label:", ",".join(names).translate(FLAT))
        print("confidence:", ",".join(f"{p:.4f}" for p in probabilities))
        print_certainty(certainty, args.certainty)
        print("-" * 20)
