// Asks KEDA's RabbitMQ scaler, of the module this file is put into, what it makes of queues on localhost, and compares.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	v2 "k8s.io/api/autoscaling/v2"

	"github.com/kedacore/keda/v2/pkg/scalers"
	"github.com/kedacore/keda/v2/pkg/scalers/scalersconfig"
)

const (
	overAMQP = "amqp://guest:guest@localhost:5672/"
	overHTTP = "http://guest:guest@localhost:15672"
	pause    = 20 * time.Millisecond
)

var failed, passed int

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// value gives the metric of one trigger, in units, and whether it is active.
func value(trigger map[string]string) (float64, bool, error) {
	config := &scalersconfig.ScalerConfig{
		TriggerMetadata:   trigger,
		AuthParams:        map[string]string{},
		ResolvedEnv:       map[string]string{},
		GlobalHTTPTimeout: 5 * time.Second,
		MetricType:        v2.AverageValueMetricType,
	}
	scaler, err := scalers.NewRabbitMQScaler(config)
	if err != nil {
		return 0, false, err
	}
	defer scaler.Close(context.Background())
	metrics, active, err := scaler.GetMetricsAndActivity(context.Background(), "metric")
	if err != nil {
		return 0, false, err
	}
	return metrics[0].Value.AsApproximateFloat64(), active, nil
}

// check takes pairs of keys and values.
func check(name string, good func(float64, bool, error) bool, pairs ...string) {
	trigger := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		trigger[pairs[i]] = pairs[i+1]
	}
	if metric, active, err := value(trigger); good(metric, active, err) {
		passed++
	} else {
		failed++
		fmt.Printf("FAILED %s: %v %v %v\n", name, metric, active, err)
	}
}

func is(want float64) func(float64, bool, error) bool {
	return func(metric float64, active bool, err error) bool {
		return err == nil && metric == want && active == (want > 0)
	}
}

func refused(_ float64, _ bool, err error) bool { return err != nil }

func main() {
	connection, err := amqp.Dial(overAMQP)
	must(err)
	channel, err := connection.Channel()
	must(err)
	for queue, count := range map[string]int{"jobs.a": 4, "jobs.b": 2, "other": 7, "none": 0, "busy": 0} {
		_, err = channel.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
		must(err)
		for range count {
			confirmed(channel, queue)
		}
	}
	_, ok, err := channel.Get("jobs.a", false)
	must(err)
	if !ok {
		panic("no message")
	}
	time.Sleep(6 * time.Second) // The API's figures may be that old.

	length := []string{"mode", "QueueLength", "value", "1"}
	with := func(pairs ...string) []string { return append(pairs, length...) }
	// Over AMQP it is told what is ready.
	hosts := map[string]float64{overHTTP: 4, overHTTP + "/": 4, overHTTP + "/%2F": 4, overAMQP: 3, overAMQP + "%2f": 3}
	for host, count := range hosts {
		check(host, is(count), with("host", host, "queueName", "jobs.a")...)
		check(host+" empty", is(0), with("host", host, "queueName", "none")...)
		check(host+" not there", refused, with("host", host, "queueName", "nothing")...)
		check(host+" other vhost", refused, with("host", host, "queueName", "jobs.a", "vhostName", "nowhere")...)
	}
	check("ready only", is(3), with("host", overHTTP, "queueName", "jobs.a", "excludeUnacknowledged", "true")...)
	for operation, want := range map[string]float64{"sum": 6, "avg": 3, "max": 4} {
		check(operation, is(want), with("host", overHTTP, "queueName", `^jobs\.[ab]$`, "useRegex", "true", "operation", operation)...)
	}
	check("no match", is(0), with("host", overHTTP, "queueName", "^nothing$", "useRegex", "true")...)
	check("more than a page", refused, with("host", overHTTP, "queueName", "^jobs", "useRegex", "true", "pageSize", "1")...)

	end := time.Now().Add(12 * time.Second)
	for time.Now().Before(end) {
		confirmed(channel, "busy")
		_, _, err = channel.Get("busy", true)
		must(err)
		time.Sleep(pause)
	}
	rate := func(metric float64, active bool, err error) bool {
		return err == nil && active && metric > 5 && metric < 60
	}
	check("message rate", rate, "host", overHTTP, "queueName", "busy", "mode", "MessageRate", "value", "1")
	check("deliver rate", rate, "host", overHTTP, "queueName", "busy", "mode", "DeliverGetRate", "value", "1")
	check("ratio", func(metric float64, active bool, err error) bool {
		return err == nil && active && metric > 0.5 && metric < 2
	}, "host", overHTTP, "queueName", "busy", "mode", "PublishedToDeliveredRatio", "value", "1")
	check("time to consume", func(metric float64, _ bool, err error) bool {
		return err == nil && metric < 1
	}, "host", overHTTP, "queueName", "busy", "mode", "ExpectedQueueConsumptionTime", "value", "1")
	must(connection.Close())
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func confirmed(channel *amqp.Channel, queue string) {
	must(channel.Confirm(false))
	confirmation, err := channel.PublishWithDeferredConfirmWithContext(context.Background(), "", queue, false, false, amqp.Publishing{Body: []byte("job")})
	must(err)
	if !confirmation.Wait() {
		panic("not confirmed")
	}
}
