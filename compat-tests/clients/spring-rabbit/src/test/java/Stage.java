import java.net.Socket;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Assertions;
import org.junit.jupiter.api.Assumptions;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;

/** Where the broker is, names, deadlines, the way to restart a node. */
final class Stage {
    static final int PATIENCE_SECONDS = 30;

    private Stage() {
    }

    static CachingConnectionFactory connections() {
        var factory = new CachingConnectionFactory(URI.create(System.getenv("BROKER_URL")));
        factory.setPublisherConfirmType(CachingConnectionFactory.ConfirmType.CORRELATED);
        factory.setPublisherReturns(true);
        return factory;
    }

    static String name(String about) {
        return "spring-" + about + "-" + UUID.randomUUID();
    }

    static <T> T take(BlockingQueue<T> arrivals) throws InterruptedException {
        T value = arrivals.poll(PATIENCE_SECONDS, TimeUnit.SECONDS);
        Assertions.assertNotNull(value, "nothing came in time");
        return value;
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
