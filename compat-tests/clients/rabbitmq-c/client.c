// rabbitmq-c (Debian's package) against the broker. Speaks TAP: one line per test.
//
// Every test has a connection of its own with channel 1 in confirm mode; a failed check ends its test by longjmp.

#define _POSIX_C_SOURCE 200809L
#include <amqp.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include <netdb.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define LARGE (16 << 20)

static amqp_connection_state_t connection;
static jmp_buf end_of_test;
static char reason[512];
static const struct timeval patience = {30, 0};

#define CHECK(fact)                                                                       \
    do {                                                                                  \
        if (!(fact)) {                                                                    \
            snprintf(reason, sizeof reason, "line %d: not true: %s", __LINE__, #fact);    \
            longjmp(end_of_test, 1);                                                      \
        }                                                                                 \
    } while (0)
#define NORMAL(reply) CHECK((reply).reply_type == AMQP_RESPONSE_NORMAL)
#define DONE() NORMAL(amqp_get_rpc_reply(connection))

static amqp_bytes_t text(const char *chars) { return amqp_cstring_bytes(chars); }

static bool equal(amqp_bytes_t bytes, const char *chars) {
    return bytes.len == strlen(chars) && memcmp(bytes.bytes, chars, bytes.len) == 0;
}

static amqp_connection_state_t plug(void) {
    amqp_connection_state_t made = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(made);
    if (amqp_socket_open(socket, getenv("BROKER_HOST"), atoi(getenv("BROKER_PORT"))) != AMQP_STATUS_OK) {
        amqp_destroy_connection(made);
        return NULL;
    }
    return made;
}

static amqp_rpc_reply_t login(amqp_connection_state_t to, const char *vhost, const char *password, int heartbeat) {
    // By itself the library does not say that it takes cancels.
    amqp_table_entry_t cancels = {text("consumer_cancel_notify"), {.kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1}};
    amqp_table_entry_t capabilities = {text("capabilities"), {.kind = AMQP_FIELD_KIND_TABLE, .value.table = {1, &cancels}}};
    amqp_table_t properties = {1, &capabilities};
    return amqp_login_with_properties(to, vhost, 0, 131072, heartbeat, &properties, AMQP_SASL_METHOD_PLAIN, "guest", password);
}

static bool connect_again(void) {
    connection = plug();
    if (connection == NULL || login(connection, "/", "guest", 0).reply_type != AMQP_RESPONSE_NORMAL) return false;
    amqp_channel_open(connection, 1);
    amqp_confirm_select(connection, 1);
    return amqp_get_rpc_reply(connection).reply_type == AMQP_RESPONSE_NORMAL;
}

// A queue of its own for each test; the name holds until the next call.
static amqp_bytes_t declared(amqp_table_t arguments) {
    static char name[64];
    static int number;
    snprintf(name, sizeof name, "c-очередь-%d-%d", (int)getpid(), number++);
    amqp_queue_declare(connection, 1, text(name), 0, 1, 0, 0, arguments);
    DONE();
    return amqp_bytes_malloc_dup(text(name));
}

static uint64_t confirmed(void) {
    amqp_frame_t frame;
    CHECK(amqp_simple_wait_frame_noblock(connection, &frame, &patience) == AMQP_STATUS_OK);
    CHECK(frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD);
    return ((amqp_basic_ack_t *)frame.payload.method.decoded)->delivery_tag;
}

static void publish(amqp_bytes_t queue, const amqp_basic_properties_t *properties, amqp_bytes_t body) {
    CHECK(amqp_basic_publish(connection, 1, amqp_empty_bytes, queue, 0, 0, properties, body) == AMQP_STATUS_OK);
}

static void put(amqp_bytes_t queue, const amqp_basic_properties_t *properties, const char *body) {
    publish(queue, properties, text(body));
    confirmed();
}

static void consume(amqp_bytes_t queue, bool automatic) {
    amqp_basic_consume(connection, 1, queue, amqp_empty_bytes, 0, automatic, 0, amqp_empty_table);
    DONE();
}

static amqp_envelope_t take(void) {
    amqp_envelope_t envelope;
    NORMAL(amqp_consume_message(connection, &envelope, &patience, 0));
    return envelope;
}

static bool quiet(int milliseconds) {
    amqp_envelope_t envelope;
    struct timeval wait = {0, milliseconds * 1000};
    amqp_rpc_reply_t reply = amqp_consume_message(connection, &envelope, &wait, 0);
    return reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION && reply.library_error == AMQP_STATUS_TIMEOUT;
}

static amqp_table_entry_t entry_text(const char *key, amqp_bytes_t value) {
    amqp_table_entry_t entry = {.key = text(key), .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = value}};
    return entry;
}

