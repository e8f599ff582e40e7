"""The asynchronous client that most Python services use."""
import asyncio

import aio_pika

from conftest import URL


async def test_a_robust_connection_publishes_and_iterates(name):
    connection = await aio_pika.connect_robust(URL)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.set_qos(10)
        queue = await channel.declare_queue(name, exclusive=True)
        for i in range(50):
            await channel.default_exchange.publish(aio_pika.Message(str(i).encode()), name)
        got = []
        async with asyncio.timeout(20):
            async with queue.iterator() as messages:
                async for message in messages:
                    async with message.process():
                        got.append(int(message.body))
                    if len(got) == 50:
                        break
        assert got == list(range(50))


async def test_many_publishes_in_flight_are_all_confirmed(name):
    connection = await aio_pika.connect(URL)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue(name, exclusive=True)
        answers = await asyncio.gather(*[
            channel.default_exchange.publish(aio_pika.Message(b"x"), name) for _ in range(500)])
        assert len(answers) == 500 and all(answers)
        assert (await channel.declare_queue(name, passive=True)).declaration_result.message_count == 500
        await queue.purge()
