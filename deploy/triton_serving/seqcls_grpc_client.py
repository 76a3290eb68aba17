"""Ask a Triton server for the labels of texts, by gRPC.

    python deploy/triton_serving/seqcls_grpc_client.py --texts 某公司宣布裁员 国足今晚出战
    python deploy/triton_serving/seqcls_grpc_client.py --dataset_dir data --url 192.168.0.7:8001

Reads   data_file in dataset_dir: texts or rows (see hierarchical/formats.py); "-" is standard input. Writes nothing.

It knows nothing of the model: names of labels, and how many texts a request may hold, come from the server.
"""

import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from deploy import client_texts
from deploy.simple_serving.key import KEY_VARIABLE, read_api_key
from deploy.triton_serving.repository import SET, require_one_set
from utils import FLAT, InputError, make_parser, run, shown

REQUEST_BYTES = 3 << 20  # of texts in a request: below the limit of nginx.conf


def parse_args(argv):
    parser = make_parser("Ask a Triton server by gRPC.")
    client_texts.add_arguments(parser, "localhost:8001", "the server's gRPC port")
    parser.add_argument("--model_name", default="seqcls", help="the ensemble of make_repository.py")
    parser.add_argument("--model_version", default="1", help="its version")
    parser.add_argument(
        "--api_key_file", type=Path, help=f"its first line is sent as x-api-key (or set {KEY_VARIABLE})"
    )
    return client_texts.parse_args(parser, argv)


def requests_of(texts, most):
    """Cut encoded texts into lists of at most `most` and REQUEST_BYTES; one that is longer by itself stays alone."""
    batch, size = [], 0
    for text in texts:
        if batch and (len(batch) == most or size + len(text) > REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


class Client:
    """A connection to a served model: `classify(texts)`. Raises InputError for whatever the server refuses.

    api_key: for a server that was started with --grpc-restricted-protocol=...:x-api-key=KEY, or the proxy before it
    """

    def __init__(self, url="localhost:8001", model="seqcls", version="1", timeout=120, api_key=None):
        try:
            from tritonclient import grpc
        except ImportError:
            raise InputError("tritonclient is not installed. Run: pip install 'tritonclient[grpc]'") from None
        self.grpc, self.url, self.model, self.version, self.timeout = grpc, url, model, version, timeout
        names = ("x-api-key", "triton-grpc-protocol-x-api-key")  # as nginx.conf and as Triton itself looks for it
        self.headers = dict.fromkeys(names, api_key) if api_key else None
        self.client = grpc.InferenceServerClient(url)
        config = self.ask(self.client.get_model_config, model, version).config
        self.batch_size = max(1, config.max_batch_size)
        steps = [step.model_name for step in config.ensemble_scheduling.step]
        configs = {model: config} | {name: self.ask(self.client.get_model_config, name).config for name in steps}
        require_one_set(url, {name: one.parameters[SET].string_value for name, one in configs.items()})

    def ask(self, function, *arguments, **settings):
        from tritonclient.utils import InferenceServerException

        try:
            return function(*arguments, headers=self.headers, client_timeout=self.timeout, **settings)
        except InferenceServerException as error:
            hint = ""
            if "restricted" in error.message() or error.status() == "StatusCode.UNAUTHENTICATED":
                hint = " Send the server's key: --api_key_file."
            elif error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"):
                hint = " Is this the gRPC port of a Triton server, and is it up?"
            raise InputError(f"{self.url}, model {self.model}: {error.message().rstrip('.')}.{hint}") from None

    def classify(self, texts):
        """Yield for each text the list of its (class index, label name, confidence), in ascending order of indices."""
        for labels, _ in self.answers(texts, ("label", "label_name", "confidence")):
            yield labels

    def classify_with_certainty(self, texts):
        """Yield for each text (the same, how certain the labels are: a float)."""
        for labels, certainty in self.answers(texts, ("label", "label_name", "confidence", "certainty")):
            yield labels, certainty[0]

    def answers(self, texts, names):
        """Yield for each text (its labels, the row of the output `certainty` if that is among the names)."""
        for encoded in requests_of([text.encode("utf-8") for text in texts], self.batch_size):
            batch = np.array([[text] for text in encoded], object)
            tensor = self.grpc.InferInput("INPUT", batch.shape, "BYTES")
            tensor.set_data_from_numpy(batch)
            result = self.ask(
                self.client.infer, self.model, [tensor], self.version,
                outputs=[self.grpc.InferRequestedOutput(name) for name in names],
            )  # fmt: skip
            for label, label_name, confidence, *certainty in zip(*(result.as_numpy(name).tolist() for name in names)):
                labels = [(i, n.decode("utf-8"), p) for i, n, p in zip(label, label_name, confidence) if i >= 0]
                yield labels, certainty[0] if certainty else None


def main(argv=None):
    args = parse_args(argv)
    key = read_api_key(args.api_key_file)
    texts = client_texts.texts_to_send(args)
    client = Client(args.url, args.model_name, args.model_version, args.timeout, key and key.decode())
    asked = args.certainty is not None
    for text, found in zip(texts, (client.classify_with_certainty if asked else client.classify)(texts)):
        labels, certainty = found if asked else (found, None)
        print("text:", shown(text))
        print("label:", ",".join(str(i) for i, _, _ in labels))
        print("label name:", ",".join(name for _, name, _ in labels).translate(FLAT))
        print("confidence:", ",".join(f"{p:.4f}" for _, _, p in labels))
        client_texts.print_certainty(certainty, args.certainty)
        print("-" * 20)


if __name__ == "__main__":
    run(main)
