import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.MessageProperties;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Assertions;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeEach;

/** What every test needs: a connection and a channel of its own, names of its own, a deadline. */
abstract class Stage {
    static final int PATIENCE_SECONDS = 30;

    Connection connection;
    Channel channel;

    static ConnectionFactory factory() {
        try {
            var factory = new ConnectionFactory();
            factory.setUri(System.getenv("BROKER_URL"));
            factory.setNetworkRecoveryInterval(100);
            return factory;
        } catch (Exception error) {
            throw new IllegalStateException(error);
        }
    }

    @BeforeEach
    void open() throws Exception {
        connection = factory().newConnection();
        channel = connection.createChannel();
        channel.confirmSelect();
    }

    @AfterEach
    void close() {
        connection.abort(5000);
    }

    static String name(String about) {
        return "java-" + about + "-" + UUID.randomUUID();
    }

    /** A durable queue; a cluster of tests is thrown away with it. */
    String declared(Map<String, Object> arguments) throws Exception {
        return channel.queueDeclare(name("q"), true, false, false, arguments).getQueue();
    }

    /** Publishes and waits for the confirm, so that what follows sees the message. */
    void put(String queue, String body) throws Exception {
        put(queue, MessageProperties.PERSISTENT_BASIC, body.getBytes(StandardCharsets.UTF_8));
    }

    void put(String queue, BasicProperties properties, byte[] body) throws Exception {
        channel.basicPublish("", queue, properties, body);
        channel.waitForConfirmsOrDie(PATIENCE_SECONDS * 1000L);
    }

    static BlockingQueue<Delivery> consumed(Channel channel, String queue, boolean automatic) throws Exception {
        var arrivals = new LinkedBlockingQueue<Delivery>();
        channel.basicConsume(queue, automatic, (tag, delivery) -> arrivals.add(delivery), tag -> { });
        return arrivals;
    }

    static <T> T take(BlockingQueue<T> arrivals) throws InterruptedException {
        T value = arrivals.poll(PATIENCE_SECONDS, TimeUnit.SECONDS);
        Assertions.assertNotNull(value, "nothing came in time");
        return value;
    }

    static String text(Delivery delivery) {
        return new String(delivery.getBody(), StandardCharsets.UTF_8);
    }

    static void until(Callable<Boolean> fact) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_SECONDS);
        while (!fact.call()) {
            Assertions.assertTrue(System.nanoTime() < end, "not true in time");
            Thread.sleep(20);
        }
    }

    /** Asks the stage to do something to the node this client talks to, and waits until it is done. */
    static void control(String command) throws Exception {
        String address = System.getenv("BROKER_CONTROL");
        Assumptions.assumeTrue(address != null && !address.isEmpty(), "a broker that cannot be restarted from here");
        String[] parts = address.split(":");
        try (var socket = new Socket(parts[0], Integer.parseInt(parts[1]))) {
            socket.getOutputStream().write((command + "\n").getBytes(StandardCharsets.UTF_8));
            var answer = new String(socket.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            Assertions.assertEquals("ok", answer.trim(), command);
        }
    }
}
