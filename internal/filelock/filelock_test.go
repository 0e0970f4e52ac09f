package filelock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// holderVariable has this test's program hold a lock on a path until it is killed.
const holderVariable = "STEPWRIGHT_TEST_HOLDS"

func TestMain(m *testing.M) {
	path := os.Getenv(holderVariable)
	if path == "" {
		os.Exit(m.Run())
	}
	if _, err := Try(path); err != nil {
		panic(err)
	}
	os.Stdout.WriteString("held\n")
	io.Copy(io.Discard, os.Stdin)
}

// patience is how long a test waits for what happens at once.
const patience = 30 * time.Second

func try(_ context.Context, path string) (func(), error) { return Try(path) }

func TestWhoMayHoldIt(t *testing.T) {
	type taking = func(ctx context.Context, path string) (func(), error)
	tests := []struct {
		name          string
		first, second taking
		want          bool
	}{
		{"exclusive, exclusive", Exclusive, Exclusive, false},
		{"exclusive, shared", Exclusive, Shared, false},
		{"shared, exclusive", Shared, Exclusive, false},
		{"shared, shared", Shared, Shared, true},
		{"tried, exclusive", try, Exclusive, false},
		{"tried, tried", try, try, false},
		{"shared, tried", Shared, try, false},
	}
	for _, test := range tests {
		for place, path := range map[string]string{
			"a file": filepath.Join(t.TempDir(), "made", "lock"), "a folder": t.TempDir(),
		} {
			t.Run(test.name+", on "+place, func(t *testing.T) {
				unlock, err := test.first(t.Context(), path)
				if err != nil {
					t.Fatal(err)
				}
				// It is a try: what waits gives up after the first look.
				done := errors.New("enough")
				ctx, cancel := context.WithCancelCause(t.Context())
				cancel(done)
				again, err := test.second(ctx, path)
				held, isHeld := errors.AsType[*HeldError](err)
				switch {
				case test.want && err != nil:
					t.Errorf("error %v", err)
				case !test.want && !isHeld && !errors.Is(err, done):
					t.Errorf("error %v; both hold it", err)
				case isHeld && held.Path != path:
					t.Errorf("it is %s that is held", held.Path)
				}
				if err == nil {
					again()
				}
				unlock()
				if again, err = test.second(t.Context(), path); err != nil {
					t.Fatalf("after the first: %v", err)
				}
				again()
			})
		}
	}
}

func TestWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Exclusive(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Exclusive(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v, and it did not wait", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan error, 1)
	go func() {
		again, err := Exclusive(ctx, path)
		if err == nil {
			again()
		}
		got <- err
	}()
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// TestKilled has another process hold the lock and kills it.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holderVariable+"="+path)
	holder.Stderr = os.Stderr
	if _, err := holder.StdinPipe(); err != nil { // it stays open
		t.Fatal(err)
	}
	said, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Wait()
	defer holder.Process.Kill()
	if line, err := bufio.NewReader(said).ReadString('\n'); line != "held\n" {
		t.Fatalf("it said %q: %v", line, err)
	}
	if _, err := Try(path); err == nil {
		t.Fatal("two processes hold it")
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	unlock, err := Exclusive(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestClaim has one wait for another, which is named, and for one that does not say who it is.
func TestClaim(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	silent := func(string) { t.Error("it waits for a lock that is free") }
	for _, test := range []struct {
		name string
		take func(path string) (func(), error)
		want string
	}{
		{"by Claim", func(path string) (func(), error) { return Claim(t.Context(), path, silent) },
			fmt.Sprintf("process %d on %s", os.Getpid(), host)},
		{"otherwise", Try, "another process"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lock")
			unlock, err := test.take(path)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			said, got := make(chan string, 1), make(chan error, 1)
			go func() {
				again, err := Claim(ctx, path, func(holder string) { said <- holder })
				if err == nil {
					again()
				}
				got <- err
			}()
			if holder := <-said; holder != test.want {
				t.Errorf("it waits for %q, want %q", holder, test.want)
			}
			select {
			case err := <-got:
				t.Fatalf("it did not wait: %v", err)
			default:
			}
			unlock()
			if err := <-got; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNoSuchPlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Exclusive(t.Context(), filepath.Join(file, "lock"))
	if _, held := errors.AsType[*HeldError](err); err == nil || held {
		t.Errorf("error %v", err)
	}
}
