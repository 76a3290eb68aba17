"""Label the texts of a data lake with an exported model, on all cores of a machine or on a cluster, with Ray Data.

    python deploy/ray_batch/predict.py --model_path export --input in --text_column body --output out
    python deploy/ray_batch/predict.py --model_path export --input 's3://bucket/in/*.parquet' --output s3://bucket/out
    python deploy/ray_batch/predict.py --model_path export --input in --output out --resume    # continue after a kill
    python deploy/ray_batch/predict.py --model_path export --input in --output out --address 10.0.0.1:6379
    python deploy/ray_batch/predict.py --model_path export --input in --output out \\
        --unseen new_labels.txt --unseen_encoder output               # and labels without rows

Reads   input       files, folders and patterns: .parquet, .jsonl, .csv with a header, .txt with a text per line; the
                    last three also packed (.gz, .bz2, .zst, .lz4); local, s3://, gs:// or hdfs://
        model_path  a folder of export_model.py, a model in it, or a linear model; it need not be on the other machines
        unseen_encoder/  of retrieval_based/export_model.py, with what retrieval_based/fit_unseen.py wrote; nor need it
Writes  output/NAME-00000-of-00002.parquet    for a Parquet file NAME, its rows in their order: all columns, and row
                    (the number in the file), labels, probabilities and levels; with --unseen which labels are new
        output/NAME-00000-of-00002.jsonl      for any other file, as JSON lines
        output/_manifest.json                 what --resume compares with
        output/_SUCCESS                       empty; once all is there

Each piece, 20,000 rows of Parquet, JSON lines or text, or a whole file of what is CSV or packed, is labelled by one
actor and takes its name when it is whole. Without --address, Ray is started on this machine and ends with the script.
"""

import json
import logging
import os
import secrets
import socket
import sys
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy.ray_batch.labelling import COUNTED, ENCODER, NEW_LABELS, UNFINISHED, Labeller, Settings
from deploy.ray_batch.lake import PIECE_ROWS, cut, file_system, find_files, first_line, fixed_part
from hierarchical.devices import available_cores
from hierarchical.engines import PRECISIONS, find_precision
from hierarchical.files import file_digest
from hierarchical.labelled import FLOOR
from hierarchical.predictions import require_same_run
from hierarchical.predictor import Predictor, usual_batch_size
from hierarchical.sets import in_force
from hierarchical.unseen import FILE, VECTORS, WithUnseen, files_of_new_labels, require_no_number
from utils import (
    InputError,
    Problems,
    add_decision_arguments,
    add_long_text_arguments,
    add_max_seq_length_argument,
    add_unseen_arguments,
    check_minima,
    decision_from_arguments,
    get_logger,
    long_text_arguments,
    make_parser,
    progress_bar,
    quiet,
    run,
)

PROJECT = Path(__file__).resolve().parents[2]
MANIFEST, SUCCESS = "_manifest.json", "_SUCCESS"
MOST_BLOCKS = 10_000  # of the data set of pieces
STORE_BYTES = 1 << 28  # of Ray's memory for objects, beside the model
TOLD_EVERY = 60  # seconds, where no terminal shows a bar
OTHER_MODELS = (".onnx", ".pdmodel", ".pdiparams", ".info")


