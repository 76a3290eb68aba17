"""Ask the service of service.py for the labels of texts, by gRPC, from the environment of make_environment.sh.

    .venv-paddle-serving/bin/python deploy/paddle_serving/rpc_client.py --texts 某公司宣布裁员 国足今晚出战
    .venv-paddle-serving/bin/python deploy/paddle_serving/rpc_client.py --dataset_dir data --url 192.168.0.7:18090

Reads   data_file in dataset_dir: texts or rows (see hierarchical/formats.py); "-" is standard input. Writes nothing.
"""

import collections
import collections.abc
import os
import sys
import tempfile
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy import client_texts
from deploy.paddle_serving.client import print_labels
from deploy.paddle_serving.protocol import RPC_PORT, SERVICE
from utils import InputError, make_parser, run


def parse_args(argv):
    parser = make_parser("Ask Paddle Serving by gRPC.")
    client_texts.add_arguments(parser, f"127.0.0.1:{RPC_PORT}", "the service")
    return client_texts.parse_args(parser, argv)


def load_messages():
    """(gRPC, the messages, the stub) as Paddle Serving has them; importing it would leave log files behind."""
    collections.Iterable = collections.abc.Iterable  # the library was written for Python 3.9
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SERVING_LOG_PATH"] = os.environ["SERVING_HOME"] = folder
        try:
            import grpc
            from paddle_serving_server.pipeline.proto import pipeline_service_pb2, pipeline_service_pb2_grpc
        except ImportError as error:
            raise InputError(
                f"{error}. Run: bash deploy/paddle_serving/make_environment.sh, then .venv-paddle-serving/bin/python "
                "deploy/paddle_serving/rpc_client.py"
            ) from None
    return grpc, pipeline_service_pb2, pipeline_service_pb2_grpc


def connect(url, timeout):
    """ask(value) as client.classify() needs it. Raises InputError when the service cannot be reached."""
    grpc, messages, services = load_messages()
    options = [("grpc.max_receive_message_length", -1)]
    stub = services.PipelineServiceStub(grpc.insecure_channel(url, options))

    def ask(value):
        try:
            request = messages.Request(name=SERVICE, key=["sentence"], value=[value])
            answer = stub.inference(request, timeout=timeout)
        except UnicodeEncodeError:
            raise InputError(
                "a text has a lone surrogate, which gRPC cannot carry. Remove it, or ask by HTTP."
            ) from None
        except grpc.RpcError as error:
            reason = (error.details() or str(error.code())).rstrip(".")
            raise InputError(f"{url}: {reason}. Is this the gRPC port of the service, and is it up?") from None
        return answer.err_no, answer.err_msg, answer.key, answer.value

    return ask


def main(argv=None):
    args = parse_args(argv)
    print_labels(args, connect(args.url, args.timeout))


if __name__ == "__main__":
    run(main)
