"""A process that answers requests, alone or as one of several: its model, its app, and what both need."""

import ssl

import uvicorn

from deploy.simple_serving.addresses import show_metrics, tell_address
from deploy.simple_serving.app import make_app
from deploy.simple_serving.guard import LOCAL, Hosts
from deploy.simple_serving.journal import Journal
from deploy.simple_serving.keys import Keys
from deploy.simple_serving.protocol import Protocol, Server
from deploy.simple_serving.service import Service
from deploy.simple_serving.tracing import Spans
from hierarchical.console import get_logger
from hierarchical.errors import InputError
from hierarchical.files import require_file


def answer(args, loads, sock, add_routes=None, worker=None):
    """Answer what comes to a listening socket until a signal ends it.

    args, loads, add_routes: see serving.serve; worker: a worker.Worker where this process is one of several
    """
    logger, lock = get_logger(), worker and worker.lines_lock()
    log, samples = (Journal(path, lock) if path else None for path in (args.access_log, args.sample_file))
    spans = Spans(args.otlp_endpoint) if args.otlp_endpoint else None
    keys = Keys(args.keys_file, args.api_key_file, worker and worker.shared)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if args.tls_cert else None
    renew = (lambda: read_certificate(tls, args.tls_cert, args.tls_key)) if tls else None
    if renew:
        renew()
    service = Service(args, loads, keys, log, samples, renew, worker)
    if args.metrics_port is not None and not worker:
        show_metrics(args.host, args.metrics_port, service.figures.registry)
    Protocol.most_connections = most_connections()
    app = make_app(service, Hosts(args.host, args.allowed_hosts), log, spans, add_routes)
    config = uvicorn.Config(
        app, http=Protocol, ws="none", access_log=False, log_level="error", server_header=False,
        proxy_headers=False, timeout_keep_alive=65, timeout_graceful_shutdown=int(args.timeout) + 5,
    )  # fmt: skip
    config.load()
    config.ssl = tls
    if args.host not in LOCAL and not keys:
        logger.warning(f"--host {args.host}: whoever reaches this machine may use the server; see --keys_file")
    for model in service.models.loaded.values():
        reads = f"{model.max_seq_length} tokens of a text, longer ones: {model.tokenizer.long_text}"
        new = f", {len(model.tree) - model.known} by their words alone" if model.known else ""
        logger.info(f"Loaded {model.path} ({len(model.tree)} labels{new}, {reads})")
    if not worker:
        tell_address(args, sock)
    Server(config, service, worker and worker.shared).run([sock])
    if spans:
        spans.close()


def read_certificate(context, cert, key):
    """Use the certificate of --tls_cert; again, after it was renewed. Raises InputError for what is none."""
    for path in (cert, key):
        require_file(path, "A certificate and its key are two files in PEM form.")
    try:
        trial = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trial.load_cert_chain(cert, key)  # in the context in use a mismatch would spoil what is there
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise InputError(f"--tls_cert {cert} --tls_key {key}: {error}. They must be PEM files that fit.") from None


def most_connections():
    """How many connections may stand open: as many files as this process may have, less some for its own."""
    try:
        import resource
    except ImportError:  # Windows
        return 400
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted - 100
