package compat

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestRightCredentialsOpenAConnection(t *testing.T) {
	connection := dial(t)
	product, _ := connection.Properties["product"].(string)
	if product == "" {
		t.Fatal("the server does not say what it is")
	}
}

func TestWrongCredentialsAreRefused(t *testing.T) {
	wrong := strings.Replace(url, "guest:guest@", "guest:wrong@", 1)
	_, err := amqp.Dial(wrong)
	var refusal *amqp.Error
	if !errors.As(err, &refusal) || refusal.Code != 403 {
		t.Fatalf("%v instead of 403", err)
	}
}

func TestMessagesGoBothWaysUnderTLS(t *testing.T) {
	folder := os.Getenv("BROKER_CERTIFICATES")
	if folder == "" {
		t.Skip("certificates are made for a broker of ours")
	}
	pem, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
	must(t, err)
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(pem)
	secure := "amqps://guest:guest@127.0.0.1:" + os.Getenv("BROKER_TLS_PORT")
	connection, err := amqp.DialTLS(secure, &tls.Config{RootCAs: authorities})
	must(t, err)
	defer connection.Close()
	channel, err := connection.Channel()
	must(t, err)
	queue := declare(t, channel, nil)
	put(t, channel, queue, text(strings.Repeat("s", 1<<20)))
	expectBody(t, receive(t, consume(t, channel, queue)), strings.Repeat("s", 1<<20))
	_, err = amqp.DialTLS(secure, &tls.Config{})
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Fatalf("%v instead of an unknown authority", err)
	}
}

func TestAnUnknownVhostIsRefused(t *testing.T) {
	connection, err := amqp.DialConfig(url, amqp.Config{Vhost: "nowhere"})
	if err == nil {
		connection.Close()
		t.Fatal("opened")
	}
}

func TestAHeartbeatKeepsAnIdleConnection(t *testing.T) {
	connection, err := amqp.DialConfig(url, amqp.Config{Heartbeat: time.Second})
	must(t, err)
	defer connection.Close()
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	if connection.Config.Heartbeat != time.Second {
		t.Fatalf("a heartbeat of %v", connection.Config.Heartbeat)
	}
	// Longer than the client waits for a sign of the broker, and the broker for one of the client.
	select {
	case err := <-closed:
		t.Fatal(err)
	case <-time.After(4 * time.Second):
	}
	_, err = connection.Channel()
	must(t, err)
}

func TestEveryPublishIsConfirmed(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	must(t, channel.Confirm(false))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, 100))
	for i := 0; i < 100; i++ {
		must(t, channel.PublishWithContext(context.Background(), "", queue, false, false, text("x")))
	}
	for i := uint64(1); i <= 100; i++ {
		confirm := receive(t, confirms)
		if !confirm.Ack || confirm.DeliveryTag != i {
			t.Fatalf("confirm %d is %+v", i, confirm)
		}
	}
	state, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	must(t, err)
	if state.Messages != 100 {
		t.Fatalf("%d messages", state.Messages)
	}
}

func TestAMandatoryMessageComesBack(t *testing.T) {
	channel := open(t)
	must(t, channel.Confirm(false))
	returns := channel.NotifyReturn(make(chan amqp.Return, 1))
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, 1))
	must(t, channel.PublishWithContext(context.Background(), "", name(t), true, false, text("lost")))
	back := receive(t, returns)
	if back.ReplyCode != 312 || back.ReplyText != "NO_ROUTE" || string(back.Body) != "lost" {
		t.Fatalf("%+v", back)
	}
	if !receive(t, confirms).Ack {
		t.Fatal("not acknowledged after its return")
	}
}

func TestPrefetchLimitsWhatIsUnacknowledged(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	for i := 0; i < 5; i++ {
		put(t, channel, queue, text(string(rune('a'+i))))
	}
	must(t, channel.Qos(2, 0, false))
	deliveries := consume(t, channel, queue)
	first := receive(t, deliveries)
	receive(t, deliveries)
	select {
	case more := <-deliveries:
		t.Fatalf("a third, %q", more.Body)
	case <-time.After(300 * time.Millisecond):
	}
	must(t, first.Ack(false))
	expectBody(t, receive(t, deliveries), "c")
}

