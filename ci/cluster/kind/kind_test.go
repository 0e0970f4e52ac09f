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
	"github.com/stepwright/stepwright/ci/cluster/programs"
)

var update = flag.Bool("update", false, "write the golden files anew")

// recorded makes a cluster whose commands are written down instead of run, each with what it reads. Of what they would
// print there is what the next ones need.
func recorded(t *testing.T, clusters string) (*Cluster, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	dir := t.TempDir()
	charts := filepath.Join(dir, "charts")
	for file, content := range map[string]string{
		"argo/base/crds/full/argoproj.io_workflows.yaml":                           "definition: of Argo\n",
		"argo/base/workflow-controller/kustomization.yaml":                         "resources: [deployment.yaml]\n",
		"argo/base/workflow-controller/deployment.yaml":                            deployment,
		"argo/cluster-install-no-crds/workflow-controller-rbac/role.yaml":          role,
		"argo/cluster-install-no-crds/workflow-controller-rbac/kustomization.yaml": "resources: [role.yaml]\n",
		"external-secrets/crds.yaml":                                               "definition: of External Secrets\n",
		"cert-manager/crds.yaml":                                                   "definition: of cert-manager\n",
	} {
		path := filepath.Join(charts, filepath.FromSlash(file))
		if err := errors.Join(
			os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644),
		); err != nil {
			t.Fatal(err)
		}
	}
	c := &Cluster{
		State: node.State{Dir: filepath.Join(dir, "state")}, Root: "/src/stepwright", Cache: "/cache/stepwright",
		Engine: "docker", Tools: programs.Tools{Kind: "kind", Helm: "helm", Charts: charts},
		Kubernetes: programs.KubernetesVersions[0],
		Go:         Go{"/usr/local/go", "/go/modules", "/go/cache"},
		Say:        func(format string, args ...any) { fmt.Fprintf(&log, "# "+format+"\n", args...) },
	}
	c.Output = func(_ context.Context, command Command) ([]byte, error) {
		line := strings.Join(slices.Concat(command.Env, command.Args), " ")
		write := func(text string) { fmt.Fprintln(&log, strings.ReplaceAll(text, dir, "")) }
		write(line)
		for text := range strings.Lines(string(command.Stdin)) {
			write("    " + strings.TrimSuffix(text, "\n"))
		}
		switch {
		case strings.HasSuffix(line, "get clusters"):
			return []byte(clusters), nil
		case strings.Contains(line, "get kubeconfig"):
			return []byte("kubeconfig"), nil
		case strings.Contains(line, " image inspect "):
			return nil, errors.New("no such image")
		case strings.Contains(line, " network inspect "):
			return []byte("1450\n"), nil
		case strings.Contains(line, " run --rm --network none --entrypoint sh "):
			return []byte("/proc/sys/kernel/panic 0\n"), nil
		case strings.Contains(line, "{{.State.Running}}"):
			return []byte("true\n"), nil
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

const (
	deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: workflow-controller}
spec:
  template:
    spec: {containers: [{name: workflow-controller, image: quay.io/argoproj/workflow-controller, env: []}]}
`
	role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: argo}\n"
)

func TestCommands(t *testing.T) {
	t.Setenv(node.StateVariable, "")
	up := func(ctx context.Context, c *Cluster) error { return c.Up(ctx) }
	for name, run := range map[string]func(context.Context, *Cluster) error{
		"up": up,
		"up-podman-offline": func(ctx context.Context, c *Cluster) error {
			c.Engine = "podman"
			c.Made = &programs.Parts{
				Node: "/made/node.tar", Commands: "/made/commands.tar", Images: []string{"/made/controller.tar"},
				CertManager: filepath.Join(c.Tools.Charts, "cert-manager"),
			}
			return up(ctx, c)
		},
		"down": func(ctx context.Context, c *Cluster) error {
			if err := up(ctx, c); err != nil {
				return err
			}
			c.Say("What follows is down's")
			return c.Down(ctx)
		},
		"restart": func(ctx context.Context, c *Cluster) error { return c.Act(ctx, "openchoreo-api", "restart") },
		"stop":    func(ctx context.Context, c *Cluster) error { return c.Act(ctx, "manager", "stop") },
	} {
		t.Run(name, func(t *testing.T) {
			c, log := recorded(t, "No kind clusters found.\n")
			if strings.HasPrefix(name, "down") {
				output := c.Output
				c.Output = func(ctx context.Context, command Command) ([]byte, error) {
					out, err := output(ctx, command)
					switch line := strings.Join(command.Args, " "); {
					case strings.Contains(line, " ps --all "):
						return []byte("other\nstepwright-inside\nstepwright-registry\nstepwright-control-plane\n"), nil
					case strings.Contains(line, " network ls "):
						return []byte("bridge\nstepwright\nkind\n"), nil
					case strings.Contains(line, " image inspect ") && strings.Contains(log.String(), "down's"):
						return nil, nil
					}
					return out, err
				}
			}
			if err := run(t.Context(), c); err != nil {
				t.Fatalf("%v after\n%s", err, log)
			}
			said := log.String()
			if _, after, ok := strings.Cut(said, "# What follows is down's\n"); ok {
				said = after
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(said), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if said != string(want) {
				t.Errorf("go test -update writes %s anew; it would run\n%s", golden, said)
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
		out, err := output(ctx, command)
		if slices.Contains(command.Args, "clusters") {
			return []byte("other\nstepwright\n"), err
		}
		return out, err
	}
	log.Reset()
	if err := c.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), "create") || strings.Contains(log.String(), "docker start") {
		t.Errorf("it makes another cluster:\n%s", log)
	}
	if !strings.Contains(log.String(), "The cluster is up already") {
		t.Errorf("it does not say that it is up:\n%s", log)
	}
}

// TestUpAfterARestart has an engine that was restarted: of a cluster's containers it starts the node at most, and those
// that share the node's network must be started after it.
func TestUpAfterARestart(t *testing.T) {
	for name, test := range map[string]struct {
		running string // containers
		starts  []string
	}{
		"all stopped":        {"", []string{nodeName, inside, registry, idp, api}},
		"only the node runs": {nodeName, []string{inside, registry, idp, api}},
		"the registry ended": {strings.Join([]string{nodeName, inside}, " "), []string{registry, idp, api}},
	} {
		t.Run(name, func(t *testing.T) {
			c, log := recorded(t, "")
			if err := c.Up(t.Context()); err != nil {
				t.Fatal(err)
			}
			output := c.Output
			var started []string
			c.Output = func(ctx context.Context, command Command) ([]byte, error) {
				switch last := command.Args[len(command.Args)-1]; {
				case last == "clusters":
					return []byte("stepwright\n"), nil
				case slices.Contains(command.Args, "inspect"):
					return fmt.Append(nil, slices.Contains(strings.Fields(test.running), last)), nil
				case command.Args[1] == "start":
					started = append(started, last)
				}
				return output(ctx, command)
			}
			if err := c.Up(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(started, test.starts) {
				t.Errorf("it starts %q, want %q\n%s", started, test.starts, log)
			}
		})
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
		!strings.HasSuffix(log.String(), "go build -o /state/inside/cluster ./ci/cluster\n") {
		t.Errorf("error %v after\n%s", err, log)
	}
	c.Output = func(context.Context, Command) ([]byte, error) { return []byte("stepwright\n"), nil }
	if err := c.Up(t.Context()); err == nil || !strings.Contains(err.Error(), "down removes it") {
		t.Errorf("error %v", err)
	}
}

// TestNodeImage: what is pulled and what is made have the same minor versions of Kubernetes.
func TestNodeImage(t *testing.T) {
	if len(nodeImages) != len(programs.KubernetesVersions) {
		t.Errorf("there are %v and %v", nodeImages, programs.KubernetesVersions)
	}
	for _, version := range programs.KubernetesVersions {
		minor := "v" + programs.Minor(version) + "."
		for engine, want := range map[string]string{
			"docker": "kindest/node:" + minor, "podman": "docker.io/kindest/node@sha256:",
		} {
			c := &Cluster{Engine: engine, Kubernetes: version}
			if image := c.images().node; !strings.HasPrefix(image, want) {
				t.Errorf("image %s, want %s…", image, want)
			}
			c.Made = &programs.Parts{}
			if image := c.images().node; image != "localhost/stepwright/kind-node:"+version {
				t.Errorf("image %s of %s is made", image, version)
			}
		}
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
	c := &Cluster{State: node.State{Dir: "/state"}, Root: "/src", Engine: "podman"}
	t.Setenv(node.StateVariable, "")
	command, end := c.Inside("/src/ci", []string{"git", "version"}, "--tty")
	got := strings.Join(command.Args, " ")
	if !strings.HasPrefix(got, "podman exec --interactive --tty --workdir /src/ci stepwright-inside sh -c ") ||
		!strings.HasSuffix(got, " git version") {
		t.Error(got)
	}
	if got := strings.Join(end.Args, " "); !strings.HasPrefix(got, "podman exec stepwright-inside sh -c kill ") {
		t.Error(got)
	}
	t.Setenv(node.StateVariable, "/state")
	command, end = c.Inside("/src/ci", []string{"git", "version"}, "--tty")
	if got := strings.Join(command.Args, " "); got != "git version" || end.Args != nil {
		t.Error(got, end)
	}
}

func TestEngine(t *testing.T) {
	const docker, podman = "Docker version 28", "podman version 5"
	for name, test := range map[string]struct {
		variable string
		answers  map[string]string // of these programs, to --version; those without a daemon end with "-"
		want     string
		fault    string
	}{
		"docker":                {"", map[string]string{"docker": docker, "podman": podman}, "docker", ""},
		"docker's client":       {"", map[string]string{"docker": docker + "-", "podman": podman}, "podman", ""},
		"docker is podman":      {"", map[string]string{"docker": podman, "podman": podman}, "podman", ""},
		"nerdctl":               {"", map[string]string{"nerdctl": "nerdctl version 2"}, "nerdctl", ""},
		"podman is chosen":      {"podman", map[string]string{"docker": docker}, "podman", ""},
		"none":                  {"", nil, "", "no engine for containers answers"},
		"one that kind has not": {"lxc", nil, "", "kind knows docker, nerdctl"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(EngineVariable, test.variable)
			got, err := Engine(t.Context(), func(_ context.Context, command Command) ([]byte, error) {
				version, there := test.answers[command.Args[0]]
				if !there || command.Args[1] == "info" && strings.HasSuffix(version, "-") {
					return nil, errors.New("it does not answer")
				}
				return []byte(version), nil
			})
			if got != test.want || (err == nil) != (test.fault == "") ||
				err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Errorf("%q, error %v", got, err)
			}
		})
	}
}
