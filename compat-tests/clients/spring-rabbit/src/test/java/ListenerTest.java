import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.springframework.amqp.AmqpRejectAndDontRequeueException;
import org.springframework.amqp.core.AnonymousQueue;
import org.springframework.amqp.core.Binding;
import org.springframework.amqp.core.BindingBuilder;
import org.springframework.amqp.core.Declarables;
import org.springframework.amqp.core.DirectExchange;
import org.springframework.amqp.core.Message;
import org.springframework.amqp.core.Queue;
import org.springframework.amqp.core.QueueBuilder;
import org.springframework.amqp.rabbit.annotation.EnableRabbit;
import org.springframework.amqp.rabbit.annotation.RabbitListener;
import org.springframework.amqp.rabbit.config.SimpleRabbitListenerContainerFactory;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.core.RabbitAdmin;
import org.springframework.amqp.rabbit.core.RabbitTemplate;
import org.springframework.amqp.rabbit.listener.DirectMessageListenerContainer;
import org.springframework.amqp.rabbit.listener.SimpleMessageListenerContainer;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;

/** Listener containers as an application has them: declared in a context, with annotations. */
class ListenerTest {
    static final String WORK = "spring-listener-work";
    static final String DEAD = "spring-listener-dead";
    static final String CALLS = "spring-listener-calls";
    static final String BATCH = "spring-listener-batch";
    static final String EXCHANGE = "spring-listener";

    static AnnotationConfigApplicationContext context;
    static RabbitTemplate template;
    static RabbitAdmin admin;
    static Listeners listeners;

    @BeforeAll
    static void start() {
        context = new AnnotationConfigApplicationContext(Application.class);
        template = context.getBean(RabbitTemplate.class);
        template.setReplyTimeout(20_000);
        admin = context.getBean(RabbitAdmin.class);
        listeners = context.getBean(Listeners.class);
    }

    @AfterAll
    static void stop() {
        context.close();
    }

    @Configuration
    @EnableRabbit
    static class Application {
        @Bean
        CachingConnectionFactory connections() {
            return Stage.connections();
        }

        @Bean
        RabbitTemplate template(CachingConnectionFactory connections) {
            return new RabbitTemplate(connections);
        }

        @Bean
        RabbitAdmin admin(CachingConnectionFactory connections) {
            return new RabbitAdmin(connections);
        }

        @Bean
        SimpleRabbitListenerContainerFactory rabbitListenerContainerFactory(CachingConnectionFactory connections) {
            return containers(connections);
        }

        private static SimpleRabbitListenerContainerFactory containers(CachingConnectionFactory connections) {
            var factory = new SimpleRabbitListenerContainerFactory();
            factory.setConnectionFactory(connections);
            factory.setPrefetchCount(10);
            factory.setRecoveryInterval(100L);
            return factory;
        }

        @Bean
        SimpleRabbitListenerContainerFactory batches(CachingConnectionFactory connections) {
            var factory = containers(connections);
            factory.setBatchListener(true);
            factory.setConsumerBatchEnabled(true);
            factory.setBatchSize(5);
            factory.setReceiveTimeout(500L);
            return factory;
        }

        @Bean
        Declarables topology() {
            var exchange = new DirectExchange(EXCHANGE);
            Queue work = QueueBuilder.durable(WORK).deadLetterExchange("").deadLetterRoutingKey(DEAD).build();
            Binding binding = BindingBuilder.bind(work).to(exchange).with("work");
            return new Declarables(exchange, work, binding, new Queue(DEAD), new Queue(CALLS), new Queue(BATCH));
        }

        @Bean
        Listeners listeners() {
            return new Listeners();
        }
    }

    static class Listeners {
        final BlockingQueue<String> worked = new LinkedBlockingQueue<>();
        final BlockingQueue<Message> dead = new LinkedBlockingQueue<>();
        final BlockingQueue<List<String>> batches = new LinkedBlockingQueue<>();
        final AtomicInteger failures = new AtomicInteger();

        @RabbitListener(queues = WORK)
        void work(String body) {
            if (body.equals("bad")) {
                throw new AmqpRejectAndDontRequeueException("never");
            }
            if (body.equals("twice") && failures.incrementAndGet() == 1) {
                throw new IllegalStateException("requeued by default");
            }
            worked.add(body);
        }

        @RabbitListener(queues = DEAD)
        void dead(Message letter) {
            dead.add(letter);
        }

        @RabbitListener(queues = CALLS)
        String call(String body) {
            return "done: " + body;
        }

