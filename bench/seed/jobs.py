"""The seed's jobs: Celery on RabbitMQ with one priority queue; results in Redis, as its status route needs them."""

import os

from celery import Celery
from kombu import Queue

app = Celery("seed", broker=os.environ["SEED_BROKER"], backend=os.environ["SEED_REDIS"])
app.conf.update(
    task_default_queue="seed_reports",
    task_queues=[Queue("seed_reports", durable=True, queue_arguments={"x-max-priority": 10})],
    worker_hijack_root_logger=False,
)


@app.task
def noop(payload):
    """Nothing: what remains is the way there and back."""
