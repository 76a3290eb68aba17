"""The Pipeline of Paddle Serving that service.py runs: how a request is read, labelled, answered, and by whom.

What the library itself would do, and is kept from doing: listen on every interface, through a gateway without limits;
unpickle arrays that a request brings; kill the process group of whoever started it when a model does not load; join
texts of unequal lengths, which ends its loop and leaves every client waiting.
"""

import collections
import collections.abc
import json
import logging
import multiprocessing
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Pipe, wait

import numpy as np

collections.Iterable = collections.abc.Iterable  # the library was written for Python 3.9
import paddle_serving_server.util  # noqa: E402

paddle_serving_server.util.kill_stop_process_by_pid = lambda command, pid: os._exit(1)
import grpc  # noqa: E402
from google.protobuf import json_format  # noqa: E402
from paddle_serving_server.pipeline import Op, PipelineServer, RequestOp, ResponseOp  # noqa: E402
from paddle_serving_server.pipeline.error_catch import CustomExceptionCode  # noqa: E402
from paddle_serving_server.pipeline.pipeline_server import PipelineServicer  # noqa: E402
from paddle_serving_server.pipeline.proto import pipeline_service_pb2, pipeline_service_pb2_grpc  # noqa: E402

from deploy.paddle_serving.protocol import EXAMPLE, MAX_BYTES, ROUTE, SERVICE, texts_of  # noqa: E402
from hierarchical.batches import run_batches  # noqa: E402
from hierarchical.decisions import certainty, decide, probabilities_of  # noqa: E402
from hierarchical.encoders import graph_feed  # noqa: E402
from hierarchical.errors import InputError  # noqa: E402
from hierarchical.linear import with_linear  # noqa: E402

BAD_REQUEST = CustomExceptionCode.INPUT_PARAMS_ERROR.value
BATCH_SIZE = 32  # texts of a model call
SLOWEST_CLIENT = 10  # seconds without a byte of the request
DISCARDED = 256 << 20  # bytes of a refused body that are read to its end; a client that sends more is cut off
GRACE = 10  # seconds for the requests that have been taken, when the service is to end


# ---- the steps -------------------------------------------------------------------------------------------------------


class TextRequest(RequestOp):
    """Reads a request; the library's own way takes pickled arrays, too."""

    def unpack_request_package(self, request):
        try:
            if request.tensors:
                raise InputError("tensors are not read here; send texts under the key 'sentence'")
            return {"texts": texts_of(request.key, request.value)}, request.logid, None, ""
        except InputError as error:
            return None, request.logid, BAD_REQUEST, str(error)


class Failed(Exception):
    """The library's (code, reason) for a batch that it could not compute."""


class Classify(Op):
    """Texts -> token ids -> logits -> names and probabilities of labels, in a process of its own.

    Of the requests that the library joins (batch_size in config.yml) the token ids come as one array of lists, so that
    they need not be of one length.
    """

    def __init__(self, request, model):
        super().__init__(name=SERVICE, input_ops=[request])
        self.tree, self.tokenizer, self.decision = model.tree, model.tokenizer, model.decision
        self.linear = model.linear

    def preprocess(self, input_dicts, data_id=0, log_id=0):
        (request,) = input_dicts.values()
        ids = self.tokenizer.encode(request["texts"])
        return {"ids": np.fromiter(ids, object, len(ids))}, False, None, ""

    def process(self, feed_batch, typical_logid=0):
        ids, (output,) = feed_batch[0]["ids"], self._fetch_names
        compute_batch = super().process

        def compute(input_ids):
            feed = graph_feed(input_ids)
            feed = {name: feed[name] for name in self.right_feed_names}
            result, code, reason = compute_batch([feed], typical_logid)
            if code != CustomExceptionCode.OK.value:
                raise Failed(code, reason)
            return result[output]

        pad_id, width, windows = self.tokenizer.pad_id, len(self.tree), self.tokenizer.windows
        try:
            logits = run_batches(compute, ids, pad_id, width, BATCH_SIZE, windows=windows)
        except Failed as failed:
            return None, *failed.args
        except InputError as error:  # numbers that are not finite
            return None, CustomExceptionCode.UNKNOW.value, str(error)
        return {output: logits}, CustomExceptionCode.OK.value, ""

    def postprocess(self, input_data, fetch_data, data_id=0, log_id=0):
        (request,), (logits,) = input_data.values(), fetch_data.values()
        logits = with_linear(logits, self.linear, request["texts"])
        probabilities = probabilities_of(logits, self.tree, self.decision)
        selected = decide(probabilities, self.tree, self.decision)
        selected &= [[bool(text.strip())] for text in request["texts"]]  # a blank text has no labels
        rows = [np.flatnonzero(row) for row in selected]
        answer = {
            "label": [[self.tree.labels[i] for i in row] for row in rows],
            "confidence": [[round(float(p[i]), 6) for i in row] for row, p in zip(rows, probabilities)],
            "certainty": [round(sure, 6) for sure in certainty(probabilities, selected).tolist()],
        }
        return {key: json.dumps(value, ensure_ascii=False) for key, value in answer.items()}, None, ""


# ---- who is listening ------------------------------------------------------------------------------------------------


