"""Write the folder that service.py serves from an exported model.

    python deploy/paddle_serving/make_config.py --model_path export --output serving

Reads   what export_model.py or prune.py left in model_path: <name>.pdmodel, <name>.pdiparams and what is beside them
Writes  output/config.yml                                     Paddle Serving's settings; made to be edited
        output/serving_server/                                the model, serving_server_conf.prototxt, labels, tokenizer
                                                              and export.json, by which service.py knows its files
        output/serving_client/serving_client_conf.prototxt    the same description, for clients of other kinds

The names of inputs and outputs come from the model. The folder stands alone: the export is not needed any more.
Needs paddle: run it in the environment of this repository, or in that of make_environment.sh.
"""

import json
import shutil
import sys
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy.paddle_serving.protocol import HTTP_PORT, RPC_PORT, SERVICE
from deploy.parts import new_parts
from hierarchical.checkpoints import Checkpoint, is_linear, write_settings
from hierarchical.devices import available_cores
from hierarchical.engines import model_path
from hierarchical.exporting import write_export
from hierarchical.identity import read_export, require_listed
from hierarchical.linear import write_linear
from hierarchical.predictor import Predictor
from utils import (
    InputError,
    add_decision_arguments,
    check_minima,
    decision_from_arguments,
    get_logger,
    make_parser,
    require_file,
    run,
)

PARTS = ("config.yml", "serving_server", "serving_client")
CONFIG = """\
# Settings of Paddle Serving; service.py reads them at its start.
rpc_port: {rpc_port}
http_port: {http_port}
worker_num: 16                  # requests that are taken at a time; more wait
build_dag_each_worker: false
dag:
    is_thread_op: false         # threads would share one model, and crash
    retry: 1
op:
    {service}:
        concurrency: 1          # processes, each with a model of its own
        batch_size: 1           # requests that go through the model together; above 1 set the next line, too
        auto_batching_timeout: -1   # milliseconds to wait for so many
        local_service_conf:
            client_type: local_predictor
            model_config: serving_server    # beside this file
            fetch_list: [{output}]
            device_type: 0      # 0: CPU; 1: NVIDIA GPU, with paddlepaddle-gpu installed in place of paddlepaddle
            devices: ""         # of GPUs the number, such as "0"
            thread_num: {num_threads}
            ir_optim: true
            use_mkldnn: true
"""


def parse_args(argv):
    parser = make_parser("Write what service.py serves.")
    parser.add_argument("--model_path", required=True, help="folder of export_model.py, or a model without its ending")
    parser.add_argument("--output", type=Path, default="serving", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help=f"replace {', '.join(PARTS)} in it")
    parser.add_argument("--rpc_port", type=int, default=RPC_PORT, help="port for gRPC")
    parser.add_argument("--http_port", type=int, default=HTTP_PORT, help="port for HTTP")
    parser.add_argument("--num_threads", type=int, help="cores for a model call (default: all cores)")
    add_decision_arguments(parser, None)
    args = parser.parse_args(argv)
    for name in ("rpc_port", "http_port"):
        if not 1024 <= getattr(args, name) <= 65_535:
            parser.error(f"argument --{name}: must be from 1024 to 65535, got {getattr(args, name)}")
    if args.rpc_port == args.http_port:
        parser.error("argument --http_port: must differ from --rpc_port")
    check_minima(parser, args, num_threads=1)
    return args


def find_model(path):
    """(Predictor, name of its output) of the model to serve. Raises InputError if it is not complete."""
    if is_linear(path):
        Checkpoint.open(path, exported=True)  # refuses it, and says what it is for
    path = model_path(path, "float32", ".pdmodel")
    require_file(path, "Paddle Serving reads .pdmodel files: export the model with paddlepaddle 3.1 or older.")
    predictor = Predictor(path, backend="paddle", num_threads=1, kind="export")
    predictor.logits(predictor.tokenizer.encode(["第一句，a first text"]))  # has as many outputs as there are labels
    return predictor, predictor.engine.predictor.get_output_names()[0]


def require_place(args):
    """Raise InputError if the output folder cannot be written, or holds what would be lost."""
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"{args.output}: is a file. --output names a folder to write.")
    there = [name for name in PARTS if (args.output / name).exists()]
    if there and not args.overwrite:
        raise InputError(
            f"{args.output}: holds {', '.join(there)} already. Pass --overwrite to replace, or another --output."
        )


def prototxt(inputs, output, n_labels):
    """The description of a model that `paddle_serving_client.convert` would write (0: int64, 1: float32)."""

    def variable(side, name, kind, size):
        name = json.dumps(name)
        return (
            f"{side}_var {{\n  name: {name}\n  alias_name: {name}\n  is_lod_tensor: false\n"
            f"  {side}_type: {kind}\n  shape: {size}\n}}\n"
        )

    return "".join([*(variable("feed", name, 0, -1) for name in inputs), variable("fetch", output, 1, n_labels)])


def config_text(args, output):
    return CONFIG.format(
        rpc_port=args.rpc_port,
        http_port=args.http_port,
        service=SERVICE,
        output=json.dumps(output),
        num_threads=args.num_threads or available_cores(),
    )


def write_folder(folder, args, predictor, output, decision):
    """Write everything into an empty folder."""
    server, client = folder / "serving_server", folder / "serving_client"
    server.mkdir()
    client.mkdir()
    models = [predictor.file, predictor.file.with_suffix(".pdiparams")]
    record = read_export(predictor.file.parent)
    for path in (*models, predictor.file.with_name("config.json")):
        shutil.copyfile(path, server / path.name)
    tokenizer = predictor.tokenizer
    tokenizer.save(server)
    write_settings(server, predictor.tree, tokenizer.max_seq_length, decision, tokenizer.long_text)
    if predictor.linear:
        write_linear(server, predictor.linear, predictor.tree)
    models = [server / path.name for path in models]
    require_listed(record, models)  # even if another export took the place of the first meanwhile
    write_export(server, record["identity"] if record else predictor.digests, models)
    Checkpoint.open(server, exported=True)
    description = prototxt(predictor.engine.inputs, output, len(predictor.tree))
    (server / "serving_server_conf.prototxt").write_text(description, encoding="utf-8")
    (client / "serving_client_conf.prototxt").write_text(description, encoding="utf-8")
    (folder / "config.yml").write_text(config_text(args, output), encoding="utf-8")


def main(argv=None):
    args = parse_args(argv)
    require_place(args)
    predictor, output = find_model(args.model_path)
    decision = decision_from_arguments(args, predictor.tree, predictor.decision)
    with new_parts(args.output, PARTS) as folder:
        write_folder(folder, args, predictor, output, decision)
    get_logger().info(
        f"{args.output}: {predictor.file.name} with {len(predictor.tree)} labels, output {output}; "
        f"start it with deploy/paddle_serving/service.py --config {args.output / 'config.yml'}"
    )


if __name__ == "__main__":
    run(main)
