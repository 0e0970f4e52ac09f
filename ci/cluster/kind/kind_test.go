package kind

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/ci/cluster/node"
)

var update = flag.Bool("update", false, "write the golden files anew")

// recorded makes a cluster whose commands are written down instead of run, each with what it reads. Of what they would
// print there is what the next ones need.
func recorded(t *testing.T, clusters string) (*Cluster, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	dir := t.TempDir()
	c := &Cluster{State: node.State{Dir: dir}, Root: "/src/stepwright", Cache: "/cache/stepwright",
		Say: func(format string, args ...any) {
			fmt.Fprintf(&log, "# "+format+"\n", args...)
		}}
	c.Output = func(_ context.Context, command Command) ([]byte, error) {
		line := strings.Join(slices.Concat(command.Env, command.Args), " ")
		fmt.Fprintln(&log, strings.ReplaceAll(line, dir, "/state"))
		for text := range strings.Lines(string(command.Stdin)) {
			fmt.Fprintln(&log, "   ", strings.TrimSuffix(text, "\n"))
		}
		switch {
		case strings.HasSuffix(line, "get clusters"):
			return []byte(clusters), nil
		case strings.Contains(line, "get kubeconfig"):
			return []byte("kubeconfig"), nil
		case strings.HasPrefix(line, "docker inspect"):
			return []byte("172.18.0.2\n"), nil
		case strings.Contains(line, "jsonpath={.data.ca"):
			return []byte(
				base64.StdEncoding.EncodeToString(
					[]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"),
				),
			), nil
		}
		return nil, nil
	}
	return c, &log
}

func TestCommands(t *testing.T) {
	t.Setenv(node.StateVariable, "")
	for name, run := range map[string]func(context.Context, *Cluster) error{
		"up":      func(ctx context.Context, c *Cluster) error { return c.Up(ctx) },
		"down":    func(ctx context.Context, c *Cluster) error { return c.Down(ctx) },
		"restart": func(ctx context.Context, c *Cluster) error { return c.Act(ctx, "openchoreo-api", "restart") },
		"stop":    func(ctx context.Context, c *Cluster) error { return c.Act(ctx, "manager", "stop") },
	} {
		t.Run(name, func(t *testing.T) {
			c, log := recorded(t, "No kind clusters found.\n")
			if err := run(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, log.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if log.String() != string(want) {
				t.Errorf("go test -update writes %s anew; it would run\n%s", golden, log)
			}
		})
	}
}

func TestUpIsRepeated(t *testing.T) {
	c, log := recorded(t, "other\n")
	if err := c.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	output := c.Output
	c.Output = func(ctx context.Context, command Command) ([]byte, error) {
		_, err := output(ctx, command)
		return []byte("other\nstepwright\n"), err
	}
	log.Reset()
	if err := c.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), "create") {
		t.Errorf("it makes another cluster:\n%s", log)
	}
}

// TestUpFailed makes a command fail: nothing is done after it, and the remains are no cluster until they are removed.
func TestUpFailed(t *testing.T) {
	c, log := recorded(t, "")
	output := c.Output
	failure := errors.New("no space left on device")
	c.Output = func(ctx context.Context, command Command) ([]byte, error) {
		if out, err := output(ctx, command); !slices.Contains(command.Args, "build") {
			return out, err
		}
		return nil, failure
	}
	if err := c.Up(t.Context()); !errors.Is(err, failure) ||
		!strings.HasSuffix(log.String(), "go build -o /state/bin/cluster ./ci/cluster\n") {
		t.Errorf("error %v after\n%s", err, log)
	}
	c.Output = func(context.Context, Command) ([]byte, error) { return []byte("stepwright\n"), nil }
	if err := c.Up(t.Context()); err == nil || !strings.Contains(err.Error(), "down removes it") {
		t.Errorf("error %v", err)
	}
}

func TestActOnWhatThereIsNot(t *testing.T) {
	c, log := recorded(t, "")
	if err := c.Act(t.Context(), "etcd", "stop"); err == nil || log.Len() > 0 {
		t.Errorf("error %v after\n%s", err, log)
	}
}

// TestInside has commands run as they are when they are inside already, as those of the tests are.
func TestInside(t *testing.T) {
	c := &Cluster{State: node.State{Dir: "/state"}, Root: "/src"}
	t.Setenv(node.StateVariable, "")
	if got := strings.Join(c.Inside("/src/ci", []string{
		"git", "version",
	}, "--tty").Args, " "); got != "docker exec --interactive --tty --workdir /src/ci stepwright-inside git version" {
		t.Error(got)
	}
	t.Setenv(node.StateVariable, "/state")
	if got := strings.Join(c.Inside("/src/ci", []string{"git", "version"}, "--tty").Args, " "); got != "git version" {
		t.Error(got)
	}
}
