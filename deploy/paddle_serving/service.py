"""Serve an exported model by Paddle Serving's Pipeline, over HTTP and gRPC.

    bash deploy/paddle_serving/make_environment.sh
    .venv-paddle-serving/bin/python deploy/paddle_serving/service.py --config serving/config.yml

Reads   config.yml and serving_server/ beside it, as make_config.py leaves them
Writes  PipelineServingLogs/ and ProcessInfo.json beside them

    POST /seq_cls/prediction    {"key": ["sentence"], "value": ["[\\"text\\", ...]"]} -> labels by name; see protocol.py
    gRPC, service seq_cls       the same key and value

It listens on 127.0.0.1 unless --host says otherwise. SIGTERM and Ctrl-C end it once the requests it has taken are
answered. Exit code 1: a process that holds a model has died, and service.py may be started anew.
"""

import importlib.util
import os
import signal
import sys
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy.paddle_serving.protocol import ROUTE, SERVICE
from hierarchical.checkpoints import Checkpoint
from hierarchical.devices import prepare_runtime
from utils import InputError, add_max_seq_length_argument, get_logger, make_parser, require_file, run

MADE_BY = "make_config.py writes it, with all that belongs to it."


def parse_args(argv):
    parser = make_parser("Serve a model by Paddle Serving.")
    parser.add_argument("--config", type=Path, default="serving/config.yml", help="what make_config.py has written")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: reachable from other machines")
    add_max_seq_length_argument(parser)
    return parser.parse_args(argv)


def read_config(path):
    """Paddle Serving's settings as a dict, the model's folder found from that of the file. Raises InputError."""
    import yaml

    require_file(path, MADE_BY)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings = config["op"][SERVICE]["local_service_conf"]
        settings["model_config"] = str(path.parent / settings["model_config"])
        if config["dag"]["is_thread_op"] or config["build_dag_each_worker"]:
            raise InputError(f"{path}: is_thread_op and build_dag_each_worker must be false.")
        if config["op"][SERVICE].get("batch_size", 1) > 1 and config["op"][SERVICE]["auto_batching_timeout"] < 1:
            raise InputError(f"{path}: batch_size above 1 would wait for ever; set auto_batching_timeout to 1 or more.")
        if min(config["http_port"], config["rpc_port"]) < 1024:
            raise InputError(f"{path}: http_port and rpc_port must be 1024 or above.")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise InputError(f"{path}: not the settings of a service ({reason}). {MADE_BY}") from None
    require_file(Path(settings["model_config"]) / "serving_server_conf.prototxt", MADE_BY)
    return config


def main(argv=None):
    args = parse_args(argv)
    if not all(map(importlib.util.find_spec, ("paddle_serving_server", "paddle"))):
        raise InputError(
            "Paddle Serving is not installed in this Python. Run: bash deploy/paddle_serving/make_environment.sh, "
            "then .venv-paddle-serving/bin/python deploy/paddle_serving/service.py"
        )
    config = read_config(args.config)
    folder = Path(config["op"][SERVICE]["local_service_conf"]["model_config"])
    model = Checkpoint.open(folder, args.max_seq_length, exported=True)
    model.require_models([*folder.glob("*.pdmodel"), *folder.glob("*.pdiparams")], {})
    # The library writes to these folders as soon as it is imported, else to the current one.
    os.environ["SERVING_LOG_PATH"] = os.environ["SERVING_HOME"] = str(args.config.parent.resolve())
    prepare_runtime()
    from deploy.paddle_serving import pipeline

    logger = get_logger()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # in the processes that are started now: only this one is to end them
    service = pipeline.Service(config, args.host, model)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    ready = f"Serving on http://{args.host}:{config['http_port']}{ROUTE} and gRPC {args.host}:{config['rpc_port']}"
    died = service.run(
        lambda: logger.info(f"{ready}; {len(model.tree)} labels, {model.tokenizer.max_seq_length} tokens")
    )
    if died:
        logger.error(f"A process that holds the model has died: see {args.config.parent / 'PipelineServingLogs'}")
    sys.stdout.flush()
    os._exit(1 if died else 0)  # not by exit(): it would wait for threads that wait for the dead process


if __name__ == "__main__":
    run(main)