static amqp_table_entry_t entry_int(const char *key, int value) {
    amqp_table_entry_t entry = {.key = text(key), .value = {.kind = AMQP_FIELD_KIND_I32, .value.i32 = value}};
    return entry;
}

static const amqp_field_value_t *find(const amqp_table_t *table, const char *key) {
    for (int i = 0; i < table->num_entries; i++) {
        if (equal(table->entries[i].key, key)) return &table->entries[i].value;
    }
    snprintf(reason, sizeof reason, "no header %s", key);
    longjmp(end_of_test, 1);
}

// ---- the tests ----

static void right_credentials(void) {
    const amqp_field_value_t *product = find(amqp_get_server_properties(connection), "product");
    CHECK(product->kind == AMQP_FIELD_KIND_UTF8 && product->value.bytes.len > 0);
}

static void wrong_credentials(void) {
    amqp_connection_state_t other = plug();
    amqp_rpc_reply_t reply = login(other, "/", "wrong", 0);
    bool refused = reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION &&
                   reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD &&
                   ((amqp_connection_close_t *)reply.reply.decoded)->reply_code == AMQP_ACCESS_REFUSED;
    amqp_destroy_connection(other);
    CHECK(refused);
}

static void secured(void) {
    char authority[512];
    snprintf(authority, sizeof authority, "%s/ca.pem", getenv("BROKER_CERTIFICATES"));
    amqp_connection_state_t mine = connection;
    connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_ssl_socket_new(connection);
    amqp_ssl_socket_set_verify_peer(socket, 1);
    amqp_ssl_socket_set_verify_hostname(socket, 1);
    bool good = amqp_ssl_socket_set_cacert(socket, authority) == AMQP_STATUS_OK &&
                amqp_socket_open(socket, "localhost", atoi(getenv("BROKER_TLS_PORT"))) == AMQP_STATUS_OK &&
                login(connection, "/", "guest", 0).reply_type == AMQP_RESPONSE_NORMAL;
    if (good) {
        amqp_channel_open(connection, 1);
        amqp_confirm_select(connection, 1);
        amqp_bytes_t queue = declared(amqp_empty_table);
        put(queue, NULL, "secret");
        consume(queue, true);
        good = equal(take().message.body, "secret");
    }
    amqp_destroy_connection(connection);
    connection = mine;
    CHECK(good);
}

static void unknown_vhost(void) {
    amqp_connection_state_t other = plug();
    amqp_rpc_reply_t reply = login(other, "nowhere", "guest", 0);
    amqp_destroy_connection(other);
    CHECK(reply.reply_type != AMQP_RESPONSE_NORMAL);
}

static void heartbeats(void) {
    amqp_connection_state_t mine = connection;
    amqp_connection_state_t idle = plug();
    amqp_rpc_reply_t reply = login(idle, "/", "guest", 1);
    connection = idle;
    bool silent = reply.reply_type == AMQP_RESPONSE_NORMAL;
    // The library sends its heartbeats while it waits.
    for (int i = 0; i < 16; i++) silent = silent && quiet(250);
    int beat = amqp_get_heartbeat(idle);
    amqp_channel_open(idle, 1);
    reply = amqp_get_rpc_reply(idle);
    connection = mine;
    amqp_destroy_connection(idle);
    CHECK(silent && beat == 1 && reply.reply_type == AMQP_RESPONSE_NORMAL);
}