func TestAcknowledgedMessagesAreGone(t *testing.T) {
	connection := dial(t)
	channel, err := connection.Channel()
	must(t, err)
	queue := declare(t, channel, nil)
	for _, body := range []string{"a", "b", "c"} {
		put(t, channel, queue, text(body))
	}
	deliveries := consume(t, channel, queue)
	receive(t, deliveries)
	second := receive(t, deliveries)
	receive(t, deliveries)
	must(t, second.Ack(true))
	must(t, channel.Close())
	again, err := connection.Channel()
	must(t, err)
	left := receive(t, consume(t, again, queue))
	expectBody(t, left, "c")
	if !left.Redelivered {
		t.Fatal("not marked as redelivered")
	}
}

func TestANackedMessageComesBack(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	put(t, channel, queue, text("again"))
	deliveries := consume(t, channel, queue)
	first := receive(t, deliveries)
	if first.Redelivered {
		t.Fatal("marked at its first delivery")
	}
	must(t, first.Nack(false, true))
	second := receive(t, deliveries)
	expectBody(t, second, "again")
	if !second.Redelivered {
		t.Fatal("not marked")
	}
}

func deadLetters(t *testing.T, channel *amqp.Channel, arguments amqp.Table) (string, string) {
	dead := declare(t, channel, nil)
	arguments["x-dead-letter-exchange"] = ""
	arguments["x-dead-letter-routing-key"] = dead
	return declareNamed(t, channel, name(t)+"-source", arguments), dead
}

func expectDeath(t *testing.T, delivery amqp.Delivery, queue, reason string) {
	t.Helper()
	deaths, _ := delivery.Headers["x-death"].([]interface{})
	if len(deaths) != 1 {
		t.Fatalf("x-death is %v", delivery.Headers["x-death"])
	}
	death := deaths[0].(amqp.Table)
	if death["reason"] != reason || death["queue"] != queue || death["count"] != int64(1) {
		t.Fatalf("x-death is %v", death)
	}
}

func TestARejectedMessageIsDeadLettered(t *testing.T) {
	channel := open(t)
	source, dead := deadLetters(t, channel, amqp.Table{})
	put(t, channel, source, text("bad"))
	must(t, receive(t, consume(t, channel, source)).Reject(false))
	letter := receive(t, consume(t, channel, dead))
	expectBody(t, letter, "bad")
	expectDeath(t, letter, source, "rejected")
}

func TestAnExpiredMessageIsDeadLettered(t *testing.T) {
	channel := open(t)
	source, dead := deadLetters(t, channel, amqp.Table{"x-message-ttl": int32(100)})
	put(t, channel, source, text("late"))
	letter := receive(t, consume(t, channel, dead))
	expectDeath(t, letter, source, "expired")
	if letter.Expiration != "" {
		t.Fatal("an expiration that it never had")
	}
}

func TestAMessageWithItsOwnTTLIsDeadLetteredWithoutIt(t *testing.T) {
	channel := open(t)
	source, dead := deadLetters(t, channel, amqp.Table{})
	message := text("late")
	message.Expiration = "100"
	put(t, channel, source, message)
	letter := receive(t, consume(t, channel, dead))
	expectDeath(t, letter, source, "expired")
	death := letter.Headers["x-death"].([]interface{})[0].(amqp.Table)
	if letter.Expiration != "" || death["original-expiration"] != "100" {
		t.Fatalf("expiration %q, %v", letter.Expiration, death)
	}
}

func TestHigherPrioritiesComeFirst(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, amqp.Table{"x-max-priority": int32(10)})
	for _, priority := range []uint8{1, 9, 5} {
		message := text(string(rune('0' + priority)))
		message.Priority = priority
		put(t, channel, queue, message)
	}
	deliveries := consume(t, channel, queue)
	for _, body := range []string{"9", "5", "1"} {
		expectBody(t, receive(t, deliveries), body)
	}
}

