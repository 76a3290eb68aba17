"""Start the Triton server of the nvidia-pytriton wheel on a model repository: no container, no GPU, Linux on x86-64.

    python deploy/triton_serving/make_repository.py --model_path export --output models --backend python
    python deploy/triton_serving/start_triton.py --model_repository models

Reads   model_repository, as make_repository.py --backend python writes it. Writes nothing, but Python
        keeps its compiled files there.

This build of Triton has the Python back end alone; the models' Python is the one that runs this script. SIGTERM and
Ctrl-C end the server once the requests it has taken are answered.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from utils import InputError, make_parser, run


def parse_args(argv):
    parser = make_parser("Start Triton without a container.")
    parser.add_argument("--model_repository", type=Path, default="models", help="folder of make_repository.py")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: reachable from other machines")
    parser.add_argument("--http_port", type=int, default=8000, help="HTTP and JSON")
    parser.add_argument("--grpc_port", type=int, default=8001, help="gRPC")
    parser.add_argument("--metrics_port", type=int, default=8002, help="figures for Prometheus")
    args = parser.parse_args(argv)
    for name in ("http_port", "grpc_port", "metrics_port"):
        if not 0 < getattr(args, name) <= 65_535:
            parser.error(f"argument --{name}: must be from 1 to 65535, got {getattr(args, name)}")
    return args


def find_server():
    """The wheel's tritonserver folder; raises InputError where it is not installed."""
    package = importlib.util.find_spec("pytriton")
    if package is None:
        raise InputError(
            "nvidia-pytriton, which brings Triton, is not installed. Run: pip install -r "
            "deploy/triton_serving/requirements.txt (Linux on x86-64 with glibc 2.35 or newer)"
        )
    return Path(package.origin).with_name("tritonserver")


def check_repository(folder):
    """Raise InputError unless this server can run what lies in the folder."""
    configs = sorted(folder.glob("*/config.pbtxt"))
    if not configs:
        raise InputError(f"{folder}: no model repository. Make one with make_repository.py --backend python.")
    for path in configs:
        if 'backend: "onnxruntime"' in path.read_text(encoding="utf-8"):
            raise InputError(f"{path}: needs NVIDIA's image; here, use make_repository.py --backend python.")


def link_backends(server, folder):
    """Put the Python back end and the part of it for this version of Python together, as Triton expects them."""
    version = "{}.{}".format(*sys.version_info)
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        known = ", ".join(sorted(path.name for path in stub.parents[1].iterdir()))
        raise InputError(f"nvidia-pytriton has no part for Python {version}. Run this with one of {known}.")
    (folder / "python").mkdir()
    for path in (stub, *(server / "backends" / "python").glob("*.*")):
        (folder / "python" / path.name).symlink_to(path)


def main(argv=None):
    args = parse_args(argv)
    check_repository(args.model_repository)
    server = find_server()
    # Its libraries, and this Python's before another of the same name; the models' processes find their packages by
    # the first python on the PATH.
    libraries = [server.parents[1] / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, [*libraries, os.environ.get("LD_LIBRARY_PATH", "")])).strip(":"),
    }
    with tempfile.TemporaryDirectory(prefix="triton-") as backends:
        link_backends(server, Path(backends))
        command = [
            server / "bin" / "tritonserver",
            f"--model-repository={args.model_repository}",
            f"--backend-directory={backends}",
            *(f"--{what}-address={args.host}" for what in ("http", "grpc", "metrics")),
            *(f"--{what}-port={getattr(args, f'{what}_port')}" for what in ("http", "grpc", "metrics")),
        ]
        process = subprocess.Popen(command, env=environment)
        signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the server by itself
        sys.exit(process.wait())


if __name__ == "__main__":
    run(main)
