"""What every script that serves over HTTP shares: its flags but for the model, and serving."""

import argparse
import os
import re
from pathlib import Path

from deploy.simple_serving.addresses import Place, listen
from deploy.simple_serving.key import KEY_VARIABLE, MakeKey
from hierarchical.engines import PRECISIONS, find_gpu
from utils import (
    InputError,
    add_long_text_arguments,
    add_max_seq_length_argument,
    check_minima,
    engine_device_word,
    get_logger,
    long_text_arguments,
)

ORIGIN = re.compile(r"https?://[^/\s]+")


def add_export_arguments(model):
    """The flags of a server whose model is an export, into their group."""
    model.add_argument("--model_path", required=True, help="folder of export_model.py, or a model without its ending")
    model.add_argument("--backend", choices=("onnx", "openvino"), default="onnx", help="ONNX Runtime or OpenVINO")
    model.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS, "bfloat16"),
        default="auto",
        help="auto: int8 if it is there, and good; on a GPU float16; with openvino bfloat16, on a CPU that has it",
    )
    text = "cpu, gpu, or one of several, as gpu:1; without a GPU: cpu, with a warning"
    model.add_argument("--device", type=engine_device_word, default="cpu", help=text)
    add_max_seq_length_argument(model)
    add_long_text_arguments(model)


def exported(args):
    """A function that loads the export in a folder as the flags say; where there is no GPU, that is told now.

    Its second argument is load_exported's `unseen`, for the model that has new labels beside it.
    """
    device = args.device = find_gpu(args.device, backend=args.backend)

    def load(path, unseen=None):
        from deploy.simple_serving.model import load_exported

        settings = {"backend": args.backend, "device": device, "num_threads": args.num_threads}
        settings |= {"max_seq_length": args.max_seq_length, **long_text_arguments(args)}
        return load_exported(path, args.precision, unseen, **settings)

    return load


def add_serving_arguments(parser):
    """The flags of everything but the model."""
    parser.set_defaults(workers=1, worker=None)  # for scripts without such flags
    address = parser.add_argument_group("address")
    address.add_argument("--host", default="127.0.0.1", help="0.0.0.0: reachable from other machines")
    address.add_argument("--port", type=int, default=8189, help="0: any free one")
    address.add_argument(
        "--api_key_file", type=Path, help=f"every POST must bring its first line as X-API-Key (or set {KEY_VARIABLE})"
    )
    address.add_argument(
        "--allowed_hosts",
        nargs="+",
        help="names by which clients call it, *: any; left out: localhost, --host, the machine's name",
    )
    address.add_argument("--cors_origins", nargs="+", help="pages of these origins may ask it, as https://a.example")
    address.add_argument("--metrics_port", type=int, help="/metrics on this port alone; 0: any free one")
    address.add_argument("--tls_cert", type=Path, help="PEM file of the certificate chain: the server speaks HTTPS")
    address.add_argument("--tls_key", type=Path, help="PEM file of its private key")
    keys = parser.add_argument_group("keys")
    keys.add_argument("--keys_file", type=Path, help="every POST must bring one of these keys as X-API-Key")
    keys.add_argument("--make_key", action=MakeKey, metavar="NAME", help="print a line for it, and the key; then end")
    add_observing_arguments(parser)
    work = parser.add_argument_group("work")
    work.add_argument("--num_threads", type=int, help="model calls side by side (default: all cores)")
    work.add_argument("--batch_size", type=int, default=8, help="texts of a model call, at most")
    work.add_argument("--queue_size", type=int, default=512, help="texts that may wait; then requests get 429")
    work.add_argument("--timeout", type=float, default=10, help="seconds for an answer; then the request gets 503")
    work.add_argument(
        "--drain_seconds", type=float, default=0, help="after SIGTERM, not ready, but answering for so long"
    )
    work.add_argument("--explain_limit", type=int, default=4, help="explanations at once; then requests get 429")
    limits = parser.add_argument_group("limits of a request")
    limits.add_argument("--max_texts", type=int, default=128, help="texts of a request")
    limits.add_argument("--max_chars", type=int, default=100_000, help="characters of a text")
    limits.add_argument("--max_bytes", type=int, default=1_000_000, help="bytes of a request")