func TestDirectReplyToAnswersACall(t *testing.T) {
	server, client := open(t), open(t)
	queue := declare(t, server, nil)
	calls := consume(t, server, queue)
	replies, err := client.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
	must(t, err)
	call := text("21")
	call.ReplyTo, call.CorrelationId = "amq.rabbitmq.reply-to", "one"
	must(t, client.PublishWithContext(context.Background(), "", queue, false, false, call))
	asked := receive(t, calls)
	answer := amqp.Publishing{CorrelationId: asked.CorrelationId, Body: []byte("42")}
	must(t, server.PublishWithContext(context.Background(), "", asked.ReplyTo, false, false, answer))
	reply := receive(t, replies)
	expectBody(t, reply, "42")
	if reply.CorrelationId != "one" {
		t.Fatalf("an answer to %q", reply.CorrelationId)
	}
}

func TestADurableMessageSurvivesARestart(t *testing.T) {
	connection := dial(t)
	channel, err := connection.Channel()
	must(t, err)
	queue := declare(t, channel, nil)
	put(t, channel, queue, text("kept"))
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	control(t, "restart")
	reason := receive(t, closed)
	if reason.Code != amqp.ConnectionForced {
		t.Fatalf("closed with %v", reason)
	}
	expectBody(t, receive(t, consume(t, open(t), queue)), "kept")
}

func TestADurableMessageSurvivesAKill(t *testing.T) {
	connection := dial(t)
	channel, err := connection.Channel()
	must(t, err)
	queue := declare(t, channel, nil)
	put(t, channel, queue, text("kept"))
	closed := connection.NotifyClose(make(chan *amqp.Error, 1))
	control(t, "kill")
	receive(t, closed)
	expectBody(t, receive(t, consume(t, open(t), queue)), "kept")
}

func TestAConsumerOfADeletedQueueIsTold(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	cancelled := channel.NotifyCancel(make(chan string, 1))
	deliveries, err := channel.Consume(queue, "its-tag", false, false, false, false, nil)
	must(t, err)
	_, err = open(t).QueueDelete(queue, false, false, false)
	must(t, err)
	if tag := receive(t, cancelled); tag != "its-tag" {
		t.Fatalf("%q was cancelled", tag)
	}
	if _, more := <-deliveries; more {
		t.Fatal("a delivery from nowhere")
	}
}

func TestALargeBodyArrivesAsItWas(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	body := make([]byte, 16<<20)
	_, err := rand.Read(body)
	must(t, err)
	put(t, channel, queue, amqp.Publishing{Body: body})
	delivery := receive(t, consume(t, channel, queue))
	if !bytes.Equal(delivery.Body, body) {
		t.Fatalf("%d other bytes", len(delivery.Body))
	}
	must(t, delivery.Ack(false))
}

func TestAnEmptyBodyArrives(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	put(t, channel, queue, text(""))
	expectBody(t, receive(t, consume(t, channel, queue)), "")
}

func TestManyChannelsWorkSideBySide(t *testing.T) {
	connection := dial(t)
	channel, err := connection.Channel()
	must(t, err)
	queue := declare(t, channel, nil)
	channels := make([]*amqp.Channel, 500)
	for i := range channels {
		channels[i], err = connection.Channel()
		must(t, err)
		must(t, channels[i].Confirm(false))
	}
	confirms := make([]*amqp.DeferredConfirmation, len(channels))
	for i, each := range channels {
		confirms[i], err = each.PublishWithDeferredConfirmWithContext(
			context.Background(), "", queue, false, false, text("x"))
		must(t, err)
	}
	for _, confirm := range confirms {
		if !confirm.Wait() {
			t.Fatal("refused")
		}
	}
	state, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
	must(t, err)
	if state.Messages != len(channels) {
		t.Fatalf("%d messages", state.Messages)
	}
}

