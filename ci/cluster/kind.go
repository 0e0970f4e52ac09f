package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/stepwright/stepwright/ci/cluster/kind"
	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/ci/cluster/programs"
	"github.com/stepwright/stepwright/internal/cachedir"
)

// kindProvider has the cluster in an engine for containers.
type kindProvider struct {
	state     *node.State
	say       func(format string, args ...any)
	source    string
	buildOnly bool
	how       how
}

// how a cluster is made: what up has found out about the machine, and others need to know.
type how struct {
	Engine string // program that runs containers
	Made   bool   // images are made here, for there is no network
	// Version that was chosen.
	Kubernetes string
	// The engine is in namespaces of the cluster's own, with all that it has: nothing of it is the machine's.
	Private bool
}

// offlineVariable says whether there is a network to pull images from; when it is not set, registries are asked.
const offlineVariable = "OFFLINE"

func newKind(state *node.State, p *progress) (Provider, error) {
	return &kindProvider{state: state, say: p.say}, nil
}

// Extend implements Provider.
func (k *kindProvider) Extend(root, up *cobra.Command) {
	up.Long += `

The engine is docker, nerdctl, finch or podman, the first of them that answers, or the one that ` +
		kind.EngineVariable + ` names.
Images are pulled. Where no registry answers, or ` + offlineVariable + `=true, they are made from Go modules and Debian
packages, on Linux; root's podman then runs in namespaces of the cluster's own.`
	up.Flags().StringVar(&k.source, "source", ".", "root of the project")
	up.Flags().BoolVar(&k.buildOnly, "build-only", false, "make what is made here, and start nothing")
	k.extend(root)
}

// Up implements Provider.
func (k *kindProvider) Up(ctx context.Context) error {
	if err := tools("kind", "go"); err != nil {
		return err
	}
	there, err := k.recall()
	if err != nil {
		return err
	}
	if !there {
		if err := k.findOut(ctx); err != nil {
			return err
		}
	}
	cluster, err := k.cluster()
	if err != nil {
		return err
	}
	if err := k.build(ctx, cluster); err != nil || k.buildOnly {
		return err
	}
	unlock, err := k.state.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if !there {
		if err := k.write(); err != nil {
			return err
		}
	}
	if k.how.Private {
		if err := k.startNamespaces(ctx, cluster.Made.Runc); err != nil {
			return err
		}
	}
	if err := cluster.Up(ctx); err != nil {
		return fmt.Errorf("%w\nwhat there is of the cluster is left to look at; down removes it", err)
	}
	k.say(isUp)
	return nil
}

// findOut decides how a new cluster is made.
func (k *kindProvider) findOut(ctx context.Context) error {
	engine, err := kind.Engine(ctx, k.output)
	if err != nil {
		return err
	}
	made, err := offline(ctx)
	if err != nil {
		return err
	}
	if made && runtime.GOOS != "linux" {
		return errors.New(
			"no registry answers, and images are made on Linux only; " + offlineVariable + "=false tries nevertheless",
		)
	}
	kubernetes, err := programs.Kubernetes()
	if err != nil {
		return err
	}
	k.how = how{
		Engine: engine, Made: made, Kubernetes: kubernetes, Private: made && engine == "podman" && os.Geteuid() == 0,
	}
	return nil
}

// offline tells whether there is no network to pull images from.
func offline(ctx context.Context) (bool, error) {
	if value := os.Getenv(offlineVariable); value != "" {
		offline, err := strconv.ParseBool(value)
		if err != nil {
			return false, fmt.Errorf("%s=%s: it is true or false", offlineVariable, value)
		}
		return offline, nil
	}
	client := http.Client{Timeout: 10 * time.Second}
	for _, registry := range []string{"registry-1.docker.io", "ghcr.io"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+registry+"/v2/", nil)
		if err != nil {
			return false, err
		}
		response, err := client.Do(request)
		if err != nil {
			return true, ctx.Err()
		}
		response.Body.Close()
		// A registry asks for a token.
		if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusUnauthorized {
			return true, nil
		}
	}
	return false, nil
}

// build builds and makes what the cluster is installed with and from.
func (k *kindProvider) build(ctx context.Context, cluster *kind.Cluster) error {
	dir, err := programs.DefaultDir()
	if err != nil {
		return err
	}
	builder := programs.Builder{Source: k.source, Dir: dir, Log: k.say}
	if cluster.Tools, err = builder.BuildTools(ctx); err != nil {
		return err
	}
	if k.how.Made {
		if err := tools("kind", "gcc", "mmdebstrap"); err != nil {
			return err
		}
		parts, err := builder.BuildParts(ctx)
		if err != nil {
			return err
		}
		cluster.Made = &parts
	}
	cluster.Go, err = goFor(ctx, k.output)
	return err
}

