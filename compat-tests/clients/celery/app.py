"""The application that both the tests and their workers import. COMPAT_MODE says how it is set up:

| mode | results | queues |
| --- | --- | --- |
| file | files, so that chords work | classic |
| rpc | messages (`rpc://`, direct reply queues) | classic |
| quorum | messages | quorum, with Celery's own delayed delivery for ETA |
"""
import os
import time

from celery import Celery
from kombu import Exchange, Queue

MODE = os.environ["COMPAT_MODE"]
FOLDER = os.environ["COMPAT_FOLDER"]
MAIN = f"celery-{MODE}"

app = Celery("compat", broker=os.environ["BROKER_URL"],
             backend=f"file://{FOLDER}" if MODE == "file" else "rpc://")
app.conf.update(
    task_default_queue=MAIN,
    task_default_queue_type="quorum" if MODE == "quorum" else "classic",
    # Celery's delayed delivery does not take direct exchanges.
    task_default_exchange=MAIN,
    task_default_exchange_type="topic" if MODE == "quorum" else "direct",
    task_default_routing_key=MAIN,
    worker_detect_quorum_queues=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=2,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"confirm_publish": True},
    result_expires=3600,
    task_send_sent_event=True,
    worker_send_task_events=True,
    # Trying to connect again, the first time at once.
    broker_connection_timeout=5,
)
if MODE == "file":
    app.conf.task_queues = [
        Queue(MAIN, Exchange(MAIN), routing_key=MAIN, durable=True),
        Queue("celery-urgent", Exchange("celery-urgent"), routing_key="urgent", durable=True, max_priority=10),
    ]


@app.task
def add(x, y):
    return x + y


@app.task
def now():
    return time.time()


@app.task
def echo(value):
    return value


@app.task
def total(values):
    return sum(values)


@app.task(bind=True, max_retries=5)
def works_at_third(self, key):
    """Fails twice; its attempts are counted in a file, since each may run in another process."""
    path = os.path.join(FOLDER, f"attempts-{key}")
    with open(path, "a") as attempts:
        attempts.write("x")
    if os.path.getsize(path) < 3:
        raise self.retry(countdown=1)
    return self.request.retries


@app.task(autoretry_for=(ZeroDivisionError,), max_retries=1, default_retry_delay=1)
def divide(x, y):
    return x / y


@app.task(bind=True)
def dies_once(self, key):
    """Takes its process with it the first time."""
    path = os.path.join(FOLDER, f"died-{key}")
    if not os.path.exists(path):
        with open(path, "w"):
            pass
        os.kill(os.getpid(), 9)
    return self.request.delivery_info["redelivered"]


@app.task
def touch(key):
    with open(os.path.join(FOLDER, key), "w"):
        pass
