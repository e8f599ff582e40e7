"""What the suites of Python clients share: where the broker is, names, deadlines, the way to restart a node."""
import os
import socket
import time
import uuid

import pytest

URL = os.environ["BROKER_URL"]
WRONG_URL = URL.replace("guest:guest@", "guest:wrong@")
HOST, PORT = os.environ["BROKER_HOST"], int(os.environ["BROKER_PORT"])
CONTROL = os.environ.get("BROKER_CONTROL", "")
TLS_PORT = int(os.environ.get("BROKER_TLS_PORT") or 0)
AUTHORITY = os.path.join(os.environ.get("BROKER_CERTIFICATES", ""), "ca.pem")
PATIENCE = 30

secured = pytest.mark.skipif(not TLS_PORT, reason="certificates are made for a broker of ours")

restartable = pytest.mark.skipif(not CONTROL, reason="a broker that cannot be restarted from here")


def name(about="q"):
    return f"py-{about}-{uuid.uuid4().hex[:12]}"


def control(command):
    """Asks the stage to do something to the node this client talks to, and waits until it is done."""
    host, port = CONTROL.split(":")
    with socket.create_connection((host, int(port)), 120) as stream:
        stream.sendall(f"{command}\n".encode())
        answer = stream.makefile().readline().strip()
    assert answer == "ok", f"{command}: {answer}"


def until(fact, deadline=PATIENCE, pause=0.02):
    """Asks again until the answer is true, and returns it."""
    end = time.monotonic() + deadline
    while not (answer := fact()):
        assert time.monotonic() < end, "not true in time"
        time.sleep(pause)
    return answer
