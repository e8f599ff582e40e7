import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.LongString;
import com.rabbitmq.client.Return;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.client.RpcClientParams;
import com.rabbitmq.client.RpcServer;
import java.io.IOException;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.concurrent.LinkedBlockingQueue;
import org.junit.jupiter.api.Test;

/** Publishing, consuming, and what becomes of messages in between. */
class MessageTest extends Stage {
    @Test
    void everyPublishIsConfirmed() throws Exception {
        String queue = declared(null);
        var open = new ConcurrentSkipListSet<Long>();
        channel.addConfirmListener(
            (tag, multiple) -> {
                if (multiple) {
                    open.headSet(tag, true).clear();
                } else {
                    open.remove(tag);
                }
            },
            (tag, multiple) -> { });
        for (int i = 0; i < 200; i++) {
            open.add(channel.getNextPublishSeqNo());
            channel.basicPublish("", queue, null, new byte[1]);
        }
        until(open::isEmpty);
        assertEquals(200, channel.messageCount(queue));
    }

    @Test
    void aPublishToAFullQueueIsRefused() throws Exception {
        String queue = declared(Map.of("x-max-length", 1, "x-overflow", "reject-publish"));
        put(queue, "one");
        assertThrows(IOException.class, () -> put(queue, "two"));
    }

    @Test
    void aMandatoryMessageComesBack() throws Exception {
        var returns = new LinkedBlockingQueue<Return>();
        channel.addReturnListener(returns::add);
        channel.basicPublish("", name("nowhere"), true, null, "lost".getBytes());
        channel.waitForConfirmsOrDie(10_000);
        Return back = take(returns);
        assertEquals(312, back.getReplyCode());
        assertEquals("NO_ROUTE", back.getReplyText());
        assertEquals("lost", new String(back.getBody()));
    }

    @Test
    void prefetchLimitsWhatIsUnacknowledged() throws Exception {
        String queue = declared(null);
        for (var body : List.of("a", "b", "c")) {
            put(queue, body);
        }
        channel.basicQos(2);
        var arrivals = consumed(channel, queue, false);
        Delivery first = take(arrivals);
        take(arrivals);
        Thread.sleep(300);
        assertTrue(arrivals.isEmpty());
        channel.basicAck(first.getEnvelope().getDeliveryTag(), false);
        assertEquals("c", text(take(arrivals)));
    }

    @Test
    void acknowledgedMessagesAreGoneOthersComeBack() throws Exception {
        String queue = declared(null);
        for (var body : List.of("a", "b", "c")) {
            put(queue, body);
        }
        var arrivals = consumed(channel, queue, false);
        take(arrivals);
        channel.basicAck(take(arrivals).getEnvelope().getDeliveryTag(), true);
        take(arrivals);
        channel.close();
        Delivery left = take(consumed(connection.createChannel(), queue, true));
        assertEquals("c", text(left));
        assertTrue(left.getEnvelope().isRedeliver());
    }

    @Test
    void aNackedMessageComesBack() throws Exception {
        String queue = declared(null);
        put(queue, "again");
        var arrivals = consumed(channel, queue, false);
        Delivery first = take(arrivals);
        assertFalse(first.getEnvelope().isRedeliver());
        channel.basicNack(first.getEnvelope().getDeliveryTag(), false, true);
        assertTrue(take(arrivals).getEnvelope().isRedeliver());
    }

    @Test
    void recoverBringsBackWhatIsUnacknowledged() throws Exception {
        String queue = declared(null);
        put(queue, "again");
        var arrivals = consumed(channel, queue, false);
        take(arrivals);
        channel.basicRecover(true);
        assertTrue(take(arrivals).getEnvelope().isRedeliver());
    }

    private String deadLettered(String dead, Map<String, Object> more) throws Exception {
        var arguments = new HashMap<String, Object>(more);
        arguments.put("x-dead-letter-exchange", "");
        arguments.put("x-dead-letter-routing-key", dead);
        return declared(arguments);
    }

