import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.springframework.amqp.AmqpAuthenticationException;
import org.springframework.amqp.core.BindingBuilder;
import org.springframework.amqp.core.Message;
import org.springframework.amqp.core.MessageBuilder;
import org.springframework.amqp.core.Queue;
import org.springframework.amqp.core.QueueBuilder;
import org.springframework.amqp.core.TopicExchange;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.connection.CorrelationData;
import org.springframework.amqp.rabbit.core.RabbitAdmin;
import org.springframework.amqp.rabbit.core.RabbitTemplate;

/** RabbitTemplate and RabbitAdmin. */
class TemplateTest {
    private CachingConnectionFactory connections;
    private RabbitTemplate template;
    private RabbitAdmin admin;

    @BeforeEach
    void open() {
        connections = Stage.connections();
        template = new RabbitTemplate(connections);
        template.setMandatory(true);
        template.setReceiveTimeout(20_000);
        template.setReplyTimeout(20_000);
        admin = new RabbitAdmin(connections);
    }

    @AfterEach
    void close() {
        connections.destroy();
    }

    private String declared(QueueBuilder builder) {
        return admin.declareQueue(builder.build());
    }

    private static QueueBuilder queue(String about) {
        return QueueBuilder.durable(Stage.name(about));
    }

    /** Sends and waits for the confirm; what came back is in the answer. */
    private CorrelationData send(String queue, Object body) throws Exception {
        var correlation = new CorrelationData(Stage.name("c"));
        template.convertAndSend("", queue, body, correlation);
        assertTrue(correlation.getFuture().get(20, TimeUnit.SECONDS).ack());
        return correlation;
    }

    @Test
    void wrongCredentialsAreRefused() {
        connections.setPassword("wrong");
        assertThrows(AmqpAuthenticationException.class, () -> template.convertAndSend("", "q", "x"));
    }

    @Test
    void aConfirmedMessageIsReceived() throws Exception {
        String queue = declared(queue("q"));
        assertNull(send(queue, "body").getReturned());
        assertEquals("body", template.receiveAndConvert(queue));
    }

    @Test
    void aMandatoryMessageComesBackBeforeItsConfirm() throws Exception {
        var back = send(Stage.name("nowhere"), "lost").getReturned();
        assertEquals(312, back.getReplyCode());
        assertEquals("NO_ROUTE", back.getReplyText());
    }

    @Test
    void aPublishToAFullQueueIsRefused() throws Exception {
        String queue = declared(queue("q").maxLength(1L).overflow(QueueBuilder.Overflow.rejectPublish));
        send(queue, "one");
        var correlation = new CorrelationData();
        template.convertAndSend("", queue, "two", correlation);
        assertFalse(correlation.getFuture().get(20, TimeUnit.SECONDS).ack());
    }

    @Test
    void theAdminKnowsQueues() throws Exception {
        String queue = declared(queue("q"));
        send(queue, "x");
        assertEquals(1, admin.getQueueInfo(queue).getMessageCount());
        assertEquals(1, admin.purgeQueue(queue));
        assertTrue(admin.deleteQueue(queue));
        assertNull(admin.getQueueInfo(queue));
    }

    @Test
    void expiredMessagesAreDeadLettered() throws Exception {
        String dead = declared(queue("dead"));
        String source = declared(queue("source").ttl(100).deadLetterExchange("").deadLetterRoutingKey(dead));
        send(source, "late");
        Message letter = template.receive(dead);
        var death = letter.getMessageProperties().getXDeathHeader().get(0);
        assertEquals("expired", death.get("reason"));
        assertEquals(source, death.get("queue"));
    }

    @Test
    void higherPrioritiesComeFirst() throws Exception {
        String queue = declared(queue("q").maxPriority(10));
        for (int priority : new int[] {1, 9, 5}) {
            var correlation = new CorrelationData();
            template.convertAndSend("", queue, String.valueOf(priority), message -> {
                message.getMessageProperties().setPriority(priority);
                return message;
            }, correlation);
            correlation.getFuture().get(20, TimeUnit.SECONDS);
        }
        for (var body : List.of("9", "5", "1")) {
            assertEquals(body, template.receiveAndConvert(queue));
        }
    }

    @Test
    void aBodyOf16MibArrivesAsItWas() throws Exception {
        String queue = declared(queue("q"));
        var body = new byte[16 << 20];
        new Random(1).nextBytes(body);
        send(queue, body);
        assertArrayEquals(body, template.receive(queue).getBody());
    }

    @Test
    void unicodeNamesAndHeadersArriveAsTheyWere() throws Exception {
        var queue = queue("очередь-兎").build();
        var exchange = new TopicExchange(Stage.name("обмен-🐇"), false, true);
        admin.declareQueue(queue);
        admin.declareExchange(exchange);
        admin.declareBinding(BindingBuilder.bind(queue).to(exchange).with("ключ.*"));
        Map<String, Object> headers = Map.of("text", "ü", "int", 1, "long", 2L, "bool", true, "double", 0.5,
            "list", List.of(1, "two"), "table", Map.of("k", "v"));
        var message = MessageBuilder.withBody("x".getBytes()).copyHeaders(headers).build();
        template.send(exchange.getName(), "ключ.é", message);
        var got = template.receive(queue.getName()).getMessageProperties();
        assertEquals("ключ.é", got.getReceivedRoutingKey());
        assertEquals(headers, got.getHeaders());
    }

    @Test
    void aLocalTransactionIsAllOrNothing() {
        var plain = new CachingConnectionFactory(connections.getRabbitConnectionFactory());
        plain.setUri(System.getenv("BROKER_URL"));
        var transactional = new RabbitTemplate(plain);
        transactional.setChannelTransacted(true);
        String queue = declared(queue("q"));
        transactional.convertAndSend("", queue, "done");
        assertEquals("done", template.receiveAndConvert(queue));
        plain.destroy();
    }

    @Test
    void invokeWaitsForConfirmsOnItsChannel() {
        var simple = new CachingConnectionFactory(connections.getRabbitConnectionFactory());
        simple.setUri(System.getenv("BROKER_URL"));
        simple.setPublisherConfirmType(CachingConnectionFactory.ConfirmType.SIMPLE);
        var own = new RabbitTemplate(simple);
        String queue = declared(queue("q"));
        assertTrue(own.<Boolean>invoke(operations -> {
            for (int i = 0; i < 50; i++) {
                operations.convertAndSend("", queue, "x");
            }
            return operations.waitForConfirms(20_000);
        }));
        assertEquals(50, admin.getQueueInfo(queue).getMessageCount());
        simple.destroy();
    }

    @Test
    void receiveAndReplyServesSendAndReceive() throws Exception {
        String queue = declared(queue("q"));
        var server = new Thread(() -> template.receiveAndReply(queue, (String body) -> "done: " + body));
        server.start();
        // Direct reply-to is the template's default.
        assertEquals("done: x", new RabbitTemplate(connections).convertSendAndReceive("", queue, "x"));
        server.join(20_000);
    }

    @Test
    void manyChannelsAreCachedAndUsed() throws Exception {
        String queue = declared(queue("q"));
        connections.setChannelCacheSize(200);
        var connection = connections.createConnection();
        for (int i = 0; i < 200; i++) {
            try (var channel = connection.createChannel(false)) {
                channel.basicPublish("", queue, null, new byte[1]);
            }
        }
        Stage.until(() -> admin.getQueueInfo(queue).getMessageCount() == 200);
    }
}
