"""The management API from the standard library alone."""
import base64
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request

URL = os.environ.get("BROKER_MANAGEMENT_URL", "")


def quote(name):
    return urllib.parse.quote(name, safe="")


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def call(method, path, body=None, user="guest", password=None, headers=None, raw=None):
    data = raw if raw is not None else (json.dumps(body).encode() if body is not None else None)
    request = urllib.request.Request(URL + "/api/" + path, data=data, method=method)
    if user is not None:
        token = base64.b64encode(f"{user}:{password or user}".encode()).decode()
        request.add_header("Authorization", "Basic " + token)
    if data is not None:
        request.add_header("Content-Type", "application/json")
    for key, value in (headers or {}).items():
        request.add_header(key, value)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


def get(path, **more):
    answer = call("GET", path, **more)
    assert answer.status == 200, (path, answer.status, answer.body)
    return answer.json


def done(method, path, *statuses, **more):
    answer = call(method, path, **more)
    assert answer.status in (statuses or (201, 204)), (path, answer.status, answer.body)
    return answer


def eventually(fact, deadline=10):
    end = time.monotonic() + deadline
    while True:
        value = fact()
        if value:
            return value
        assert time.monotonic() < end, "not true in time"
        time.sleep(0.02)