    private static Map<?, ?> death(Delivery letter) {
        return (Map<?, ?>) ((List<?>) letter.getProperties().getHeaders().get("x-death")).get(0);
    }

    @Test
    void aRejectedMessageIsDeadLettered() throws Exception {
        String dead = declared(null);
        String source = deadLettered(dead, Map.of());
        put(source, "bad");
        Delivery bad = take(consumed(channel, source, false));
        channel.basicReject(bad.getEnvelope().getDeliveryTag(), false);
        var death = death(take(consumed(channel, dead, true)));
        assertEquals("rejected", death.get("reason").toString());
        assertEquals(source, death.get("queue").toString());
        assertEquals(1L, death.get("count"));
    }

    @Test
    void anExpiredMessageIsDeadLettered() throws Exception {
        String dead = declared(null);
        String source = deadLettered(dead, Map.of("x-message-ttl", 100));
        put(source, "late");
        assertEquals("expired", death(take(consumed(channel, dead, true))).get("reason").toString());
    }

    @Test
    void aQuorumQueueLimitsDeliveries() throws Exception {
        String dead = declared(null);
        String source = deadLettered(dead, Map.of("x-queue-type", "quorum", "x-delivery-limit", 2));
        put(source, "poison");
        var arrivals = consumed(channel, source, false);
        var letters = consumed(channel, dead, true);
        for (int i = 0; i < 3; i++) {
            Delivery delivery = take(arrivals);
            channel.basicReject(delivery.getEnvelope().getDeliveryTag(), true);
        }
        assertEquals("delivery_limit", death(take(letters)).get("reason").toString());
    }

    @Test
    void higherPrioritiesComeFirst() throws Exception {
        String queue = declared(Map.of("x-max-priority", 10));
        for (int priority : new int[] {1, 9, 5}) {
            var properties = new BasicProperties.Builder().priority(priority).build();
            put(queue, properties, String.valueOf(priority).getBytes());
        }
        var arrivals = consumed(channel, queue, true);
        for (var body : List.of("9", "5", "1")) {
            assertEquals(body, text(take(arrivals)));
        }
    }

    @Test
    void theClientsRpcCallsByDirectReplyTo() throws Exception {
        String queue = declared(null);
        var server = new RpcServer(connection.createChannel(), queue) {
            @Override
            public byte[] handleCall(Delivery request, BasicProperties reply) {
                return ("done: " + text(request)).getBytes();
            }
        };
        var loop = new Thread(() -> {
            try {
                server.mainloop();
            } catch (Exception end) {
                // The connection was closed: the test is over.
            }
        });
        loop.start();
        var parameters = new RpcClientParams().channel(connection.createChannel()).exchange("").routingKey(queue)
            .timeout(20_000);
        var client = new RpcClient(parameters);
        for (int i = 0; i < 10; i++) {
            assertEquals("done: " + i, new String(client.primitiveCall(String.valueOf(i).getBytes())));
        }
        client.close();
        server.terminateMainloop();
        loop.join(10_000);
    }

    @Test
    void aConsumerOfADeletedQueueIsTold() throws Exception {
        String queue = declared(null);
        var cancelled = new LinkedBlockingQueue<String>();
        String tag = channel.basicConsume(queue, (t, delivery) -> { }, cancelled::add);
        connection.createChannel().queueDelete(queue);
        assertEquals(tag, take(cancelled));
    }

    @Test
    void aBodyOf16MibArrivesAsItWas() throws Exception {
        String queue = declared(null);
        var body = new byte[16 << 20];
        new Random(1).nextBytes(body);
        put(queue, null, body);
        assertArrayEquals(body, take(consumed(channel, queue, true)).getBody());
    }

    @Test
    void namesMayBeUnicode() throws Exception {
        String queue = channel.queueDeclare(name("очередь-兎"), true, false, false, null).getQueue();
        String exchange = name("обмен-🐇");
        channel.exchangeDeclare(exchange, "topic", false, true, null);
        channel.queueBind(queue, exchange, "ключ.*");
        channel.basicPublish(exchange, "ключ.é", null, "ü".getBytes("UTF-8"));
        Delivery delivery = take(consumed(channel, queue, true));
        assertEquals(exchange, delivery.getEnvelope().getExchange());
        assertEquals("ключ.é", delivery.getEnvelope().getRoutingKey());
        assertEquals("ü", text(delivery));
    }

