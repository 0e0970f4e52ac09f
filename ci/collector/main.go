// Command collector receives spans as the OpenTelemetry Collector does, by its own receiver, and writes each request as
// a line of JSON: the header authorization that it came with, and the spans in OTLP's JSON. It prints "ready" first.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

// received is a line of the output.
type received struct {
	Authorization string          `json:"authorization"`
	Traces        json.RawMessage `json:"traces"`
}

func main() {
	address := flag.String("address", "127.0.0.1:4318", "to listen on for OTLP over HTTP")
	certificate := flag.String("certificate", "", "PEM file; empty: plain HTTP")
	key := flag.String("key", "", "PEM file of its key")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *address, *certificate, *key); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, address, certificate, key string) error {
	http := map[string]any{"endpoint": address, "include_metadata": true}
	if certificate != "" {
		http["tls"] = map[string]any{"cert_file": certificate, "key_file": key}
	}
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	settings := confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{"http": http}})
	if err := settings.Unmarshal(config); err != nil {
		return err
	}
	var mu sync.Mutex
	write, err := consumer.NewTraces(func(ctx context.Context, traces ptrace.Traces) error {
		raw, err := (&ptrace.JSONMarshaler{}).MarshalTraces(traces)
		if err != nil {
			return err
		}
		from := client.FromContext(ctx).Metadata.Get("authorization")
		mu.Lock()
		defer mu.Unlock()
		return json.NewEncoder(os.Stdout).Encode(received{strings.Join(from, ","), raw})
	})
	if err != nil {
		return err
	}
	traces, err := factory.CreateTraces(ctx, receiver.Settings{
		ID: component.NewID(factory.Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings(),
	}, config, write)
	if err != nil {
		return err
	}
	if err := traces.Start(ctx, componenttest.NewNopHost()); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return traces.Shutdown(context.Background())
}
