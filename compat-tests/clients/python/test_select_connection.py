"""pika's callback client: many publishes in flight, confirms as the broker likes to group them."""
import pika

from conftest import URL


def test_every_publish_in_flight_is_confirmed_exactly_once(name):
    total, outstanding, twice = 2000, set(range(1, 2001)), []

    def on_confirm(frame):
        method = frame.method
        tags = [t for t in outstanding if t <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        for tag in tags:
            if tag not in outstanding:
                twice.append(tag)
            outstanding.discard(tag)
        assert isinstance(method, pika.spec.Basic.Ack)
        if not outstanding:
            c.close()

    def on_channel(ch):
        def publish(_):
            for _ in range(total):
                ch.basic_publish("", name, b"x")
        ch.confirm_delivery(on_confirm, callback=lambda _: ch.queue_declare(name, exclusive=True, callback=publish))

    c = pika.SelectConnection(
        pika.URLParameters(URL), on_open_callback=lambda c: c.channel(on_open_callback=on_channel),
        on_close_callback=lambda c, _: c.ioloop.stop())
    c.ioloop.call_later(30, c.ioloop.stop)
    c.ioloop.start()
    assert (outstanding, twice) == (set(), [])