def parse_args(argv):
    parser = make_parser("Label the texts of a data lake with an exported model.")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--input", nargs="+", required=True, help="files, folders or patterns; local, s3://, gs://, hdfs://"
    )
    data.add_argument("--text_column", default="text", help="column or field of the text")
    data.add_argument("--output", required=True, help="folder, or address of one, for the files that are written")
    model = parser.add_argument_group("model")
    model.add_argument("--model_path", required=True, help="folder of export_model.py, or a model in it")
    model.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="auto: int8 on CPUs unless it was found slower or worse, float16 on GPUs; float32 where that is not there",
    )
    add_max_seq_length_argument(model)
    add_long_text_arguments(model)
    model.add_argument("--batch_size", type=int, help="texts per step (default: 32, on a GPU 256)")
    cluster = parser.add_argument_group("cluster")
    cluster.add_argument(
        "--address", help="of a Ray cluster: HOST:6379, auto, ray://HOST:10001; else one on this machine"
    )
    cluster.add_argument(
        "--num_gpus", type=float, default=0, help="GPUs of an actor, 0.5 for two on one; 0: a CPU core"
    )
    cluster.add_argument("--num_actors", type=int, help="actors at most (default: as many as there is room for)")
    add_decision_arguments(parser, None)
    result = parser.add_argument_group("result")
    result.add_argument("--floor", type=float, default=FLOOR, help="write the probabilities of labels above this")
    result.add_argument("--certainty", type=float, help="add columns: how certain, and whether as much as this")
    result.add_argument("--prefix", help="stands before the names of the new columns")
    result.add_argument("--resume", action="store_true", help="keep the pieces that are there, and label the others")
    add_unseen_arguments(parser, "./output")
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3, num_gpus=0, num_actors=1, floor=0, certainty=0)
    for name in ("floor", "certainty"):
        if (value := getattr(args, name)) is not None and value > 1:
            parser.error(f"argument --{name}: must be from 0 to 1, got {value}")
    if args.num_gpus and args.precision == "int8":
        parser.error("argument --precision: int8 is for CPUs; leave --num_gpus out")
    args.address = args.address or os.environ.get("RAY_ADDRESS")  # which `ray job submit` sets
    return args


# ---- the model -------------------------------------------------------------------------------------------------------


def model_files(file):
    """name -> bytes of what belongs to a model, without the others in its folder."""
    paths = [path for path in file.parent.iterdir() if path.is_file() and path.name[0] != "."]
    chosen = [path for path in paths if path == file or path.suffix not in OTHER_MODELS]
    return {path.name: path.read_bytes() for path in chosen}


def read_beside(args, predictor, decision):
    """The WithUnseen of --unseen, loaded, None without. Raises InputError for what no actor could load."""
    if not args.unseen:
        return None
    beside = WithUnseen.read(predictor, args.unseen, args.unseen_encoder, without_paddle=True)
    require_no_number(decision)
    beside.load()
    return beside


def files_of_unseen(args, beside):
    """name -> bytes of the new labels and their encoder, as a Labeller takes them."""
    encoder = beside.encoder
    files = model_files(encoder.onnx) | {name: (encoder.directory / name).read_bytes() for name in (FILE, VECTORS)}
    labels = {f"{NEW_LABELS}/{path.name}": path.read_bytes() for path in files_of_new_labels(args.unseen)}
    return {f"{ENCODER}/{name}": content for name, content in files.items()} | labels


# ---- the output ------------------------------------------------------------------------------------------------------


def open_output(args, places, pieces, settings, logger):
    """Check the output folder and note there what is made; returns the pieces that are still to do."""
    from pyarrow.fs import FileSelector, FileType

    system, folder = file_system(args.output)
    for address in args.input:
        other, path = file_system(address)
        if other == system and f"{folder}/".startswith(f"{fixed_part(path).rstrip('/')}/"):
            raise InputError(f"--output {args.output}: lies in --input {address}, and would be read by the next run.")
    try:
        infos = system.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    except OSError as error:
        raise InputError(f"--output {args.output}: cannot be listed ({first_line(error)}).") from None
    there = {info.path[len(folder) :].lstrip("/") for info in infos if info.type == FileType.File}
    there -= {name for name in there if name.startswith((MANIFEST, UNFINISHED))}
    if there and not args.resume:
        raise InputError(f"--output {args.output}: holds {len(there)} files. Name an empty folder, or give --resume.")
    known = read_manifest(args, system, folder) if there else {}  # of a run that wrote no piece nothing counts
    if known:
        require_same_run(known["settings"], settings)
    marks = {place.name: place.mark for place in places}
    for name, mark in known.get("files", {}).items():
        old = {output for output in there if output.rpartition("-of-")[0].rpartition("-")[0] == name}
        if name not in marks:
            logger.warning(f"{name}: gone since the unfinished run; the {len(old)} pieces that were made of it stay")
            marks[name] = mark
        elif marks[name] != mark:
            logger.warning(f"{name}: changed since the unfinished run; its {len(old)} pieces are made again")
            for output in old:
                system.delete_file(f"{folder}/{output}")
            there -= old
    if SUCCESS in there:
        system.delete_file(f"{folder}/{SUCCESS}")
    write_file(
        system, folder, MANIFEST, json.dumps({"settings": settings, "files": marks}, ensure_ascii=False, indent=1)
    )
    return [piece for piece in pieces if piece.output not in there]


