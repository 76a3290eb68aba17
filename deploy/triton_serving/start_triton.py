"""Start the Triton server of the nvidia-pytriton wheel on a model repository: no container, no GPU, Linux on x86-64.

    python deploy/triton_serving/make_repository.py --model_path export --output models --backend python
    python deploy/triton_serving/start_triton.py --model_repository models
    python deploy/triton_serving/start_triton.py --model_repository models -- --http-thread-count=4 --log-verbose=1

Reads   model_repository, as make_repository.py --backend python writes it. Writes nothing, but Python
        keeps its compiled files there.

This build of Triton has the Python back end alone; the models' Python is the one that runs this script. What follows a
bare -- is passed on to the server. SIGTERM and Ctrl-C end the server once the requests it has taken are answered; if
another signal ends it, as a crash does, it is started again.

Triton's HTTP reads a large body, or one of many chunks, with functions that call each other, and so ends with a
segmentation fault where a thread's stack does not suffice. It gets a larger one here, which moves that limit and does
not take it away.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy.triton_serving.repository import require_repository
from utils import InputError, get_logger, make_parser, run

STACK = 256 << 20  # bytes of address space for each of its some 160 threads; used only as far as one needs it
TRIED = "60 MB or 5 million chunks"  # the largest HTTP bodies that were tried, and did not end it
SHORTEST, LONGEST = 1, 60  # seconds before it is started again: twice as many each time
STEADY = 60  # seconds after which a start counts as a good one


def parse_args(argv):
    parser = make_parser("Start Triton without a container.")
    parser.add_argument("--model_repository", type=Path, default="models", help="folder of make_repository.py")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: reachable from other machines")
    parser.add_argument("--http_port", type=int, default=8000, help="HTTP and JSON")
    parser.add_argument("--grpc_port", type=int, default=8001, help="gRPC")
    parser.add_argument("--metrics_port", type=int, default=8002, help="figures for Prometheus")
    parser.add_argument("server_flags", nargs="*", metavar="-- FLAG", help="passed on to tritonserver, as they are")
    args = parser.parse_args(argv)
    if args.server_flags and not args.server_flags[0].startswith("--"):
        parser.error(f"{args.server_flags[0]}: is no flag; those of tritonserver follow a bare --")
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
    """Raise InputError unless this server can run what lies in the folder, and the models of it belong together."""
    configs = sorted(folder.glob("*/config.pbtxt"))
    if not configs:
        raise InputError(f"{folder}: no model repository. Make one with make_repository.py --backend python.")
    for path in configs:
        if 'backend: "onnxruntime"' in path.read_text(encoding="utf-8"):
            raise InputError(f"{path}: needs NVIDIA's image; here, use make_repository.py --backend python.")
    require_repository(folder)


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


def stack_size():
    """Bytes of stack for the server's threads: STACK, or what this process has if it is more, or may have at most."""
    import resource  # which Windows has not

    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK if soft == resource.RLIM_INFINITY else max(soft, STACK)  # glibc takes 2 MiB for "unlimited"
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


class Keeper:
    """Runs the server, and starts it again whenever a signal that nobody meant to send has ended it."""

    def __init__(self, command, environment):
        self.command, self.environment, self.logger = command, environment, get_logger()
        self.ending, self.process = False, None

    def end(self, number, frame):
        """On SIGTERM and Ctrl-C; the latter reaches the server by itself."""
        self.ending = True
        if number == signal.SIGTERM and self.process:
            self.process.terminate()

    def run(self):
        """Returns the exit code of the server once it has ended by itself, or was to end."""
        import resource

        pause, size = SHORTEST, stack_size()

        def grow_stack():
            resource.setrlimit(resource.RLIMIT_STACK, (size, resource.getrlimit(resource.RLIMIT_STACK)[1]))

        while True:
            began = time.monotonic()
            self.process = subprocess.Popen(self.command, env=self.environment, preexec_fn=grow_stack)
            if self.ending:  # by a signal that came meanwhile
                self.process.terminate()
            code = self.process.wait()
            if code >= 0 or self.ending:
                return code
            lived = time.monotonic() - began
            pause = SHORTEST if lived >= STEADY else pause
            name = signal.Signals(-code).name
            self.logger.error(f"{name} has ended Triton after {lived:.0f} s; it is started again in {pause} s")
            again = time.monotonic() + pause
            while time.monotonic() < again:
                if self.ending:
                    return 0
                time.sleep(0.1)
            pause = min(2 * pause, LONGEST)


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
    logger = get_logger()
    if stack_size() < STACK:
        logger.warning("ulimit -Hs is below 256 MiB: an HTTP body of a few MB can end the server")
    logger.info(
        f"Triton limits no HTTP body: it has outlived {TRIED}, and more may end it. For others than yourself put a "
        "proxy with a limit in front of it: deploy/triton_serving/nginx.conf"
    )
    with tempfile.TemporaryDirectory(prefix="triton-") as backends:
        link_backends(server, Path(backends))
        command = [
            server / "bin" / "tritonserver",
            f"--model-repository={args.model_repository}",
            f"--backend-directory={backends}",
            *(f"--{what}-address={args.host}" for what in ("http", "grpc", "metrics")),
            *(f"--{what}-port={getattr(args, f'{what}_port')}" for what in ("http", "grpc", "metrics")),
            *args.server_flags,
        ]
        keeper = Keeper(command, environment)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, keeper.end)
        sys.exit(keeper.run())


if __name__ == "__main__":
    run(main)
