"""What every request has to pass before the app sees it: a Host that means this server, and a body as it is."""

import ipaddress
import re
import socket

from deploy.simple_serving.bodies import Refusal

LOCAL = ("127.0.0.1", "::1", "localhost")
EVERY_ADDRESS = ("0.0.0.0", "::", "")
HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]*)?")


class Hosts:
    """The values of the header Host that are answered: a page of another name, in somebody's browser, gets nothing.

    Else such a page could have its name point to 127.0.0.1 (DNS rebinding), and ask a server that only its own machine
    is to reach. host: what the server listens on; allowed: names and addresses, * for any; None: those of the loopback,
    the one that the server listens on, the machine's name, and where it listens on every address, any address.
    """

    def __init__(self, host, allowed=None):
        self.any_name = bool(allowed) and "*" in allowed
        self.any_address = not allowed and host in EVERY_ADDRESS
        names = allowed or [*LOCAL, host, *([] if host in LOCAL else [socket.gethostname()])]
        self.names = {plain(name) for name in names if name}

    def check(self, scope):
        """Raise Refusal, 400 or 421, unless a request names this server."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if not hosts and scope["http_version"] < "1.1":
            return
        if len(hosts) != 1:
            what = "missing" if not hosts else f"there {len(hosts)} times"
            raise Refusal(400, "header Host", what, "Send it once, as HTTP/1.1 asks for.")
        found = HOST.fullmatch(hosts[0])
        if not found:
            raise Refusal(400, "header Host", "no name or address", "Send the name of the server, as in its address.")
        name = plain((found[1] or found[2]).decode())
        if self.any_name or name in self.names or (self.any_address and is_address(name)):
            return
        how = f"Start the server with --allowed_hosts {name[:100]}, if that is its name; or ask by its address."
        raise Refusal(421, "header Host", "a name that this server does not go by", how)


def plain(name):
    """A name or address as it is compared."""
    name = name.lower().strip("[]").rstrip(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    return str(getattr(address, "ipv4_mapped", None) or address)


def is_address(name):
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """The ASGI app behind which all others stand.

    HEAD is answered as GET is, and the protocol keeps the body back. hosts: a Hosts; refused: makes the answer to a
    Refusal, of the request's scope.
    """

    def __init__(self, app, hosts, refused):
        self.app, self.hosts, self.refused = app, hosts, refused

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["method"] == "HEAD":
            scope = scope | {"method": "GET"}
        try:
            self.hosts.check(scope)
            check_encoding(scope)
        except Refusal as refusal:
            return await self.refused(scope, refusal)(scope, receive, send)
        await self.app(scope, receive, send)


def check_encoding(scope):
    """Raise Refusal for a body that would have to be unpacked: a small one may unfold into gigabytes."""
    for name, value in scope["headers"]:
        if name in (b"content-encoding", b"transfer-encoding") and value.lower() not in (b"identity", b"chunked", b""):
            header = name.decode().title()
            how = f"Send the body as it is, without {header}."
            headers = {"Accept-Encoding": "identity"}
            raise Refusal(415, f"header {header}", "the body is packed", how, headers)
