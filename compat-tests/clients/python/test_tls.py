"""AMQP under TLS, logins by certificate, and logins by nothing at all."""
import os
import socket
import ssl
import threading

import pika
import pytest

import management as api
from conftest import OURS, PERSISTENT, URL
from wire import Wire

pytestmark = pytest.mark.skipif(not OURS, reason="certificates are made for a broker of ours")
PORT = int(os.environ.get("BROKER_TLS_PORT", "0"))
FOLDER = os.environ.get("BROKER_CERTIFICATES", "")


def context(own=None, **changes):
    made = ssl.create_default_context(cafile=os.path.join(FOLDER, "ca.pem"))
    for key, value in changes.items():
        setattr(made, key, value)
    if own:
        made.load_cert_chain(os.path.join(FOLDER, own + ".pem"), os.path.join(FOLDER, own + ".key"))
    return made


def connect(own=None, credentials=None, context_of=context, **changes):
    parameters = pika.ConnectionParameters(
        "localhost", PORT, credentials=credentials or pika.PlainCredentials("guest", "guest"),
        ssl_options=pika.SSLOptions(context_of(own), "localhost"), connection_attempts=1, **changes)
    return pika.BlockingConnection(parameters)


@pytest.fixture
def user():
    """A user without a password, of the name in a certificate."""
    api.done("PUT", "users/client", body={"password_hash": "", "tags": ""})
    api.done("PUT", "permissions/%2F/client", body={"configure": ".*", "write": ".*", "read": ".*"})
    yield "client"
    api.done("DELETE", "users/client")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_messages_of_every_size_go_both_ways_under_tls(name, version):
    def one(own):
        return context(own, minimum_version=version, maximum_version=version)
    connection = connect(context_of=one)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare(name, exclusive=True)
    bodies = [b"", b"x", os.urandom(16 * 1024), os.urandom(300_000), os.urandom(8 * 1024 * 1024)]
    for body in bodies:
        channel.basic_publish("", name, body, PERSISTENT)
    got = [channel.basic_get(name, auto_ack=True)[2] for _ in bodies]
    assert got == bodies
    connection.close()


def test_thousands_of_small_messages_are_consumed_in_order_under_tls(name):
    connection = connect()
    channel = connection.channel()
    channel.queue_declare(name, exclusive=True)
    count = 5_000
    for number in range(count):
        channel.basic_publish("", name, str(number).encode() * 20)
    got = []
    for method, _, body in channel.consume(name, inactivity_timeout=20):
        assert method, "nothing came for 20 s"
        channel.basic_ack(method.delivery_tag)
        got.append(body)
        if len(got) == count:
            break
    assert got == [str(number).encode() * 20 for number in range(count)]
    connection.close()


def test_a_client_that_does_not_trust_the_authority_and_a_plain_one_get_nowhere():
    def distrusting(_):
        return ssl.create_default_context()
    with pytest.raises((pika.exceptions.AMQPConnectionError, ssl.SSLCertVerificationError)):
        connect(context_of=distrusting)
    with socket.create_connection(("localhost", PORT), 10) as plain:
        plain.sendall(b"AMQP\0\0\x09\x01")
        answer = plain.recv(100)
        # A TLS alert, or nothing.
        assert answer == b"" or answer[0] == 21


def test_a_certificate_of_another_authority_is_refused():
    with pytest.raises((pika.exceptions.AMQPError, ssl.SSLError, OSError)):
        connect("stranger")


def test_a_login_by_certificate_needs_no_password(user):
    connection = connect("client", pika.credentials.ExternalCredentials())
    rows = api.eventually(lambda: [row for row in api.get("connections") if row["user"] == user])
    row = rows[0]
    assert row["ssl"] is True and row["auth_mechanism"] == "EXTERNAL"
    assert row["ssl_protocol"] in ("tlsv1.2", "tlsv1.3") and row["ssl_cipher"]
    assert row["peer_cert_subject"] == "CN=client,O=compat-tests"
    assert row["peer_cert_issuer"] == "CN=authority,O=compat-tests"
    connection.close()


def test_a_certificate_of_nobody_and_no_certificate_are_refused():
    for own in ("nobody", None):
        with pytest.raises(pika.exceptions.ProbableAuthenticationError) as error:
            connect(own, pika.credentials.ExternalCredentials())
        assert "(403)" in str(error.value) and "using authentication mechanism EXTERNAL" in str(error.value)


def mechanisms(start):
    return start.mechanisms.decode() if isinstance(start.mechanisms, bytes) else start.mechanisms


def test_external_is_offered_only_under_tls():
    from pika import spec
    with Wire() as plain:
        plain.send(b"AMQP\0\0\x09\x01")
        assert mechanisms(plain.expect(spec.Connection.Start)) == "PLAIN AMQPLAIN ANONYMOUS"
    with Wire() as secured:
        secured.socket.close()
        raw = socket.create_connection(("localhost", PORT), 10)
        secured.socket = context().wrap_socket(raw, server_hostname="localhost")
        secured.send(b"AMQP\0\0\x09\x01")
        start = secured.expect(spec.Connection.Start)
        assert mechanisms(start) == "PLAIN AMQPLAIN EXTERNAL ANONYMOUS"


def test_anonymous_logs_in_as_the_configured_user():
    from pika import spec
    with Wire() as wire:
        wire.login("ANONYMOUS", b"who cares")
        parameters = pika.URLParameters(URL)
        tune = spec.Connection.TuneOk(2047, 131072, 0)
        from wire import method
        wire.send(method(0, tune), method(0, spec.Connection.Open(parameters.virtual_host)))
        wire.expect(spec.Connection.OpenOk)
        rows = api.eventually(lambda: [
            row for row in api.get("connections") if row["auth_mechanism"] == "ANONYMOUS"])
        assert rows[0]["user"] == "guest" and rows[0]["ssl"] is False


def test_a_handshake_that_stands_still_delays_nobody():
    silent = [socket.create_connection(("localhost", PORT), 10) for _ in range(50)]
    connect().close()
    for one in silent:
        one.close()


def test_many_connect_at_once_under_tls(name):
    errors = []

    def one(number):
        try:
            connection = connect()
            channel = connection.channel()
            channel.queue_declare(f"{name}-{number}", exclusive=True)
            connection.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test fails with it
            errors.append(error)
    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
