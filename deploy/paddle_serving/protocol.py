"""What Paddle Serving's clients and the service here agree on: the route, and JSON instead of printed arrays.

A request has one key, `sentence`, with a JSON array of texts. An answer has three keys, each with a JSON array of one
entry per text: `label`, the names of its labels, `confidence`, their probabilities, and `certainty`, how sure they are
together (see hierarchical/decisions.py).
"""

import json

from hierarchical.errors import InputError

SERVICE = "seq_cls"
ROUTE = f"/{SERVICE}/prediction"
HTTP_PORT, RPC_PORT = 9878, 18090
MAX_TEXTS = 4096  # of a request: a larger one would keep all others waiting
MAX_BYTES = 4 << 20  # of a request; gRPC has the same limit by itself
STRANGE = "the server's answer is not one of deploy/paddle_serving; is another one at this address?"
EXAMPLE = '{"key": ["sentence"], "value": ["[\\"国足今晚出战\\"]"]}'


def texts_of(keys, values):
    """The texts of a request's keys and values, list[str]. Raises InputError for anything but JSON texts."""
    if list(keys) != ["sentence"] or len(values) != 1:
        raise InputError(f"the request must have the one key 'sentence' with one value, such as {EXAMPLE}")
    try:
        texts = json.loads(values[0])
    except (ValueError, RecursionError):
        raise InputError(
            "the value of 'sentence' is not JSON; write an array of texts, such as [\"国足今晚出战\"]"
        ) from None
    if not isinstance(texts, list) or not texts:
        raise InputError("the value of 'sentence' must be a JSON array with at least one text")
    if len(texts) > MAX_TEXTS:
        raise InputError(f"{len(texts)} texts in a request; send at most {MAX_TEXTS}")
    if wrong := [i for i, text in enumerate(texts) if not isinstance(text, str)]:
        raise InputError(f"entry {wrong[0]} of 'sentence' is not a text; write it in double quotes")
    if wrong := [i for i, text in enumerate(texts) if not is_unicode(text)]:
        raise InputError(f"entry {wrong[0]} of 'sentence' has a lone surrogate; send valid Unicode")
    return texts


def is_unicode(text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def labels_of(keys, values, count):
    """[(names, probabilities)] of an answer's keys and values for `count` texts. Raises InputError if it is none."""
    try:
        answer = {key: json.loads(value) for key, value in zip(keys, values)}
        rows = list(zip(answer["label"], answer["confidence"], strict=True))
        for names, probabilities in rows:
            if not all(isinstance(name, str) for name in names) or len(names) != len(probabilities):
                raise ValueError("names and probabilities")
        if len(rows) != count:
            raise ValueError("number of rows")
    except (KeyError, TypeError, ValueError, RecursionError):
        raise InputError(STRANGE) from None
    return rows


def certainties_of(keys, values, count):
    """How certain each text's labels are, list[float], of the same answer. Raises InputError if it does not say."""
    if "certainty" not in keys:
        raise InputError("the service tells no certainty: it is an older one. Leave --certainty out, or renew it.")
    try:
        (found,) = (json.loads(value) for key, value in zip(keys, values) if key == "certainty")
        if len(found) != count or not all(isinstance(value, (int, float)) for value in found):
            raise ValueError("not a number for each text")
    except (TypeError, ValueError, RecursionError):
        raise InputError(STRANGE) from None
    return found
