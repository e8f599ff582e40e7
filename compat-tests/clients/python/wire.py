"""A client that sends exactly the frames a test gives it, in one go, and shows every frame that comes back."""
import socket
import struct
import time

import pika
from pika import frame, spec

from conftest import URL

PARAMETERS = pika.URLParameters(URL)


def method(channel, one):
    return frame.Method(channel, one).marshal()


def publish(channel, exchange, key, body, properties=None, **flags):
    out = method(channel, spec.Basic.Publish(exchange=exchange, routing_key=key, **flags))
    out += frame.Header(channel, len(body), properties or pika.BasicProperties()).marshal()
    return out + (frame.Body(channel, body).marshal() if body else b"")


HEARTBEAT = frame.Heartbeat().marshal()


class Wire:
    def __init__(self, heartbeat=0, receive_buffer=None, capable=True, frame_max=None):
        self.capable, self.frame_max = capable, frame_max
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect((PARAMETERS.host, PARAMETERS.port))
        self.buffer = b""
        self.heartbeat = heartbeat

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def login(self, mechanism="PLAIN", response=None):
        user, password = PARAMETERS.credentials.username, PARAMETERS.credentials.password
        plain = f"\0{user}\0{password}".encode()
        self.send(b"AMQP\0\0\x09\x01")
        self.expect(spec.Connection.Start)
        capabilities = {"consumer_cancel_notify": self.capable, "authentication_failure_close": self.capable}
        self.send(method(0, spec.Connection.StartOk({"capabilities": capabilities}, mechanism, response or plain)))
        return self.expect(spec.Connection.Tune)

    def open(self):
        tune = self.login()
        self.send(method(0, spec.Connection.TuneOk(tune.channel_max, self.frame_max or tune.frame_max, self.heartbeat)),
                  method(0, spec.Connection.Open(PARAMETERS.virtual_host)))
        self.expect(spec.Connection.OpenOk)
        return self

    def channel(self, number=1):
        self.send(method(number, spec.Channel.Open()))
        self.expect(spec.Channel.OpenOk)

    def send(self, *frames):
        self.socket.sendall(b"".join(frames))

    def frame(self):
        """The next frame but heartbeats; None if the socket is closed."""
        while True:
            used, got = frame.decode_frame(self.buffer) if self.buffer else (0, None)
            if got is not None:
                self.buffer = self.buffer[used:]
                if not isinstance(got, frame.Heartbeat):
                    return got
                continue
            more = self.socket.recv(1 << 20)
            if not more:
                return None
            self.buffer += more

    def expect(self, kind):
        """Reads up to a method of this kind, which must come."""
        while True:
            got = self.frame()
            assert got is not None, f"closed before {kind.__name__}"
            if isinstance(got, frame.Method):
                if isinstance(got.method, kind):
                    return got.method
                closed = isinstance(got.method, (spec.Channel.Close, spec.Connection.Close))
                assert not closed, f"{got.method} instead of {kind.__name__}"

    def error(self):
        """How the channel or connection is closed: which, code, text, class and method."""
        while True:
            got = self.frame()
            assert got is not None, "closed without a word"
            if isinstance(got, frame.Method) and isinstance(got.method, (spec.Channel.Close, spec.Connection.Close)):
                m = got.method
                what = "channel" if isinstance(m, spec.Channel.Close) else "connection"
                return what, m.reply_code, m.reply_text, (m.class_id, m.method_id)


def raw(kind, channel, payload, end=0xCE):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def beat(wire, seconds, every=0.3):
    """Sends heartbeats, and reads nothing."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        wire.send(HEARTBEAT)
        time.sleep(every)