def read_manifest(args, system, folder):
    try:
        with system.open_input_stream(f"{folder}/{MANIFEST}") as stream:
            found = json.loads(stream.read())
        return {"settings": dict(found["settings"]), "files": dict(found["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--resume: {args.output}/{MANIFEST} is not readable ({first_line(error)}). Name an empty folder."
        ) from None


def write_file(system, folder, name, text):
    """Write a small file whole or not at all."""
    system.create_dir(f"{folder}/{UNFINISHED}")
    with system.open_output_stream(f"{folder}/{UNFINISHED}/{name}") as stream:
        stream.write(text.encode("utf-8"))
    system.move(f"{folder}/{UNFINISHED}/{name}", f"{folder}/{name}")


# ---- Ray -------------------------------------------------------------------------------------------------------------


def start_ray(args, size, logger):
    """Connect to a cluster, or start one on this machine that nobody else may use. size: of the model, in bytes."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of what it says to the developers of Ray
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # on a busy machine its 30 are too few
    os.environ.setdefault("RAY_worker_niceness", "0")  # as this script, not 15
    address = args.address
    if not address:
        # Its ports are open to the network, and whoever may use them can run code.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logger.info(f"Connecting to Ray at {address} ..." if address else "Starting Ray on this machine ...")
    settings = {"logging_level": "ERROR", "log_to_driver": False}
    require_answer(address)
    try:
        with quiet():
            if address:
                modules = [str(PROJECT / "hierarchical"), str(PROJECT / "deploy")]
                ray.init(address=address, runtime_env={"py_modules": modules}, **settings)
            else:
                gpus = {} if args.num_gpus else {"num_gpus": 0}
                memory = STORE_BYTES + 2 * size
                ray.init(
                    num_cpus=available_cores(), include_dashboard=False, object_store_memory=memory, **gpus, **settings
                )
    except Exception as error:  # also of the plainest type
        raise InputError(
            f"Ray cannot be {'reached at ' + address if address else 'started'} ({first_line(error)})."
        ) from None
    return ray


def require_answer(address):
    """Raise InputError if nothing listens at HOST:PORT, which Ray would find out after minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise InputError(
                f"--address {address}: no Ray cluster answers there ({error.strerror or error})."
            ) from None


def actors_at_most(args, ray, pieces):
    """How many actors there may be. Raises InputError if there is no room for one."""
    total = ray.cluster_resources()
    room = int(total.get("CPU", 0))
    if args.num_gpus:
        room = min(room, int(total.get("GPU", 0) / args.num_gpus))
    if args.num_actors and args.address:
        room = args.num_actors  # a cluster may grow by itself
    if room < 1:
        has = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
        wanted = f"a CPU and {args.num_gpus:g} GPUs" if args.num_gpus else "a CPU"
        raise InputError(
            f"an actor needs {wanted}; the cluster has {has}. One that grows by itself does so with --num_actors."
        )
    return min(args.num_actors or room, len(pieces))


def label(args, ray, pieces, settings, files, logger):
    """Label all pieces; returns (counts of rows, Problems)."""
    from ray.data import ActorPoolStrategy, DataContext, from_items

    DataContext.get_current().enable_progress_bars = False
    actors = actors_at_most(args, ray, pieces)
    logger.info(f"Labelling {len(pieces)} pieces with at most {actors} actors")
    items = [{"piece": json.dumps(asdict(piece), ensure_ascii=False)} for piece in pieces]
    results = from_items(items, override_num_blocks=min(len(items), MOST_BLOCKS)).map_batches(
        Labeller,
        fn_constructor_args=(settings, partial(ray.get, ray.put(files))),  # as it is it would be copied many times
        batch_size=1,
        batch_format="numpy",
        compute=ActorPoolStrategy(
            min_size=1,
            max_size=actors,
            initial_size=actors,
            max_tasks_in_flight_per_actor=1,  # else the first that is ready takes pieces that others could do at once
        ),
        num_cpus=1,
        num_gpus=args.num_gpus or None,
    )
    counts, problems, told = Counter(), Problems(), time.monotonic()
    with progress_bar(len(pieces), "label", unit=" pieces") as bar:
        for done, result in enumerate(results.iter_rows(), start=1):
            if result["fault"]:
                problems.count += 1
                problems.shown += [result["fault"]] if len(problems.shown) < 20 else []
            counts.update({name: int(result[name]) for name in COUNTED})
            bar.set_postfix_str(f"{counts['rows']} rows", refresh=False)
            bar.update()
            if bar.disable and time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                logger.info(f"{done} of {len(pieces)} pieces, {counts['rows']} rows")
    return counts, problems


def main(argv=None):
    args = parse_args(argv)
    logger = get_logger()
    device = "gpu" if args.num_gpus else "cpu"
    precision = find_precision(in_force(args.model_path), args.precision, device)
    predictor = Predictor(
        args.model_path,
        precision,
        kind="export",
        max_seq_length=args.max_seq_length,
        batch_size=args.batch_size,
        **long_text_arguments(args),
    )
    decision = decision_from_arguments(args, predictor.tree, predictor.decision)
    beside = read_beside(args, predictor, decision)
    settings = Settings(
        output=args.output if "://" in args.output else os.path.abspath(args.output),
        model="" if Path(args.model_path).is_dir() else Path(args.model_path).name,
        text_column=args.text_column,
        prefix=args.prefix or "",
        precision=precision,
        device=device,
        max_seq_length=args.max_seq_length,
        long_text=long_text_arguments(args),
        batch_size=args.batch_size or usual_batch_size(device != "cpu", predictor.tokenizer.max_seq_length),
        decision=decision.to_dict(),
        floor=args.floor,
        certainty=args.certainty,
        unseen=Path(args.unseen).name if beside else None,
    )
    places = find_files(args.input)
    pieces = cut(places, args.text_column, settings.added())
    known = asdict(settings) | {"output": "", "model": file_digest(predictor.file)}  # wherever both may lie
    known |= beside.settings if beside else {}
    # The paths alone: an address may hold a password.
    known |= {"input": [file_system(address)[1] for address in args.input], "piece_rows": PIECE_ROWS}
    todo = open_output(args, places, pieces, known, logger)
    logger.info(f"{len(places)} files, {len(pieces)} pieces; {len(pieces) - len(todo)} are there already")
    began = time.monotonic()
    if todo:
        files = model_files(predictor.file) | (files_of_unseen(args, beside) if beside else {})
        del predictor, beside
        ray = start_ray(args, sum(map(len, files.values())), logger)
        try:
            counts, problems = label(args, ray, todo, settings, files, logger)
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"Ray gave up: {said[-1]} What is written stays; --resume goes on from there.") from error
        finally:
            ray.shutdown()
        tell(counts, problems, time.monotonic() - began, args, logger)
    system, folder = file_system(args.output)
    system.delete_dir(f"{folder}/{UNFINISHED}")
    write_success(system, folder)


def tell(counts, problems, seconds, args, logger):
    """The last lines of the log. Raises InputError if there were bad pieces."""
    if counts["blank"]:
        logger.warning(f"blank rows: {counts['blank']} (each has an empty prediction, so that the rows stay in step)")
    texts = counts["rows"] - counts["blank"]
    logger.info(f"Without a label: {counts['unlabelled']} of {texts} texts")
    if args.unseen:
        logger.info(f"New labels, by their words alone: in {counts['new']} of {texts} texts")
    speed = counts["rows"] / max(seconds, 1e-9)
    logger.info(f"Predicted {counts['rows']} texts in {seconds:.1f} s ({speed:.1f} texts/s), in {args.output}")
    if problems.count:
        raise InputError(
            f"{problems.count} of the pieces could not be labelled; all others are in {args.output}. Mend these, and "
            "give --resume:\n  " + "\n  ".join(problems.shown)
        )


def write_success(system, folder):
    """The mark by which programs that wait for the output know that it is whole."""
    with system.open_output_stream(f"{folder}/{SUCCESS}"):
        pass


if __name__ == "__main__":
    run(main)