func TestNamesMayBeUnicode(t *testing.T) {
	channel := open(t)
	suffix := name(t)
	queue := declareNamed(t, channel, "очередь-兎-"+suffix, nil)
	exchange := "обмен-🐇-" + suffix
	must(t, channel.ExchangeDeclare(exchange, "topic", false, true, false, false, nil))
	must(t, channel.QueueBind(queue, "ключ.*", exchange, false, nil))
	deliveries := consume(t, channel, queue)
	must(t, channel.PublishWithContext(context.Background(), exchange, "ключ.é", false, false, text("ü")))
	delivery := receive(t, deliveries)
	if delivery.Exchange != exchange || delivery.RoutingKey != "ключ.é" || string(delivery.Body) != "ü" {
		t.Fatalf("%q %q %q", delivery.Exchange, delivery.RoutingKey, delivery.Body)
	}
}

func TestHeadersOfEveryTypeArriveAsTheyWere(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	headers := amqp.Table{
		"bool": true, "byte": byte(200), "int8": int8(-8), "int16": int16(-16), "uint16": uint16(65535),
		"int32": int32(-32), "uint32": uint32(4294967295), "int64": int64(-64), "float32": float32(0.5),
		"float64": 0.25, "string": "text", "bytes": []byte{0, 255}, "nil": nil,
		"decimal": amqp.Decimal{Scale: 2, Value: 314}, "time": time.Unix(1700000000, 0).UTC(),
		"array": []interface{}{int32(1), "two", []interface{}{true}, amqp.Table{"k": "v"}},
		"table": amqp.Table{"nested": amqp.Table{"deep": int64(1)}},
	}
	put(t, channel, queue, amqp.Publishing{Headers: headers})
	got := receive(t, consume(t, channel, queue)).Headers
	if arrived, ok := got["time"].(time.Time); ok {
		got["time"] = arrived.UTC()
	}
	if !reflect.DeepEqual(got, headers) {
		t.Fatalf("%#v\ninstead of\n%#v", got, headers)
	}
}

func TestEveryPropertyArrivesAsItWas(t *testing.T) {
	channel := open(t)
	queue := declare(t, channel, nil)
	sent := amqp.Publishing{
		ContentType: "a/b", ContentEncoding: "c", DeliveryMode: 2, Priority: 3, CorrelationId: "d", ReplyTo: "e",
		Expiration: "60000", MessageId: "f", Timestamp: time.Unix(1700000000, 0), Type: "g", UserId: "guest", AppId: "h",
	}
	put(t, channel, queue, sent)
	got := receive(t, consume(t, channel, queue))
	same := got.ContentType == "a/b" && got.ContentEncoding == "c" && got.DeliveryMode == 2 && got.Priority == 3 &&
		got.CorrelationId == "d" && got.ReplyTo == "e" && got.Expiration == "60000" && got.MessageId == "f" &&
		got.Timestamp.Equal(sent.Timestamp) && got.Type == "g" && got.UserId == "guest" && got.AppId == "h"
	if !same {
		t.Fatalf("%+v", got)
	}
}

func TestATransactionIsAllOrNothing(t *testing.T) {
	channel, other := open(t), open(t)
	queue := declare(t, other, nil)
	must(t, channel.Tx())
	must(t, channel.PublishWithContext(context.Background(), "", queue, false, false, text("undone")))
	must(t, channel.TxRollback())
	must(t, channel.PublishWithContext(context.Background(), "", queue, false, false, text("done")))
	must(t, channel.TxCommit())
	expectBody(t, receive(t, consume(t, other, queue)), "done")
}

func TestAnErrorClosesTheChannelOnly(t *testing.T) {
	connection := dial(t)
	channel, err := connection.Channel()
	must(t, err)
	_, err = channel.QueueDeclarePassive(name(t), true, false, false, false, nil)
	var refusal *amqp.Error
	if !errors.As(err, &refusal) || refusal.Code != 404 {
		t.Fatalf("%v instead of 404", err)
	}
	_, err = connection.Channel()
	must(t, err)
}