// goFor is this machine's Go, or where it is for another system, the same for Linux.
func goFor(ctx context.Context, output func(context.Context, kind.Command) ([]byte, error)) (kind.Go, error) {
	env, err := output(ctx, kind.Command{
		Args: []string{"go", "env", "-json", "GOROOT", "GOMODCACHE", "GOCACHE", "GOVERSION", "GOARCH"}, Here: true,
	})
	if err != nil {
		return kind.Go{}, err
	}
	var here struct{ GOROOT, GOMODCACHE, GOCACHE, GOVERSION, GOARCH string }
	if err := json.Unmarshal(env, &here); err != nil {
		return kind.Go{}, err
	}
	if runtime.GOOS == "linux" {
		return kind.Go{Root: here.GOROOT, Modules: here.GOMODCACHE, Cache: here.GOCACHE}, nil
	}
	module := "golang.org/toolchain@v0.0.1-" + here.GOVERSION + ".linux-" + here.GOARCH
	downloaded, err := output(ctx, kind.Command{Args: []string{"go", "mod", "download", "-json", module}, Here: true})
	if err != nil {
		return kind.Go{}, err
	}
	var toolchain struct{ Dir string }
	if err := json.Unmarshal(downloaded, &toolchain); err != nil {
		return kind.Go{}, err
	}
	return kind.Go{Root: toolchain.Dir, Modules: here.GOMODCACHE}, nil
}

// Down implements Provider.
func (k *kindProvider) Down(ctx context.Context) error {
	there, err := k.recall()
	if err != nil {
		return err
	}
	if k.how.Private {
		return k.endNamespaces()
	}
	if !there {
		// Without an engine there is nothing of a cluster. With one there may be, of another user.
		engine, err := kind.Engine(ctx, k.output)
		if err != nil {
			return os.RemoveAll(k.state.Dir)
		}
		k.how.Engine = engine
	}
	cluster, err := k.cluster()
	if err != nil {
		return err
	}
	dir, err := programs.DefaultDir()
	if err != nil {
		return err
	}
	if cluster.Tools, err = (programs.Builder{Source: ".", Dir: dir, Log: k.say}).BuildTools(ctx); err != nil {
		return err
	}
	if k.how.Made {
		cluster.Made = &programs.Parts{}
	}
	return cluster.Down(ctx)
}

// Exec implements Provider. The command runs in the network of the cluster's node.
func (k *kindProvider) Exec(ctx context.Context, args ...string) error {
	cluster, err := k.running()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	terminal := term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
	var options []string
	if terminal {
		options = append(options, "--tty")
	}
	command, end := cluster.Inside(dir, args, options...)
	cmd := k.placed(command).Cmd(ctx)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if end.Args != nil {
		if !terminal {
			ownGroup(cmd) // an interrupt would end the engine's client, and the command go on
		}
		cmd.Cancel = func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_, err := k.output(ctx, end)
			return err
		}
	}
	cmd.WaitDelay = time.Minute
	return cmd.Run()
}

// Act implements Provider. The parts are of OpenChoreo's control plane.
func (k *kindProvider) Act(ctx context.Context, part, action string) error {
	cluster, err := k.running()
	if err != nil {
		return err
	}
	return cluster.Act(ctx, part, action)
}

// Logs implements Provider.
func (k *kindProvider) Logs(ctx context.Context, dir string) error {
	there, err := k.recall()
	if err != nil || !there {
		return err
	}
	cluster, err := k.cluster()
	if err != nil {
		return err
	}
	programsDir, err := programs.DefaultDir()
	if err != nil {
		return err
	}
	builder := programs.Builder{Source: ".", Dir: programsDir, Log: k.say}
	if cluster.Tools, err = builder.BuildTools(ctx); err != nil {
		return err
	}
	return cluster.Logs(ctx, dir)
}

// running is the cluster that is up, or the one that this process is in.
func (k *kindProvider) running() (*kind.Cluster, error) {
	if !inside() {
		there, err := k.recall()
		if err != nil {
			return nil, err
		}
		if !there {
			return nil, fmt.Errorf("no cluster is up in %s: run make cluster-up CLUSTER=kind", k.state.Dir)
		}
	}
	return k.cluster()
}

// recall reads how the cluster was made that is there.
func (k *kindProvider) recall() (there bool, err error) {
	content, err := os.ReadFile(k.state.Path("how.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(content, &k.how); err != nil {
		return false, fmt.Errorf("%s: %w", k.state.Path("how.json"), err)
	}
	return true, k.adopt()
}

// write keeps how the cluster is made.
func (k *kindProvider) write() error {
	content, err := json.MarshalIndent(k.how, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(k.state.Dir, 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(k.state.Path("how.json"), content, 0o644), k.adopt())
}

// adopt has this process and those that it starts use the cluster's own engine, if it has one.
func (k *kindProvider) adopt() error {
	if !k.how.Private {
		return nil
	}
	return os.Setenv("CONTAINERS_CONF", k.state.Path("containers.conf"))
}

// placed is a command where the engine is.
func (k *kindProvider) placed(command kind.Command) kind.Command {
	if k.how.Private && !command.Here && !inside() {
		command.Args = append([]string{k.state.Program(), "--state", k.state.Dir, "within"}, command.Args...)
	}
	return command
}

func (k *kindProvider) cluster() (*kind.Cluster, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	cache, err := cachedir.Path()
	if err != nil {
		return nil, err
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return nil, err
	}
	// An engine would make it as root.
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	return &kind.Cluster{
		State: *k.state, Root: root, Cache: cache, Engine: k.how.Engine, Kubernetes: k.how.Kubernetes,
		Output: k.output, Say: k.say,
	}, nil
}

// output runs a command. Its standard error is shown only when it fails.
func (k *kindProvider) output(ctx context.Context, command kind.Command) ([]byte, error) {
	cmd := k.placed(command).Cmd(ctx)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		// It does not wrap the error: this program exits silently, and as it did, only for a command that a person ran
		// inside.
		return nil, fmt.Errorf("%s: %v\n%s%s", strings.Join(command.Args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}
