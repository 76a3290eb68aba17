"""Ports for servers that are told theirs, and so cannot have the system choose a free one as they begin to listen."""

import itertools
import os
import re
import socket

# Below 32768, where the system begins with those that it gives to whoever asks for any: none of these is taken between
# the look at it and the server's start. Each process of a run with several (pytest -n) has a share of its own.
SHARE = 1000
FIRST = 21_000 + SHARE * (int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % 11)
_numbers = itertools.count(os.getpid())  # another run at the same time begins elsewhere


def free_ports(count):
    """So many ports of this machine on which nothing listens; nobody has been given one of them before."""
    ports = []
    while len(ports) < count:
        port = FIRST + next(_numbers) % SHARE
        try:
            socket.create_server(("", port)).close()
        except OSError:  # it is taken
            continue
        ports.append(port)
    return ports
