"""Keys with names: what each may ask for, and how much. In the file stand their digests alone.

    python deploy/simple_serving/server.py --make_key shop >> keys.jsonl      # the key itself is printed once
    {"name": "shop", "sha256": "…", "rights": ["classify", "explain"], "texts_per_second": 50, "concurrency": 4}

A key is 256 random bits, so a plain SHA-256 of it can't be guessed back; what is presented is compared with all keys,
in constant time.
"""

import hmac
import json
import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from deploy.simple_serving.bodies import Refusal
from deploy.simple_serving.key import digest, is_name, read_api_key
from deploy.simple_serving.shared import Usage
from hierarchical.console import get_logger
from hierarchical.errors import InputError, Problems
from hierarchical.files import read_lines, require_file

RIGHTS = ("classify", "explain", "admin")
FIELDS = ("name", "sha256", "rights", "texts_per_second", "concurrency")
LOOK_SECONDS = 1  # between two looks at files that may change
ALONE = "key"  # the name of the one of --api_key_file


@dataclass(slots=True)
class Key:
    name: str
    sha256: str
    rights: frozenset
    texts_per_second: float | None = None
    concurrency: int | None = None
    usage: Usage = field(default_factory=Usage)

    def begin(self):
        """Count a request of it as being worked on; raise Refusal, 429, where there are enough."""
        if active := self.usage.begin(self.concurrency):
            how = "Wait for their answers, then ask again."
            what = f"{active} requests of this key are being worked on"
            raise Refusal(429, "header X-API-Key", what, how, {"Retry-After": "1"}, "concurrency")

    def end(self):
        self.usage.end()

    def take(self, texts):
        """Let so many texts pass, or raise Refusal, 429."""
        if (rate := self.texts_per_second) and (seconds := self.usage.take(rate, texts)):
            what, how = f"more than {rate:g} texts a second with this key", "Ask again later, or for a higher limit."
            raise Refusal(429, "header X-API-Key", what, how, {"Retry-After": str(seconds)}, "rate")

    def give_back(self, texts):
        """Texts that were let pass, and then refused for another reason."""
        if self.texts_per_second:
            self.usage.give_back(texts)


class Keys:
    """The keys that are known: those of a file, and the one of --api_key_file or the environment, which may all.

    Files are looked at again once a second at most; what is broken is told once and changes nothing. shared: a
    shared.Shared, where other processes count with this one. Raises InputError if the files are broken from the start.
    """

    def __init__(self, path=None, api_key_file=None, shared=None):
        self.path, self.api_key_file, self.shared = path, api_key_file, shared
        self.files = [Path(file) for file in (path, api_key_file) if file]
        self.usages, self.looked, self.mark = {}, time.monotonic(), self._mark()
        self.known = self._read()

    def __bool__(self):
        return bool(self.known)

    def find(self, value):
        """The Key whose value this is, bytes; None: nobody's."""
        self.look()
        presented, found = digest(value), None
        for key in self.known.values():
            if hmac.compare_digest(key.sha256, presented):
                found = key
        return found

    def look(self, now=False):
        """Read the files again if they have changed since. now: even if they were looked at less than a second ago."""
        if not self.files or (not now and time.monotonic() - self.looked < LOOK_SECONDS):
            return
        self.looked, mark = time.monotonic(), self._mark()
        if mark == self.mark:
            return
        self.mark = mark
        try:
            self.known = self._read()
        except (InputError, OSError) as error:
            get_logger().error(f"The keys read before stay in force: {error}")
        else:
            get_logger().info(f"Read {len(self.known)} keys anew")

    def _mark(self):
        """Changes when a file does; files that are not there are told by whoever reads them."""
        stats = [file.stat() if file.exists() else None for file in self.files]
        return [stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]

    def _read(self):
        keys = read_keys(self.path) if self.path else []
        if alone := read_api_key(self.api_key_file):
            keys.append(Key(ALONE, digest(alone), frozenset(RIGHTS)))
        usages = self.shared.usages([key.name for key in keys]) if self.shared else self.usages
        for key in keys:
            key.usage = usages.setdefault(key.name, key.usage)
        return {key.name: key for key in keys}


def read_keys(path):
    """The list of Keys in a file. Raises InputError with every bad line of it."""
    require_file(path, "Its lines are made by: server.py --make_key NAME >> FILE")
    problems, keys, names = Problems(), [], {ALONE}
    for number, line in read_lines(path, problems):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            fault = fault_of(row) or (f"the name {row['name']!r} is taken" if row["name"] in names else "")
        except (ValueError, RecursionError):
            fault = "no JSON: a line is what server.py --make_key NAME prints"
        if fault:
            problems.add(path, number, fault)
            continue
        names.add(row["name"])
        keys.append(Key(**row | {"rights": frozenset(row["rights"])}))
    problems.raise_if_any()
    if not keys:
        raise InputError(f"{path}: no key in it. Add one: server.py --make_key NAME >> {path}")
    return keys


def fault_of(row):
    """What is wrong with a line of the keys file; "" if nothing is."""
    if not isinstance(row, dict):
        return "no JSON object"
    if unknown := sorted(row.keys() - set(FIELDS)):
        return f"unknown {unknown[0][:60]!r}; known are {', '.join(FIELDS)}"
    if not is_name(row.get("name")):
        return "name: 1 to 64 letters, digits, '.', '_' or '-'"
    if not isinstance(row.get("sha256"), str) or not re.fullmatch("[0-9a-f]{64}", row["sha256"]):
        return "sha256: 64 hexadecimal digits, as server.py --make_key prints them"
    rights = row.get("rights")
    if not isinstance(rights, list) or not rights or not all(right in RIGHTS for right in rights):
        return f"rights: a list of some of {', '.join(RIGHTS)}"
    for name, least, kinds in (("texts_per_second", 0, (int, float)), ("concurrency", 0, (int,))):
        value = row.get(name)
        if value is not None and (type(value) not in kinds or not least < value < math.inf):
            return f"{name}: a number above 0"
    return ""
