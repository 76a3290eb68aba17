"""Load on an HTTP server in a closed loop, from several processes, with nothing but Python. No script of its own.

figures = load(processes(4), 8189, texts, clients=128, seconds=3)
"""

import asyncio
import json
import re
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

LENGTH = re.compile(rb"content-length: *(\d+)", re.I)
LEAD = 1  # seconds until all clients are connected, and begin
BODY = '{{"texts": [{}]}}'


def processes(count):
    """A pool whose processes are new ones: a copy of a process that computes on a GPU would not work."""
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"))


def request_of(text):
    body = BODY.format(json.dumps(text, ensure_ascii=False)).encode()
    return b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def ask(reader, writer, request, text):
    """Whether a request is answered with the labels of its own text."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(LENGTH.search(head)[1]))
    return b" 200 " in head[:20] and json.loads(body)["results"][0]["text"] == text


async def client(port, requests, first, began, seconds):
    """(milliseconds of each request that was answered rightly, those in time, how many others) of one client.

    What was asked in time counts however late the answer; where the server hangs up, the client comes again.
    """
    times, in_time, failed, number = [], 0, 0, first
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(max(0, began - time.time()))
    while (sent := time.time()) < began + seconds:
        text, request = requests[number % len(requests)]
        try:
            right, number = await ask(reader, writer, request, text), number + 1
        except (OSError, EOFError):
            right = False
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if right:
            times.append(1000 * (time.time() - sent))
            in_time += time.time() <= began + seconds
        else:
            failed += 1
    writer.close()
    return times, in_time, failed


def clients_of_process(port, texts, numbers, began, seconds):
    """[what client() gives] of the clients with these numbers."""
    requests = [(text, request_of(text)) for text in texts]

    async def all_of_them():
        step = max(1, len(requests) // 131)  # clients begin at different texts
        loops = (client(port, requests, n * step, began, seconds) for n in numbers)
        return await asyncio.gather(*loops)

    return asyncio.run(all_of_them())


def load(pool, port, texts, clients, seconds):
    """Requests per second of all clients together, p50 and p99 in ms, and how many were not answered rightly.

    The rate counts answers within `seconds`, from a moment on when every client is connected.
    """
    count, began = min(clients, pool._max_workers), time.time() + LEAD
    shares = [range(i, clients, count) for i in range(count)]
    parts = [pool.submit(clients_of_process, port, texts, share, began, seconds) for share in shares]
    answers = [answer for part in parts for answer in part.result()]
    times = [time for part, _, _ in answers for time in part]
    p50, p99 = np.percentile(times, [50, 99]).tolist() if times else (float("nan"),) * 2
    failed = sum(failed for _, _, failed in answers)
    return {"requests/s": sum(in_time for _, in_time, _ in answers) / seconds, "ms p50": p50, "ms p99": p99} | (
        {"failed": failed} if failed else {}
    )
