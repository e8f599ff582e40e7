"""Celery with a real worker against the broker, in the mode of app.py that COMPAT_MODE names."""
import contextlib
import datetime
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError

from stage import PATIENCE, control, restartable, until

CONCURRENCY = 2


class Running:
    """The application of a mode and its worker."""

    def __init__(self, mode, folder):
        self.mode, self.folder = mode, str(folder)
        os.environ.update(COMPAT_FOLDER=self.folder)
        self.tasks = importlib.import_module("app")
        self.app = self.tasks.app
        self.log = open(os.path.join(self.folder, "worker.log"), "w+")
        command = f"-m celery -A app worker --concurrency {CONCURRENCY} --hostname {mode}@compat --loglevel INFO"
        self.process = subprocess.Popen(
            [sys.executable, *command.split(" "), "--without-mingle"],
            cwd=os.path.dirname(__file__), stdout=self.log, stderr=self.log, env=os.environ.copy())
        try:
            until(self.ready, deadline=60)
        except AssertionError:
            print(self.said())
            self.end()
            raise

    def said(self):
        with open(self.log.name) as log:
            return log.read()

    def ready(self):
        assert self.process.poll() is None, self.said()
        return " ready." in self.said()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def running(request, tmp_path_factory):
    mode = os.environ["COMPAT_MODE"]
    made = Running(mode, tmp_path_factory.mktemp(mode))
    yield made
    made.end()
    made.app.close()
    if request.session.testsfailed:
        print("\n".join(made.said().splitlines()[-60:]))


@pytest.fixture
def tasks(running):
    return running.tasks


def only(running, *modes):
    if running.mode not in modes:
        pytest.skip(f"only in mode {' or '.join(modes)}")


def test_a_task_answers(tasks):
    assert tasks.add.delay(2, 3).get(PATIENCE) == 5


def test_arguments_may_be_unicode_and_nested(tasks):
    value = {"ключ": ["ü", 1, None, {"🐇": True}]}
    assert tasks.echo.delay(value).get(PATIENCE) == value


def test_a_large_argument_and_answer(tasks):
    value = "x" * (4 << 20)
    assert tasks.echo.delay(value).get(PATIENCE) == value


def test_a_hundred_tasks_answer(tasks):
    results = group(tasks.add.s(i, i) for i in range(100)).apply_async()
    assert results.get(PATIENCE) == [2 * i for i in range(100)]


def test_a_countdown_is_kept(tasks):
    begin = time.time()
    assert tasks.now.apply_async(countdown=1).get(PATIENCE) >= begin + 1


def test_an_eta_is_kept(tasks):
    eta = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    assert tasks.now.apply_async(eta=eta).get(PATIENCE) >= eta.timestamp()


def test_tasks_with_an_eta_do_not_hold_up_others(running, tasks):
    # On classic queues kombu 5.7 asks for a prefetch per consumer once the broker says it is RabbitMQ 4, and that one
    # does not grow with the tasks that wait in the worker.
    only(running, "quorum")
    later = [tasks.now.apply_async(countdown=60) for _ in range(20)]
    assert tasks.add.delay(1, 1).get(PATIENCE) == 2
    for each in later:
        each.revoke()


def test_a_task_retries_until_it_works(tasks):
    assert tasks.works_at_third.delay(uuid.uuid4().hex).get(PATIENCE) == 2


def test_a_task_that_never_works_gives_up(tasks):
    with pytest.raises(ZeroDivisionError):
        tasks.divide.delay(1, 0).get(PATIENCE)


def test_a_chain_hands_on(tasks):
    assert chain(tasks.add.s(1, 2), tasks.add.s(3), tasks.add.s(4))().get(PATIENCE) == 10


def test_a_chord_joins(running, tasks):
    only(running, "file")
    result = chord([tasks.add.s(i, i) for i in range(10)], tasks.total.s())()
    assert result.get(PATIENCE) == 90


def test_a_chord_in_a_chain_joins(running, tasks):
    only(running, "file")
    work = chain(tasks.add.s(1, 1), group(tasks.add.s(1), tasks.add.s(2)), tasks.total.s())
    assert work.apply_async().get(PATIENCE) == 7


def test_a_task_whose_process_dies_runs_again(tasks):
    assert tasks.dies_once.delay(uuid.uuid4().hex).get(PATIENCE) is True


def test_an_expired_task_does_not_run(tasks):
    with pytest.raises(TaskRevokedError):
        tasks.now.apply_async(countdown=1, expires=0.2).get(PATIENCE)


def test_a_priority_queue(running, tasks):
    only(running, "file")
    answers = [tasks.now.apply_async(queue="celery-urgent", routing_key="urgent", priority=p) for p in (1, 9)]
    assert all(each.get(PATIENCE) for each in answers)


def test_the_worker_answers_to_ping_and_inspect(running):
    worker = f"{running.mode}@compat"
    assert running.app.control.ping(destination=[worker], timeout=5) == [{worker: {"ok": "pong"}}]
    queues = running.app.control.inspect([worker], timeout=5).active_queues()[worker]
    assert running.tasks.MAIN in [queue["name"] for queue in queues]


def test_a_waiting_task_is_revoked(running, tasks):
    result = tasks.now.apply_async(countdown=2)
    running.app.control.revoke(result.id, reply=True, timeout=5)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)


def test_events_tell_of_tasks(running, tasks):
    seen = []

    def listen():
        with running.app.connection_for_read() as connection:
            receiver = running.app.events.Receiver(
                connection, handlers={"task-succeeded": lambda event: seen.append(event["uuid"])})
            # Serves until the process ends.
            receiver.capture(limit=None, timeout=None, wakeup=False)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    # The first ones may be over before the listener listens.
    until(lambda: tasks.add.delay(1, 1).get(PATIENCE) == 2 and seen)


@restartable
@pytest.mark.parametrize("command", ["restart", "kill"])
def test_the_worker_comes_back(running, tasks, command):
    control(command)
    # The results of `rpc://` come over a connection that is gone, so the task leaves another trace.
    key = uuid.uuid4().hex
    tasks.touch.delay(key)
    until(lambda: os.path.exists(os.path.join(running.folder, key)))