static void confirms(void) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    for (int i = 0; i < 100; i++) publish(queue, NULL, text("x"));
    uint64_t last = 0;
    while (last < 100) {
        uint64_t tag = confirmed();
        CHECK(tag > last);
        last = tag;
    }
    amqp_queue_declare_ok_t *ok = amqp_queue_declare(connection, 1, queue, 1, 0, 0, 0, amqp_empty_table);
    CHECK(ok != NULL && ok->message_count == 100);
}

static void returns(void) {
    int sent = amqp_basic_publish(connection, 1, amqp_empty_bytes, text("c-nowhere"), 1, 0, NULL, text("lost"));
    CHECK(sent == AMQP_STATUS_OK);
    amqp_frame_t frame;
    CHECK(amqp_simple_wait_frame_noblock(connection, &frame, &patience) == AMQP_STATUS_OK);
    CHECK(frame.payload.method.id == AMQP_BASIC_RETURN_METHOD);
    amqp_basic_return_t *back = frame.payload.method.decoded;
    CHECK(back->reply_code == AMQP_NO_ROUTE && equal(back->reply_text, "NO_ROUTE"));
    amqp_message_t message;
    NORMAL(amqp_read_message(connection, 1, &message, 0));
    CHECK(equal(message.body, "lost"));
    amqp_destroy_message(&message);
    CHECK(confirmed() == 1);
}

static void prefetch(void) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    put(queue, NULL, "a");
    put(queue, NULL, "b");
    put(queue, NULL, "c");
    amqp_basic_qos(connection, 1, 0, 2, 0);
    DONE();
    consume(queue, false);
    amqp_envelope_t first = take();
    take();
    CHECK(quiet(300));
    amqp_basic_ack(connection, 1, first.delivery_tag, 0);
    CHECK(equal(take().message.body, "c"));
}

static void nack(void) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    put(queue, NULL, "again");
    consume(queue, false);
    amqp_envelope_t first = take();
    CHECK(!first.redelivered);
    amqp_basic_nack(connection, 1, first.delivery_tag, 0, 1);
    CHECK(take().redelivered);
}

static void expect_death(const char *cause) {
    amqp_envelope_t letter = take();
    CHECK(letter.message.properties._flags & AMQP_BASIC_HEADERS_FLAG);
    CHECK(equal(find(&letter.message.properties.headers, "x-first-death-reason")->value.bytes, cause));
}

static void dead_letters(void) {
    amqp_bytes_t dead = declared(amqp_empty_table);
    amqp_table_entry_t entries[] = {
        entry_text("x-dead-letter-exchange", amqp_empty_bytes),
        entry_text("x-dead-letter-routing-key", dead),
        entry_int("x-message-ttl", 100),
    };
    amqp_table_t with_ttl = {3, entries}, without = {2, entries};
    amqp_bytes_t expiring = declared(with_ttl), rejecting = declared(without);
    put(rejecting, NULL, "bad");
    amqp_rpc_reply_t reply = amqp_basic_get(connection, 1, rejecting, 0);
    CHECK(reply.reply.id == AMQP_BASIC_GET_OK_METHOD);
    uint64_t tag = ((amqp_basic_get_ok_t *)reply.reply.decoded)->delivery_tag;
    amqp_message_t message;
    NORMAL(amqp_read_message(connection, 1, &message, 0));
    amqp_destroy_message(&message);
    amqp_basic_reject(connection, 1, tag, 0);
    consume(dead, true);
    expect_death("rejected");
    publish(expiring, NULL, text("late"));
    confirmed();
    expect_death("expired");
}

