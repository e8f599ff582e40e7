// amqp091-go against the broker. What every test needs: a connection, a channel, names of its own, a deadline.
package compat

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const patience = 30 * time.Second

var url = os.Getenv("BROKER_URL")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T) *amqp.Connection {
	t.Helper()
	connection, err := amqp.Dial(url)
	must(t, err)
	t.Cleanup(func() { connection.Close() })
	return connection
}

func open(t *testing.T) *amqp.Channel {
	t.Helper()
	channel, err := dial(t).Channel()
	must(t, err)
	return channel
}

// A durable queue that goes away with the test.
func declare(t *testing.T, channel *amqp.Channel, arguments amqp.Table) string {
	t.Helper()
	return declareNamed(t, channel, name(t), arguments)
}

func declareNamed(t *testing.T, channel *amqp.Channel, name string, arguments amqp.Table) string {
	t.Helper()
	queue, err := channel.QueueDeclare(name, true, false, false, false, arguments)
	must(t, err)
	t.Cleanup(func() {
		connection, err := amqp.Dial(url)
		if err != nil {
			return
		}
		defer connection.Close()
		if other, err := connection.Channel(); err == nil {
			other.QueueDelete(queue.Name, false, false, false)
		}
	})
	return queue.Name
}

func name(t *testing.T) string {
	return fmt.Sprintf("go-%s-%d", t.Name(), time.Now().UnixNano())
}

// Publishes and waits for the confirm, so that what follows sees the message.
func put(t *testing.T, channel *amqp.Channel, queue string, message amqp.Publishing) {
	t.Helper()
	must(t, channel.Confirm(false))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	confirm, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, false, false, message)
	must(t, err)
	acked, err := confirm.WaitContext(ctx)
	must(t, err)
	if !acked {
		t.Fatal("the broker refused the message")
	}
}

func text(body string) amqp.Publishing {
	return amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)}
}

func consume(t *testing.T, channel *amqp.Channel, queue string) <-chan amqp.Delivery {
	t.Helper()
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	must(t, err)
	return deliveries
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case value, open := <-from:
		if !open {
			t.Fatal("closed instead")
		}
		return value
	case <-time.After(patience):
		t.Fatal("nothing came in time")
	}
	panic("not reached")
}

func expectBody(t *testing.T, delivery amqp.Delivery, body string) {
	t.Helper()
	if string(delivery.Body) != body {
		t.Fatalf("%q instead of %q", delivery.Body, body)
	}
}

// Asks the stage to do something to the node this client talks to, and waits until it is done.
func control(t *testing.T, command string) {
	t.Helper()
	address := os.Getenv("BROKER_CONTROL")
	if address == "" {
		t.Skip("a broker that cannot be restarted from here")
	}
	stream, err := net.Dial("tcp", address)
	must(t, err)
	defer stream.Close()
	fmt.Fprintln(stream, command)
	answer, err := bufio.NewReader(stream).ReadString('\n')
	must(t, err)
	if strings.TrimSpace(answer) != "ok" {
		t.Fatalf("%s: %s", command, answer)
	}
}
