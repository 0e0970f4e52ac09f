// Greeting-service greets people over HTTP.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is set by the build.
var version = "dev"

// shutdownTime is how long requests may take that are under way when the service is told to stop.
const shutdownTime = 10 * time.Second

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv, log); err != nil {
		log.Error("stopped", "error", err)
		os.Exit(1)
	}
}

// run serves until the context ends, and then until the requests under way are answered.
func run(ctx context.Context, getenv func(string) string, log *slog.Logger) error {
	config, err := readConfig(getenv)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", config.address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           newHandler(config.greeter, log),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	log.Info("serving", "address", listener.Addr().String(), "version", version)

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Info("stopping")
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	if err := server.Shutdown(deadline); err != nil {
		return fmt.Errorf("requests still under way: %w", err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type config struct {
	address string
	greeter *greeter
}

// readConfig reads the environment, and the template of the greeting from the file GREETING_TEMPLATE names.
func readConfig(getenv func(string) string) (config, error) {
	get := func(name, otherwise string) string {
		if value := getenv(name); value != "" {
			return value
		}
		return otherwise
	}
	text := defaultTemplate
	if file := getenv("GREETING_TEMPLATE"); file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return config{}, fmt.Errorf("GREETING_TEMPLATE: %w", err)
		}
		text = string(content)
	}
	greeter, err := newGreeter(get("GREETING", "Hello"), text)
	if err != nil {
		return config{}, err
	}
	return config{address: get("ADDRESS", ":8080"), greeter: greeter}, nil
}
