"""The key that requests must bring, if the server has one: where it is read. And how one with a name is made."""

import argparse
import hashlib
import json
import os
import re
import secrets
import sys

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


class MakeKey(argparse.Action):
    """--make_key NAME: print a line for the keys file, and to standard error the key; then end."""

    def __call__(self, parser, namespace, name, option_string=None):
        if not is_name(name):
            parser.error(f"argument {option_string}: 1 to 64 letters, digits, '.', '_' or '-', got {name!r}")
        value = secrets.token_urlsafe(32)
        print(json.dumps({"name": name, "sha256": digest(value.encode()), "rights": ["classify", "explain"]}))
        print(f"The key of {name}, shown this once: {value}", file=sys.stderr)
        parser.exit()


def is_name(name):
    return isinstance(name, str) and re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII)


def digest(value):
    return hashlib.sha256(value).hexdigest()