    /** As a client sees them: long strings are strings, sub-lists and tables hold the same. */
    private static Object plain(Object value) {
        if (value instanceof LongString) {
            return value.toString();
        }
        if (value instanceof List<?> list) {
            return list.stream().map(MessageTest::plain).toList();
        }
        if (value instanceof Map<?, ?> map) {
            var plain = new HashMap<Object, Object>();
            map.forEach((key, each) -> plain.put(key, plain(each)));
            return plain;
        }
        return value;
    }

    @Test
    void headersOfEveryTypeArriveAsTheyWere() throws Exception {
        String queue = declared(null);
        var headers = new HashMap<String, Object>(Map.of(
            "bool", true, "byte", (byte) -8, "short", (short) -16, "int", -32, "long", -64L,
            "float", 0.5f, "double", 0.25, "string", "ü", "decimal", new BigDecimal("3.14")));
        headers.put("time", new Date(1_700_000_000_000L));
        headers.put("null", null);
        headers.put("array", new ArrayList<>(Arrays.asList(1, "two", List.of(true), Map.of("k", "v"))));
        headers.put("table", Map.of("nested", Map.of("deep", 1L)));
        var withBytes = new HashMap<String, Object>(headers);
        withBytes.put("bytes", new byte[] {0, -1});
        put(queue, new BasicProperties.Builder().headers(withBytes).build(), new byte[0]);
        var got = new HashMap<String, Object>(take(consumed(channel, queue, true)).getProperties().getHeaders());
        assertArrayEquals(new byte[] {0, -1}, (byte[]) got.remove("bytes"));
        assertEquals(headers, plain(got));
    }

    @Test
    void everyPropertyArrivesAsItWas() throws Exception {
        String queue = declared(null);
        var sent = new BasicProperties.Builder().contentType("a/b").contentEncoding("c").deliveryMode(2).priority(3)
            .correlationId("d").replyTo("e").expiration("60000").messageId("f").timestamp(new Date(1_700_000_000_000L))
            .type("g").userId("guest").appId("h").build();
        put(queue, sent, new byte[0]);
        assertEquals(sent, take(consumed(channel, queue, true)).getProperties());
    }

    @Test
    void aTransactionIsAllOrNothing() throws Exception {
        String queue = declared(null);
        var transactional = connection.createChannel();
        transactional.txSelect();
        transactional.basicPublish("", queue, null, "undone".getBytes());
        transactional.txRollback();
        assertNull(channel.basicGet(queue, true));
        transactional.basicPublish("", queue, null, "done".getBytes());
        transactional.txCommit();
        assertEquals("done", new String(channel.basicGet(queue, true).getBody()));
    }

    @Test
    void anAlternateExchangeTakesWhatHasNoRoute() throws Exception {
        String queue = declared(null);
        String spare = name("spare");
        channel.exchangeDeclare(spare, "fanout", false, true, null);
        channel.queueBind(queue, spare, "");
        String exchange = name("x");
        channel.exchangeDeclare(exchange, "direct", false, false, Map.of("alternate-exchange", spare));
        channel.basicPublish(exchange, "nobody", null, "saved".getBytes());
        assertEquals("saved", text(take(consumed(channel, queue, true))));
        channel.exchangeDelete(exchange);
    }

    @Test
    void ofSeveralConsumersTheSingleActiveOneWorks() throws Exception {
        String queue = declared(Map.of("x-single-active-consumer", true));
        var first = connection.createChannel();
        var firsts = consumed(first, queue, true);
        var seconds = consumed(connection.createChannel(), queue, true);
        put(queue, "a");
        assertEquals("a", text(take(firsts)));
        first.close();
        put(queue, "b");
        assertEquals("b", text(take(seconds)));
    }
}
