"""Sends no-op jobs and waits for every result: `send.py JOBS`; prints one line of JSON."""

import json
import sys
import time

from celery.result import ResultSet
from jobs import app, noop

PAYLOAD = "x" * 1024
WITHIN_S = 120


def send(count):
    with app.pool.acquire(block=True) as connection, app.amqp.Producer(connection) as producer:
        return ResultSet([noop.apply_async((PAYLOAD,), producer=producer) for _ in range(count)])


def main():
    count = int(sys.argv[1])
    # Connections are made and both worker processes are warm before the clock runs.
    send(50).join_native(timeout=WITHIN_S)
    started = time.monotonic()
    results = send(count)
    sent = time.monotonic()
    results.join_native(timeout=WITHIN_S)
    ended = time.monotonic()
    done = sum(result.successful() for result in results)
    print(json.dumps({"jobs": count, "done": done, "seconds": ended - started, "sending_s": sent - started}))


main()
