"""The key that requests must bring, if the server has one: where it is read."""

import os

from utils import InputError, require_file

KEY_VARIABLE = "SERVING_API_KEY"


def read_api_key(path):
    """The key, as bytes, or None. path: the file whose first line it is; None: the environment may hold it."""
    key = os.environ.get(KEY_VARIABLE, "")
    if path:
        require_file(path, "Its first line is the key, such as what `openssl rand -hex 32` prints.")
        key = path.read_text(encoding="utf-8", errors="replace").split("\n")[0]
    key = key.strip()
    if (path or KEY_VARIABLE in os.environ) and (len(key) < 8 or not key.isascii() or not key.isprintable()):
        raise InputError(f"{path or KEY_VARIABLE}: the key must be 8 or more letters, digits or signs of ASCII.")
    return key.encode() or None
