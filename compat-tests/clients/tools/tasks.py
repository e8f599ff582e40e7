"""A Celery application for Flower to look at."""

from celery import Celery

app = Celery("tasks", broker="amqp://guest:guest@localhost:5672//", backend="rpc://")
app.conf.task_default_queue = "work"


@app.task
def add(a, b):
    return a + b
