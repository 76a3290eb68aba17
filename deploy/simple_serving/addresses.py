"""Where a server is reached: its sockets, and what a process gets of them that is one of several."""

import argparse
import socket
from dataclasses import astuple, dataclass

from hierarchical.console import get_logger
from hierarchical.errors import InputError


def listen(host, port):
    """A listening socket. Raises InputError for an address that cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--host {host} --port {port}: {getattr(error, 'strerror', error)}. Another server may have this port; "
            "choose another one, or stop that server."
        ) from None


def tell_address(args, sock):
    """Where requests are taken, once they are."""
    host, port = sock.getsockname()[:2]
    scheme = "https" if args.tls_cert else "http"
    get_logger().info(f"Serving on {scheme}://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C ends it")


def show_metrics(host, port, registry):
    """Answer at /metrics on an address of its own. Raises InputError for one that cannot be had."""
    from prometheus_client import start_http_server

    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise InputError(f"--metrics_port {port}: {error.strerror or error}. Choose another one.") from None
    get_logger().info(f"Figures on http://{host}:{server.server_port}/metrics")


@dataclass
class Place:
    """What --worker says: a number, from 0, and descriptors of files that were opened by the process above.

    listening: the socket of the port; asking: the one to that process; shared: see shared.Shared
    silent: whether others tell the same
    """

    number: int
    listening: int
    asking: int
    shared: int
    silent: int

    def __str__(self):
        return ",".join(map(str, astuple(self)))

    @classmethod
    def parse(cls, text):
        try:
            return cls(*map(int, text.split(",")))
        except (TypeError, ValueError):
            raise argparse.ArgumentTypeError("--workers starts processes with this flag, nobody else") from None