static void priorities(void) {
    amqp_table_entry_t entry = entry_int("x-max-priority", 10);
    amqp_table_t arguments = {1, &entry};
    amqp_bytes_t queue = declared(arguments);
    const char *bodies[] = {"1", "9", "5"}, *wanted[] = {"9", "5", "1"};
    for (int i = 0; i < 3; i++) {
        amqp_basic_properties_t properties = {._flags = AMQP_BASIC_PRIORITY_FLAG, .priority = atoi(bodies[i])};
        put(queue, &properties, bodies[i]);
    }
    consume(queue, true);
    for (int i = 0; i < 3; i++) CHECK(equal(take().message.body, wanted[i]));
}

static void reply_to(void) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    consume(text("amq.rabbitmq.reply-to"), true);
    amqp_basic_properties_t call = {
        ._flags = AMQP_BASIC_REPLY_TO_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG,
        .reply_to = text("amq.rabbitmq.reply-to"),
        .correlation_id = text("one"),
    };
    put(queue, &call, "21");
    NORMAL(amqp_basic_get(connection, 1, queue, 1));
    amqp_message_t asked;
    NORMAL(amqp_read_message(connection, 1, &asked, 0));
    amqp_basic_properties_t answer = {
        ._flags = AMQP_BASIC_CORRELATION_ID_FLAG, .correlation_id = asked.properties.correlation_id};
    amqp_bytes_t to = asked.properties.reply_to;
    amqp_channel_open(connection, 2);
    DONE();
    CHECK(amqp_basic_publish(connection, 2, amqp_empty_bytes, to, 0, 0, &answer, text("42")) == AMQP_STATUS_OK);
    amqp_envelope_t reply = take();
    CHECK(equal(reply.message.body, "42") && equal(reply.message.properties.correlation_id, "one"));
}

static bool control(const char *command) {
    char place[128], answer[16] = "";
    snprintf(place, sizeof place, "%s", getenv("BROKER_CONTROL"));
    char *port = strchr(place, ':');
    *port++ = '\0';
    struct addrinfo *address, hints = {.ai_socktype = SOCK_STREAM};
    if (getaddrinfo(place, port, &hints, &address) != 0) return false;
    int stream = socket(address->ai_family, SOCK_STREAM, 0);
    bool good = connect(stream, address->ai_addr, address->ai_addrlen) == 0 && dprintf(stream, "%s\n", command) > 0 &&
                read(stream, answer, sizeof answer - 1) > 0 && strcmp(answer, "ok\n") == 0;
    freeaddrinfo(address);
    close(stream);
    return good;
}

static void survives(const char *command) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    amqp_basic_properties_t persistent = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};
    put(queue, &persistent, "kept");
    CHECK(control(command));
    amqp_frame_t frame;
    int status = amqp_simple_wait_frame_noblock(connection, &frame, &patience);
    bool told = status == AMQP_STATUS_OK && frame.payload.method.id == AMQP_CONNECTION_CLOSE_METHOD;
    CHECK(told || status == AMQP_STATUS_CONNECTION_CLOSED || status == AMQP_STATUS_SOCKET_ERROR);
    amqp_destroy_connection(connection);
    CHECK(connect_again());
    consume(queue, true);
    CHECK(equal(take().message.body, "kept"));
}

static void restart(void) { survives("restart"); }
static void kills(void) { survives("kill"); }

static void cancels(void) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    consume(queue, false);
    amqp_channel_open(connection, 2);
    DONE();
    amqp_queue_delete(connection, 2, queue, 0, 0);
    DONE();
    amqp_frame_t frame;
    CHECK(amqp_simple_wait_frame_noblock(connection, &frame, &patience) == AMQP_STATUS_OK);
    CHECK(frame.payload.method.id == AMQP_BASIC_CANCEL_METHOD);
}

static void large(void) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    amqp_bytes_t body = amqp_bytes_malloc(LARGE);
    for (size_t i = 0; i < LARGE; i++) ((unsigned char *)body.bytes)[i] = (unsigned char)(i * 31 + i / 251);
    publish(queue, NULL, body);
    confirmed();
    consume(queue, true);
    amqp_envelope_t envelope = take();
    bool same = envelope.message.body.len == LARGE && memcmp(envelope.message.body.bytes, body.bytes, LARGE) == 0;
    amqp_destroy_envelope(&envelope);
    amqp_bytes_free(body);
    CHECK(same);
}