def add_workers_arguments(parser):
    """The flags of a server that several processes may answer for."""
    group = parser.add_argument_group("processes")
    text = (
        "processes that answer, on the same port; N need N times the memory of the model, and share threads and queue"
    )
    group.add_argument("--workers", type=int, default=1, help=text)
    group.add_argument("--worker", type=Place.parse, help=argparse.SUPPRESS)  # what starts each of them


def add_observing_arguments(parser):
    group = parser.add_argument_group("observation")
    group.add_argument("--access_log", help="file for a JSON line per request; -: standard output")
    group.add_argument("--log_texts", action="store_true", help="the access log holds the texts, too")
    group.add_argument("--sample_file", help="file for a share of the answers, as .jsonl")
    group.add_argument("--sample", type=float, default=0.01, help="that share, of texts")
    group.add_argument("--otlp_endpoint", help="spans go to this collector, as http://127.0.0.1:4318")


def check_serving_arguments(parser, args):
    """Refuse what cannot be; args.workers and args.worker are those of one process, unless the script has flags."""
    check_minima(
        parser, args, num_threads=1, batch_size=1, queue_size=1, explain_limit=1, max_texts=1, max_chars=1, max_bytes=1
    )
    if not 0 <= args.port <= 65_535:
        parser.error(f"argument --port: must be from 0 to 65535, got {args.port}")
    if args.metrics_port is not None and not 0 <= args.metrics_port <= 65_535:
        parser.error(f"argument --metrics_port: must be from 0 to 65535, got {args.metrics_port}")
    if bool(args.tls_cert) != bool(args.tls_key):
        parser.error("--tls_cert and --tls_key belong together")
    for origin in args.cors_origins or ():
        if origin != "*" and not ORIGIN.fullmatch(origin):
            parser.error(f"argument --cors_origins: an origin such as https://a.example or *, got {origin!r}")
    if not 0 < args.sample <= 1:
        parser.error(f"argument --sample: must be above 0, and 1 at most, got {args.sample}")
    if args.log_texts and not args.access_log:
        parser.error("argument --log_texts: needs --access_log")
    if args.otlp_endpoint and not args.otlp_endpoint.startswith(("http://", "https://")):
        parser.error("argument --otlp_endpoint: an address such as http://127.0.0.1:4318")
    if not 0 <= args.drain_seconds < 3600:
        parser.error(f"argument --drain_seconds: must be from 0 to below 3600, got {args.drain_seconds}")
    if not 0 < args.timeout < 3600:
        parser.error(f"argument --timeout: must be above 0 and below 3600, got {args.timeout}")
    if args.workers > 1 and os.name != "posix":
        parser.error("argument --workers: more than one needs Linux or macOS")
    if args.queue_size < max(2, args.max_texts):
        parser.error(f"argument --queue_size: must be at least 2, and hold the {args.max_texts} texts of --max_texts")


def serve(args, loads, add_routes=None):
    """Answer requests until a signal ends it.

    args: see add_serving_arguments; loads: see models.Models; add_routes: see app.make_app
    """
    try:
        if args.worker:
            from deploy.simple_serving.worker import serve_as_one

            return serve_as_one(args, loads)
        if args.workers > 1:
            from deploy.simple_serving.supervisor import supervise as answer
        else:
            from deploy.simple_serving.answering import answer
    except ModuleNotFoundError as error:
        hint = "pip install -r deploy/simple_serving/requirements.txt"
        raise InputError(f"The package {error.name} is not installed: {hint}") from None
    with listen(args.host, args.port) as sock:
        answer(args, loads, sock, add_routes)
    get_logger().info("Every request is answered; the server has ended")