class HttpServer(ThreadingHTTPServer):
    """Takes the place of the library's gateway, which cannot be kept off the other interfaces."""

    daemon_threads = False  # so that server_close() waits for the answers
    request_queue_size = 128

    def __init__(self, address, inference):
        super().__init__(address, HttpHandler)
        self.inference = inference

    def handle_error(self, request, client_address):
        logging.getLogger(__name__).warning("A client has gone", exc_info=True)


class HttpHandler(BaseHTTPRequestHandler):
    """POST /seq_cls/prediction: the gRPC messages as JSON; errors too, with an HTTP status."""

    timeout = SLOWEST_CLIENT

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            return self.refuse(411, "the header Content-Length is missing")
        size = int(length) if len(length) <= 12 else DISCARDED
        if self.path != ROUTE:
            self.refuse(404, f"no such path; POST to {ROUTE}")
            return self.discard(size)
        if size > MAX_BYTES:
            self.refuse(413, f"{length[:20]} bytes; send at most {MAX_BYTES} in a request")
            return self.discard(size)
        try:
            body = json.loads(self.rfile.read(size))
            if not isinstance(body, dict):
                raise ValueError("it is no object")
            request = json_format.ParseDict(body, pipeline_service_pb2.Request())
        except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
            return self.refuse(400, f"the body is not a request such as {EXAMPLE}: {error}"[:300])
        response = self.server.inference(request, None)
        status = {0: 200, BAD_REQUEST: 400, CustomExceptionCode.NO_SERVICE.value: 404}.get(response.err_no, 500)
        self.answer(status, response)

    def do_GET(self):
        if self.path == ROUTE:
            return self.refuse(405, f"POST to {ROUTE}")
        self.refuse(404, f"no such path; POST to {ROUTE}")

    do_HEAD = do_OPTIONS = do_PUT = do_PATCH = do_DELETE = do_GET

    def discard(self, size):
        """Read the body of a request that has been refused: to close now would reset the connection.

        The answer would be lost to clients that listen only when they have sent everything, as most do.
        """
        self.connection.shutdown(socket.SHUT_WR)
        left = min(size, DISCARDED)
        while left > 0 and (chunk := self.rfile.read(min(left, 1 << 16))):
            left -= len(chunk)

    def send_error(self, code, message=None, explain=None):
        """What the library refuses by itself: other methods, and what is no HTTP."""
        self.close_connection, self.request_version = True, self.protocol_version  # else there is no head
        self.refuse(code, message or HTTPStatus(code).phrase)

    def refuse(self, status, message):
        self.answer(status, pipeline_service_pb2.Response(err_no=BAD_REQUEST, err_msg=message))

    def answer(self, status, response):
        body = json_format.MessageToDict(
            response, including_default_value_fields=True, preserving_proto_field_name=True
        )
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        self.send_response(status)
        if status == 405:
            self.send_header("Allow", "POST")
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format, *arguments):
        pass  # the library has its own log


class Service(PipelineServer):
    """The processes that hold the model, and the two ports. Raises InputError if a port cannot be had.

    config: config.yml as a dict; model: its Checkpoint
    """

    def __init__(self, config, host, model):
        super().__init__(SERVICE)
        for handler in logging.getLogger().handlers:  # the library would fill up to 10 GB with every step it takes
            handler.setLevel(logging.WARNING)
        self.set_response_op(ResponseOp([Classify(TextRequest(), model)]))
        try:
            self.prepare_server(yml_dict=config)
        except SystemExit as error:
            raise InputError(f"config.yml: {error}.") from None
        servicer = PipelineServicer(self._name, self._response_op, self._conf)  # starts the processes
        self.inference = servicer.inference
        self.processes = multiprocessing.active_children()
        self.stopping, self.stopped = Pipe(duplex=False)
        self.answers = threading.Event()  # set as soon as requests are taken
        port = config["http_port"]
        try:
            self.http = HttpServer((host, port), self.inference)
            port = config["rpc_port"]
            options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_BYTES)]
            self.rpc = grpc.server(ThreadPoolExecutor(self._worker_num), options=options)
            if not self.rpc.add_insecure_port(f"{host}:{port}"):
                raise OSError("it is in use, or not an address of this machine")
        except (OSError, RuntimeError) as error:
            raise InputError(f"--host {host}, port {port}: {error}. Give another one, or stop who has it.") from None
        pipeline_service_pb2_grpc.add_PipelineServiceServicer_to_server(servicer, self.rpc)

    def stop(self):
        self.stopped.send_bytes(b"stop")

    def run(self, when_ready):
        """Serve until stop() is called. Returns whether a process died instead."""
        threading.Thread(target=self.open, args=(when_ready,), daemon=True).start()
        events = wait([self.stopping, *(process.sentinel for process in self.processes)])
        died = self.stopping not in events
        if not died and self.answers.is_set():
            self.http.shutdown()
            rpc_stopped = self.rpc.stop(GRACE)
            self.http.server_close()
            rpc_stopped.wait()
        for process in self.processes:
            process.kill()
        return died

    def open(self, when_ready):
        """Answer requests as soon as the model has answered a first one."""
        first = pipeline_service_pb2.Request(key=["sentence"], value=['["第一句，a first text"]'])
        response = self.inference(first, None)
        if response.err_no:
            logging.getLogger(__name__).error("The model fails: %s", response.err_msg)
            for process in self.processes:
                process.kill()  # run() sees it
            return
        self.answers.set()
        self.rpc.start()
        when_ready()
        self.http.serve_forever(poll_interval=0.1)