static void channels(void) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    for (int channel = 2; channel < 302; channel++) {
        amqp_channel_open(connection, channel);
        DONE();
        CHECK(amqp_basic_publish(connection, channel, amqp_empty_bytes, queue, 0, 0, NULL, text("x")) == 0);
    }
    consume(queue, true);
    for (int i = 0; i < 300; i++) {
        amqp_envelope_t envelope = take();
        amqp_destroy_envelope(&envelope);
    }
}

static void unicode(void) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    amqp_bytes_t exchange = text("c-обмен-🐇");
    amqp_exchange_declare(connection, 1, exchange, text("topic"), 0, 0, 1, 0, amqp_empty_table);
    DONE();
    amqp_queue_bind(connection, 1, queue, exchange, text("ключ.*"), amqp_empty_table);
    DONE();
    CHECK(amqp_basic_publish(connection, 1, exchange, text("ключ.é"), 0, 0, NULL, text("ü")) == AMQP_STATUS_OK);
    confirmed();
    consume(queue, true);
    amqp_envelope_t got = take();
    CHECK(equal(got.routing_key, "ключ.é") && equal(got.exchange, "c-обмен-🐇") && equal(got.message.body, "ü"));
}

static void headers(void) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    amqp_field_value_t items[] = {
        {.kind = AMQP_FIELD_KIND_I32, .value.i32 = 1}, {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = text("two")}};
    amqp_table_entry_t inner = entry_int("deep", 1);
    amqp_table_entry_t entries[] = {
        {text("bool"), {.kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1}},
        {text("i8"), {.kind = AMQP_FIELD_KIND_I8, .value.i8 = -8}},
        {text("u8"), {.kind = AMQP_FIELD_KIND_U8, .value.u8 = 200}},
        {text("i16"), {.kind = AMQP_FIELD_KIND_I16, .value.i16 = -16}},
        {text("u16"), {.kind = AMQP_FIELD_KIND_U16, .value.u16 = 65535}},
        {text("i32"), {.kind = AMQP_FIELD_KIND_I32, .value.i32 = -32}},
        {text("u32"), {.kind = AMQP_FIELD_KIND_U32, .value.u32 = 4294967295U}},
        {text("i64"), {.kind = AMQP_FIELD_KIND_I64, .value.i64 = -64}},
        {text("f32"), {.kind = AMQP_FIELD_KIND_F32, .value.f32 = 0.5F}},
        {text("f64"), {.kind = AMQP_FIELD_KIND_F64, .value.f64 = 0.25}},
        {text("decimal"), {.kind = AMQP_FIELD_KIND_DECIMAL, .value.decimal = {2, 314}}},
        {text("utf8"), {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = text("ü")}},
        {text("bytes"), {.kind = AMQP_FIELD_KIND_BYTES, .value.bytes = {2, "\0\xff"}}},
        {text("time"), {.kind = AMQP_FIELD_KIND_TIMESTAMP, .value.u64 = 1700000000}},
        {text("void"), {.kind = AMQP_FIELD_KIND_VOID}},
        {text("array"), {.kind = AMQP_FIELD_KIND_ARRAY, .value.array = {2, items}}},
        {text("table"), {.kind = AMQP_FIELD_KIND_TABLE, .value.table = {1, &inner}}},
    };
    int count = sizeof entries / sizeof *entries;
    amqp_basic_properties_t sent = {._flags = AMQP_BASIC_HEADERS_FLAG, .headers = {count, entries}};
    put(queue, &sent, "x");
    consume(queue, true);
    amqp_table_t got = take().message.properties.headers;
    CHECK(got.num_entries == count);
    for (int i = 0; i < count; i++) {
        // Both are encoded by the same library, so the same bytes are the same values.
        unsigned char here[512], there[512];
        amqp_table_entry_t other = {entries[i].key, *find(&got, entries[i].key.bytes)};
        amqp_table_t one = {1, &entries[i]}, two = {1, &other};
        size_t here_end = 0, there_end = 0;
        amqp_bytes_t here_bytes = {sizeof here, here}, there_bytes = {sizeof there, there};
        CHECK(amqp_encode_table(here_bytes, &one, &here_end) == 0);
        CHECK(amqp_encode_table(there_bytes, &two, &there_end) == 0);
        CHECK(here_end == there_end && memcmp(here, there, here_end) == 0);
    }
}

