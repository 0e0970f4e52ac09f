package main

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// TestForward stops and starts what is forwarded to: callers are connected, refused and connected.
func TestForward(t *testing.T) {
	// The addresses are free after this.
	free := func() string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		return listener.Addr().String()
	}
	here, there := free(), free()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- forward(ctx, here, there) }()

	answer := func() (stop func()) {
		listener, err := net.Listen("tcp", there)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				io.WriteString(connection, "answer")
				connection.Close()
			}
		}()
		return func() { listener.Close() }
	}
	call := func() (string, error) {
		connection, err := net.Dial("tcp", here)
		if err != nil {
			return "", err
		}
		defer connection.Close()
		said, err := io.ReadAll(connection)
		return string(said), err
	}
	within := func(what string, so func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !so(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within 10 s", what)
			}
		}
	}
	answered := func() bool { said, err := call(); return said == "answer" && err == nil }
	refused := func() bool { _, err := call(); return errors.Is(err, syscall.ECONNREFUSED) }
	within("nobody is there", refused)
	for range 2 {
		end := answer()
		within("somebody is there", answered)
		end()
		within("nobody is there any more", refused)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if _, err := call(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after its end a call gets %v", err)
	}
}