        @RabbitListener(queues = BATCH, containerFactory = "batches")
        void batch(List<String> bodies) {
            batches.add(bodies);
        }
    }

    @Test
    void aListenerWorks() throws Exception {
        template.convertAndSend(EXCHANGE, "work", "plain");
        assertEquals("plain", Stage.take(listeners.worked));
    }

    @Test
    void aFailedMessageIsRequeued() throws Exception {
        template.convertAndSend(EXCHANGE, "work", "twice");
        assertEquals("twice", Stage.take(listeners.worked));
        assertEquals(2, listeners.failures.get());
    }

    @Test
    void aRejectedMessageIsDeadLettered() throws Exception {
        template.convertAndSend(EXCHANGE, "work", "bad");
        var death = Stage.take(listeners.dead).getMessageProperties().getXDeathHeader().get(0);
        assertEquals("rejected", death.get("reason"));
        assertEquals(WORK, death.get("queue"));
    }

    @Test
    void aListenerAnswersCalls() {
        for (int i = 0; i < 10; i++) {
            assertEquals("done: " + i, template.convertSendAndReceive("", CALLS, String.valueOf(i)));
        }
    }

    @Test
    void consumersBatch() throws Exception {
        for (int i = 0; i < 5; i++) {
            template.convertAndSend("", BATCH, String.valueOf(i));
        }
        int count = 0;
        while (count < 5) {
            count += Stage.take(listeners.batches).size();
        }
        assertEquals(5, count);
    }

    @Test
    void aDirectContainerSharesItsWork() throws Exception {
        String queue = admin.declareQueue(new Queue(Stage.name("direct")));
        var arrivals = new LinkedBlockingQueue<String>();
        var container = new DirectMessageListenerContainer(context.getBean(CachingConnectionFactory.class));
        container.setQueueNames(queue);
        container.setConsumersPerQueue(3);
        container.setMessageListener(message -> arrivals.add(new String(message.getBody())));
        container.start();
        for (int i = 0; i < 30; i++) {
            template.convertAndSend("", queue, "x");
        }
        for (int i = 0; i < 30; i++) {
            Stage.take(arrivals);
        }
        // They may subscribe later than the first of them takes messages.
        Stage.until(() -> admin.getQueueInfo(queue).getConsumerCount() == 3);
        container.stop();
    }

    @Test
    void aContainerDeclaresItsExclusiveQueueAgain() throws Exception {
        var queue = new AnonymousQueue();
        admin.declareQueue(queue);
        var arrivals = new LinkedBlockingQueue<String>();
        var container = new SimpleMessageListenerContainer(context.getBean(CachingConnectionFactory.class));
        container.setQueues(queue);
        container.setRecoveryInterval(100);
        container.setAmqpAdmin(admin);
        container.setMessageListener(message -> arrivals.add(new String(message.getBody())));
        container.start();
        template.convertAndSend("", queue.getName(), "x");
        assertEquals("x", Stage.take(arrivals));
        container.stop();
    }

    @Test
    void aDeletedQueueEndsItsConsumerAndItComesBack() throws Exception {
        var queue = new Queue(Stage.name("deleted"));
        admin.declareQueue(queue);
        var arrivals = new LinkedBlockingQueue<String>();
        var container = new SimpleMessageListenerContainer(context.getBean(CachingConnectionFactory.class));
        container.setQueues(queue);
        container.setRecoveryInterval(100);
        container.setFailedDeclarationRetryInterval(100);
        container.setDeclarationRetries(100);
        container.setMissingQueuesFatal(false);
        container.setMessageListener(message -> arrivals.add(new String(message.getBody())));
        container.start();
        Stage.until(() -> admin.getQueueInfo(queue.getName()).getConsumerCount() == 1);
        admin.deleteQueue(queue.getName());
        admin.declareQueue(queue);
        Stage.until(() -> admin.getQueueInfo(queue.getName()).getConsumerCount() == 1);
        template.convertAndSend("", queue.getName(), "again");
        assertEquals("again", Stage.take(arrivals));
        container.stop();
    }

    @ParameterizedTest
    @ValueSource(strings = {"restart", "kill"})
    void listenersComeBack(String command) throws Exception {
        Stage.control(command);
        Stage.until(() -> {
            try {
                template.convertAndSend(EXCHANGE, "work", command);
                return true;
            } catch (org.springframework.amqp.AmqpException away) {
                return false;
            }
        });
        assertEquals(command, Stage.take(listeners.worked));
        assertTrue(context.isActive());
    }
}
