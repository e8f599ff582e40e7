import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.MessageProperties;
import com.rabbitmq.client.Recoverable;
import com.rabbitmq.client.RecoveryListener;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.Map;
import java.util.concurrent.LinkedBlockingQueue;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.TrustManagerFactory;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Connecting, staying connected, errors, and coming back after the broker was away. */
class ConnectionTest extends Stage {
    @Test
    void rightCredentialsOpenAConnection() {
        assertTrue(connection.isOpen());
        @SuppressWarnings("unchecked")
        var capabilities = (Map<String, Object>) connection.getServerProperties().get("capabilities");
        for (var capability : new String[] {
            "publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify",
            "connection.blocked", "consumer_priorities", "authentication_failure_close", "per_consumer_qos",
            "direct_reply_to",
        }) {
            assertEquals(true, capabilities.get(capability), capability);
        }
    }

    @Test
    void wrongCredentialsAreRefused() {
        var factory = factory();
        factory.setPassword("wrong");
        var refusal = assertThrows(AuthenticationFailureException.class, factory::newConnection);
        assertTrue(refusal.getMessage().contains("ACCESS_REFUSED"), refusal.getMessage());
    }

    @Test
    void messagesGoBothWaysUnderTls() throws Exception {
        String folder = System.getenv("BROKER_CERTIFICATES");
        Assumptions.assumeTrue(folder != null && !folder.isEmpty(), "certificates are made for a broker of ours");
        var store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (var pem = Files.newInputStream(Path.of(folder, "ca.pem"))) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        var trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        var context = SSLContext.getInstance("TLSv1.3");
        context.init(null, trust.getTrustManagers(), null);
        var factory = factory();
        factory.setHost("127.0.0.1");
        factory.setPort(Integer.parseInt(System.getenv("BROKER_TLS_PORT")));
        factory.useSslProtocol(context);
        factory.enableHostnameVerification();
        try (var secure = factory.newConnection()) {
            var body = new byte[1 << 20];
            String queue = declared(null);
            var own = secure.createChannel();
            own.confirmSelect();
            own.basicPublish("", queue, null, body);
            own.waitForConfirmsOrDie(20_000);
            assertEquals(body.length, take(consumed(own, queue, true)).getBody().length);
        }
        factory.useSslProtocol(SSLContext.getDefault());
        assertThrows(SSLException.class, factory::newConnection);
    }

    @Test
    void anUnknownVhostIsRefused() {
        var factory = factory();
        factory.setVirtualHost("nowhere");
        var refusal = assertThrows(IOException.class, factory::newConnection);
        var reason = (ShutdownSignalException) refusal.getCause();
        assertEquals(AMQP.NOT_ALLOWED, ((AMQP.Connection.Close) reason.getReason()).getReplyCode());
    }

    @Test
    void aHeartbeatKeepsAnIdleConnection() throws Exception {
        var factory = factory();
        factory.setAutomaticRecoveryEnabled(false);
        factory.setRequestedHeartbeat(1);
        try (var idle = factory.newConnection()) {
            assertEquals(1, idle.getHeartbeat());
            // Longer than either side waits for a sign of the other.
            Thread.sleep(4000);
            assertTrue(idle.isOpen());
            idle.createChannel();
        }
    }

    @Test
    void manyChannelsWorkSideBySide() throws Exception {
        String queue = declared(null);
        for (int i = 0; i < 500; i++) {
            var each = connection.createChannel();
            each.confirmSelect();
            each.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, new byte[1]);
        }
        until(() -> channel.messageCount(queue) == 500);
    }

    @Test
    void aSoftErrorClosesTheChannelOnly() throws Exception {
        var error = assertThrows(IOException.class, () -> channel.queueDeclarePassive(name("nowhere")));
        var close = (AMQP.Channel.Close) ((ShutdownSignalException) error.getCause()).getReason();
        assertEquals(AMQP.NOT_FOUND, close.getReplyCode());
        assertFalse(channel.isOpen());
        assertTrue(connection.createChannel().isOpen());
    }

    @Test
    void aRedeclareWithOtherArgumentsSaysWhichOne() throws Exception {
        String queue = declared(Map.of("x-max-length", 5));
        var error = assertThrows(IOException.class,
            () -> channel.queueDeclare(queue, true, false, false, Map.of("x-max-length", 6)));
        var close = (AMQP.Channel.Close) ((ShutdownSignalException) error.getCause()).getReason();
        assertEquals("PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '" + queue
            + "' in vhost '/': received '6' but current is '5'", close.getReplyText());
    }

    /** The client's own recovery: connection, channels, exclusive queue, exchange, binding, consumer. */
    @ParameterizedTest
    @ValueSource(strings = {"restart", "kill"})
    void topologyAndConsumersRecover(String command) throws Exception {
        var recovered = new LinkedBlockingQueue<Recoverable>();
        ((Recoverable) connection).addRecoveryListener(new RecoveryListener() {
            @Override
            public void handleRecovery(Recoverable recoverable) {
                recovered.add(recoverable);
            }

            @Override
            public void handleRecoveryStarted(Recoverable recoverable) {
            }
        });
        String durable = declared(null);
        String exchange = name("x");
        channel.exchangeDeclare(exchange, "topic", false, true, null);
        String exclusive = channel.queueDeclare().getQueue();
        channel.queueBind(exclusive, exchange, "a.#");
        var kept = new ArrayList<String>();
        put(durable, "kept");
        var arrivals = new LinkedBlockingQueue<Delivery>();
        channel.basicConsume(exclusive, true, (tag, delivery) -> arrivals.add(delivery), tag -> { });
        control(command);
        take(recovered);
        channel.confirmSelect();
        channel.basicPublish(exchange, "a.b", null, "again".getBytes());
        assertEquals("again", text(take(arrivals)));
        kept.add(text(take(consumed(channel, durable, true))));
        assertEquals("kept", kept.get(0));
    }
}
