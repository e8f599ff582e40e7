"""Rights that change under an open connection: connection.update-secret, and what a login may publish as."""
import pika
import pytest

from conftest import collect, put, until
from management import done
from test_management import allow, login, pytestmark, user  # noqa: F401 (fixtures)


def cancelled(channel):
    tags = []
    channel.add_on_cancel_callback(lambda frame: tags.append(frame.method.consumer_tag))
    return tags


def test_a_new_secret_ends_the_consumers_that_may_no_longer_read(user, queue, channel):  # noqa: F811
    allow(user, "/", "", "", ".*")
    connection = login(user)
    theirs = connection.channel()
    tags, got = cancelled(theirs), []
    tag = collect(theirs, queue, got)
    put(channel, queue, b"1")
    until(connection, lambda: got)
    allow(user, "/", "", "", "^other$")
    connection.update_secret("new", "it was time")
    until(connection, lambda: tags == [tag])
    # What it holds may still be settled; nothing more comes.
    theirs.basic_ack(got[0][0])
    put(channel, queue, b"2")
    connection.process_data_events(0.2)
    assert len(got) == 1
    connection.close()


def test_a_new_secret_without_the_vhost_ends_the_connection(user):  # noqa: F811
    allow(user, "/", "", "", ".*")
    connection = login(user)
    done("DELETE", f"permissions/%2F/{user}", 204)
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as error:
        connection.update_secret("new", "it was time")
    assert error.value.reply_code == 530
    assert error.value.reply_text == f"NOT_ALLOWED - access to vhost '/' refused for user '{user}'"


def test_a_new_secret_changes_nothing_for_those_who_may(connection, channel, queue):
    got = []
    collect(channel, queue, got, auto_ack=True)
    connection.update_secret("guest", "it was time")
    put(channel, queue, b"1")
    until(connection, lambda: got)


def test_an_impersonator_may_publish_as_anybody(user, queue):  # noqa: F811
    done("PUT", f"users/{user}", 204, body={"password": user, "tags": "impersonator"})
    allow(user, "/", "", ".*", ".*")
    connection = login(user)
    put(connection.channel(), queue, b"1", user_id="somebody")
    connection.close()