static void transactions(void) {
    amqp_bytes_t queue = declared(amqp_empty_table);
    amqp_channel_open(connection, 2);
    amqp_tx_select(connection, 2);
    DONE();
    amqp_basic_publish(connection, 2, amqp_empty_bytes, queue, 0, 0, NULL, text("undone"));
    amqp_tx_rollback(connection, 2);
    DONE();
    amqp_basic_publish(connection, 2, amqp_empty_bytes, queue, 0, 0, NULL, text("done"));
    amqp_tx_commit(connection, 2);
    DONE();
    consume(queue, true);
    CHECK(equal(take().message.body, "done") && quiet(100));
}

static void soft_error(void) {
    amqp_queue_declare(connection, 1, text("c-nowhere"), 1, 0, 0, 0, amqp_empty_table);
    amqp_rpc_reply_t reply = amqp_get_rpc_reply(connection);
    CHECK(reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD);
    CHECK(((amqp_channel_close_t *)reply.reply.decoded)->reply_code == AMQP_NOT_FOUND);
    amqp_channel_close_ok_t ok;
    CHECK(amqp_send_method(connection, 1, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok) == AMQP_STATUS_OK);
    amqp_channel_open(connection, 2);
    DONE();
}

static const struct {
    const char *title;
    void (*run)(void);
    bool ours;
} tests[] = {
    {"right credentials open a connection", right_credentials, false},
    {"wrong credentials are refused", wrong_credentials, false},
    {"messages go both ways under TLS", secured, true},
    {"an unknown vhost is refused", unknown_vhost, false},
    {"a heartbeat keeps an idle connection", heartbeats, false},
    {"every publish is confirmed", confirms, false},
    {"a mandatory message comes back", returns, false},
    {"prefetch limits what is unacknowledged", prefetch, false},
    {"a nacked message comes back", nack, false},
    {"rejected and expired messages are dead-lettered", dead_letters, false},
    {"higher priorities come first", priorities, false},
    {"direct reply-to answers a call", reply_to, false},
    {"a durable message survives a restart", restart, true},
    {"a durable message survives a kill", kills, true},
    {"a consumer of a deleted queue is told", cancels, false},
    {"a body of 16 MiB arrives as it was", large, false},
    {"many channels work side by side", channels, false},
    {"names may be unicode", unicode, false},
    {"headers of every type arrive as they were", headers, false},
    {"a transaction is all or nothing", transactions, false},
    {"a soft error closes the channel only", soft_error, false},
};

int main(void) {
    const char *restartable = getenv("BROKER_CONTROL");
    int count = sizeof tests / sizeof *tests;
    volatile int failed = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (volatile int i = 0; i < count; i++) {
        if (tests[i].ours && (restartable == NULL || *restartable == '\0')) {
            printf("ok %d - %s # SKIP not our broker\n", i + 1, tests[i].title);
            continue;
        }
        if (!connect_again()) {
            printf("not ok %d - %s\n# no connection\n", i + 1, tests[i].title);
            failed++;
            continue;
        }
        if (setjmp(end_of_test) == 0) {
            tests[i].run();
            printf("ok %d - %s\n", i + 1, tests[i].title);
        } else {
            printf("not ok %d - %s\n# %s\n", i + 1, tests[i].title, reason);
            failed++;
        }
        amqp_destroy_connection(connection);
    }
    printf("1..%d\n", count);
    return failed > 0;
}
