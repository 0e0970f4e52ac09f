// Package kind is the cluster by other means: a node of kind, with images from public registries, for machines with
// Docker and a network. What runs inside finds the names and addresses that it finds in the namespaces of package node.
//
// It needs Docker and Go. kind and helm are run from their Go modules, kubectl is the node's own.
package kind

import (
	"bytes"
	"context"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/ci/cluster/plane"
	"github.com/stepwright/stepwright/internal/cachedir"
)

// Downloads. OpenChoreo's own installer, of that version, names the versions of its dependencies.
const (
	kindModule = "sigs.k8s.io/kind@v0.33.0"
	helmModule = "helm.sh/helm/v3/cmd/helm@v3.22.0"
	// of that kind's release
	nodeImage       = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
	registryImage   = "docker.io/library/registry:3.0.0"
	argo            = "https://github.com/argoproj/argo-workflows/releases/download/v4.0.7/install.yaml"
	certManager     = "v1.19.4"
	externalSecrets = "2.0.1"
	openChoreo      = "1.2.0"
)

// Names of what Docker has of a cluster.
const (
	name     = "stepwright"
	nodeName = name + "-control-plane" // kind's name for it
	inside   = name + "-inside"        // container in the node's network, for commands; and its image
	registry = name + "-registry"
	idp      = name + "-idp"
)

const (
	controlPlane  = "openchoreo-control-plane"
	workflowPlane = "openchoreo-workflow-plane"
	gatewayCA     = "cluster-gateway-ca" // Secret and ConfigMaps of OpenChoreo's charts
)

//go:embed manifests
var manifests embed.FS

// A Command is a program with its arguments, and what it reads.
type Command struct {
	Args  []string
	Stdin []byte
	Env   []string // besides this process's
}

// Cmd is the command, yet to be run.
func (c Command) Cmd(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	if c.Stdin != nil {
		cmd.Stdin = bytes.NewReader(c.Stdin)
	}
	return cmd
}

// A Cluster is in Docker, under names of its own: there is one on a machine.
type Cluster struct {
	State node.State // credentials, and this program for the containers
	Root  string     // of the project; containers have it under the same path
	Cache string     // what the project's programs keep between runs; likewise
	// Output runs a command and returns what it printed.
	Output func(context.Context, Command) ([]byte, error)
	Say    func(format string, args ...any)
}

// Up returns when all of the cluster is ready. What it leaves when it fails is for Down.
func (c *Cluster) Up(ctx context.Context) error {
	there, err := c.Output(ctx, goRun(kindModule, "get", "clusters"))
	if err != nil {
		return err
	}
	complete := c.State.Path("up")
	if slices.Contains(strings.Fields(string(there)), name) {
		if _, err := os.Stat(complete); err != nil {
			return errors.New("what an earlier start has left is there; down removes it")
		}
		c.Say("The cluster is up already")
		return nil
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"Making the node", c.startNode},
		{"Starting the registry, the identity provider and a container for commands", c.startServices},
		{"Installing Argo Workflows", c.startArgo},
		{"Installing cert-manager and External Secrets", c.startPrerequisites},
		{"Installing OpenChoreo", c.startOpenChoreo},
	} {
		c.Say("%s", step.what)
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	return os.WriteFile(complete, nil, 0o644)
}

// Down removes all that Docker has of the cluster, and the folder. It may be repeated.
func (c *Cluster) Down(ctx context.Context) error {
	_, containers := c.Output(ctx, Command{
		Args: []string{"docker", "rm", "--force", "--volumes", inside, registry, idp},
	})
	return errors.Join(
		containers, c.kind(ctx, nil, "delete", "cluster", "--name", name, "--kubeconfig", c.State.Kubeconfig("host")),
		os.RemoveAll(c.State.Dir),
	)
}

// startNode makes the node and says where its containerd finds the registry.
func (c *Cluster) startNode(ctx context.Context) error {
	for _, dir := range []string{"bin", "kubeconfig"} {
		if err := os.MkdirAll(c.State.Path(dir), 0o755); err != nil {
			return err
		}
	}
	config, err := render("kind.yaml", map[string]string{"Image": nodeImage, "Services": node.Services})
	if err != nil {
		return err
	}
	if err := c.kind(
		ctx, config, "create", "cluster", "--name", name, "--config", "-", "--kubeconfig", c.State.Kubeconfig("host"),
		"--wait", "5m",
	); err != nil {
		return err
	}
	kubeconfig, err := c.Output(ctx, goRun(kindModule, "get", "kubeconfig", "--name", name, "--internal"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.State.Kubeconfig("admin"), kubeconfig, 0o600); err != nil {
		return err
	}
	hosts, err := render("hosts.toml", nil)
	if err != nil {
		return err
	}
	certs := "/etc/containerd/certs.d/" + node.Registry
	return c.all(ctx,
		Command{Args: []string{"docker", "exec", nodeName, "mkdir", "-p", certs}},
		Command{Args: []string{"docker", "exec", "--interactive", nodeName, "cp", "/dev/stdin", certs + "/hosts.toml"},
			Stdin: hosts})
}

// startServices starts, in the node's network, what the node itself runs in the other provider.
func (c *Cluster) startServices(ctx context.Context) error {
	dockerfile, err := render("Dockerfile", map[string]string{"Image": nodeImage})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.State.Path("resolv.conf"), []byte("nameserver "+node.DNS+"\n"), 0o644); err != nil {
		return err
	}
	run := func(container string, more ...string) Command {
		return Command{
			Args: append([]string{
				"docker", "run", "--detach", "--init", "--name", container, "--network", "container:" + nodeName,
			}, more...),
		}
	}
	commands := []string{"--volume", c.State.Path("resolv.conf") + ":/etc/resolv.conf:ro"}
	for _, path := range []string{c.Root, c.Cache, c.State.Dir} {
		commands = append(commands, "--volume", path+":"+path)
	}
	for _, variable := range []string{
		"KUBECONFIG=" + c.State.Kubeconfig("admin"), node.StateVariable + "=" + c.State.Dir, Variable + "=" + Name,
		cachedir.Variable + "=" + c.Cache,
		"PATH=" + filepath.Dir(c.State.Program()) + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	} {
		commands = append(commands, "--env", variable)
	}
	if err := c.all(ctx,
		// Static, for it runs in an image that may have another libc than this machine.
		Command{
			Args: []string{"go", "build", "-o", c.State.Program(), "./ci/cluster"},
			Env:  []string{"CGO_ENABLED=0", "GOOS=linux"},
		},
		Command{Args: []string{"docker", "build", "--tag", inside, "-"}, Stdin: dockerfile},
		run(inside, append(commands, inside, "sleep", "infinity")...),
		run(registry, registryImage),
		run(idp, "--volume", c.State.Dir+":"+c.State.Dir, inside, c.State.Program(), "serve", "idp"),
	); err != nil {
		return err
	}
	address, err := c.Output(ctx, Command{
		Args: []string{"docker", "inspect", "--format", "{{.NetworkSettings.Networks.kind.IPAddress}}", nodeName},
	})
	if err != nil {
		return err
	}
	if err := c.apply(ctx, "coredns.yaml", map[string]string{
		"Domain": node.Domain,
		"Node":   strings.TrimSpace(string(address)),
	}); err != nil {
		return err
	}
	return c.kubectl(ctx,
		"--namespace kube-system rollout restart deployment/coredns",
		"--namespace kube-system rollout status deployment/coredns --timeout 3m")
}

func (c *Cluster) startArgo(ctx context.Context) error {
	return c.kubectl(ctx,
		"create namespace argo",
		"--namespace argo apply --server-side --filename "+argo,
		// Argo looks at a workflow again after ten seconds by default.
		"--namespace argo set env deployment/workflow-controller DEFAULT_REQUEUE_TIME=1s",
		"--namespace argo rollout status deployment/workflow-controller --timeout 5m")
}

func (c *Cluster) startPrerequisites(ctx context.Context) error {
	if err := c.all(ctx,
		c.helm(
			nil, "cert-manager", "oci://quay.io/jetstack/charts/cert-manager", certManager, "cert-manager", "--set",
			"crds.enabled=true", "--wait",
		),
		c.helm(
			nil, "external-secrets", "oci://ghcr.io/external-secrets/charts/external-secrets", externalSecrets,
			"external-secrets", "--set", "installCRDs=true", "--wait",
		),
	); err != nil {
		return err
	}
	return c.apply(ctx, "secretstore.yaml", map[string]string{
		"Namespace": plane.StoreNamespace,
		"Store":     plane.SecretStore,
	})
}

// startOpenChoreo installs the control plane and, with the authorities that cert-manager has made for each side, the
// workflow plane.
func (c *Cluster) startOpenChoreo(ctx context.Context) error {
	values, err := render("control-plane.yaml", map[string]string{
		"API":     plane.APIURL,
		"APIPort": plane.APIURL[strings.LastIndexByte(plane.APIURL, ':')+1:],
		"Issuer":  plane.IssuerURL,
	})
	if err != nil {
		return err
	}
	agent, err := render("workflow-plane.yaml", nil)
	if err != nil {
		return err
	}
	const charts = "oci://ghcr.io/openchoreo/helm-charts/"
	if err := c.all(ctx, c.helm(values, controlPlane, charts+controlPlane, openChoreo, controlPlane)); err != nil {
		return err
	}
	if err := c.kubectl(ctx,
		"--namespace "+controlPlane+" wait --for condition=Available deployment --all --timeout 10m",
		"--namespace "+controlPlane+" wait --for condition=Ready certificate/"+gatewayCA+" --timeout 2m",
		"create namespace "+workflowPlane); err != nil {
		return err
	}
	gateway, err := c.authority(ctx, controlPlane, gatewayCA)
	if err != nil {
		return err
	}
	for _, namespace := range []string{controlPlane, workflowPlane} {
		trusted, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]any{"name": gatewayCA, "namespace": namespace},
			"data":     map[string]any{"ca.crt": gateway}})
		if err != nil {
			return err
		}
		if err := c.all(ctx, c.applied(trusted)); err != nil {
			return err
		}
	}
	if err := c.all(ctx, c.helm(agent, workflowPlane, charts+workflowPlane, openChoreo, workflowPlane)); err != nil {
		return err
	}
	if err := c.kubectl(ctx, "--namespace "+workflowPlane+
		" wait --for condition=Ready certificate/cluster-agent-workflowplane-tls --timeout 2m"); err != nil {
		return err
	}
	agents, err := c.authority(ctx, workflowPlane, "cluster-agent-tls")
	if err != nil {
		return err
	}
	quoted, err := json.Marshal(agents) // as YAML takes it, too
	if err != nil {
		return err
	}
	if err := c.apply(ctx, "openchoreo.yaml", map[string]string{
		"Agent": string(quoted),
		"Store": plane.SecretStore,
	}); err != nil {
		return err
	}
	return c.kubectl(ctx, "--namespace "+workflowPlane+
		" rollout status deployment/cluster-agent-workflowplane --timeout 5m")
}

// authority is the certificate of who signed a Secret's.
func (c *Cluster) authority(ctx context.Context, namespace, secret string) (string, error) {
	encoded, err := c.Output(
		ctx,
		c.kubectlCommand("--namespace", namespace, "get", "secret", secret, "--output", `jsonpath={.data.ca\.crt}`),
	)
	if err != nil {
		return "", err
	}
	certificate, err := base64.StdEncoding.DecodeString(string(encoded))
	if err == nil && len(certificate) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return "", fmt.Errorf("ca.crt of Secret %s/%s: %w", namespace, secret, err)
	}
	return string(certificate), nil
}

// parts are the Deployments of what the other provider calls by these names.
var parts = map[string]string{
	"openchoreo-api":  "openchoreo-api",
	"manager":         "controller-manager",
	"cluster-gateway": "cluster-gateway",
}

// Act starts, stops or restarts a part of OpenChoreo's control plane, and returns when that is done.
func (c *Cluster) Act(ctx context.Context, part, action string) error {
	deployment, ok := parts[part]
	if !ok {
		return fmt.Errorf("there is no %s; on kind there are openchoreo-api, manager and cluster-gateway", part)
	}
	deployment = "deployment/" + deployment
	of := "--namespace " + controlPlane + " "
	change := map[string]string{
		"stop":    "scale --replicas 0 ",
		"start":   "scale --replicas 1 ",
		"restart": "rollout restart ",
	}[action]
	return c.kubectl(ctx, of+change+deployment, of+"rollout status "+deployment+" --timeout 3m")
}

// Inside is a command in the node's network, in a folder of the project. Of Docker's options there may be --tty.
func (c *Cluster) Inside(dir string, args []string, options ...string) Command {
	if os.Getenv(node.StateVariable) != "" { // this is inside
		return Command{Args: args}
	}
	return Command{
		Args: slices.Concat([]string{
			"docker", "exec", "--interactive",
		}, options, []string{"--workdir", dir, inside}, args),
	}
}

// The environment variable that chooses this provider, and its value.
const (
	Variable = "CLUSTER"
	Name     = "kind"
)

// all runs commands until one fails.
func (c *Cluster) all(ctx context.Context, commands ...Command) error {
	for _, command := range commands {
		if _, err := c.Output(ctx, command); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) kubectlCommand(args ...string) Command {
	return c.Inside(c.Root, append([]string{"kubectl"}, args...))
}

// kubectl runs lines of arguments, none of which has a space.
func (c *Cluster) kubectl(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if err := c.all(ctx, c.kubectlCommand(strings.Fields(line)...)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) apply(ctx context.Context, manifest string, data map[string]string) error {
	rendered, err := render(manifest, data)
	if err != nil {
		return err
	}
	return c.all(ctx, c.applied(rendered))
}

func (c *Cluster) applied(objects []byte) Command {
	command := c.kubectlCommand("apply", "--server-side", "--force-conflicts", "--filename", "-")
	command.Stdin = objects
	return command
}

func (c *Cluster) kind(ctx context.Context, stdin []byte, args ...string) error {
	command := goRun(kindModule, args...)
	command.Stdin = stdin
	return c.all(ctx, command)
}

// helm installs a chart.
func (c *Cluster) helm(values []byte, release, chart, version, namespace string, more ...string) Command {
	args := []string{
		"upgrade", "--install", release, chart, "--version", version, "--namespace", namespace, "--create-namespace",
		"--kubeconfig",
		c.State.Kubeconfig("host"), "--timeout", "10m",
	}
	if values != nil {
		args = append(args, "--values", "-")
	}
	command := goRun(helmModule, append(args, more...)...)
	command.Stdin = values
	return command
}

func goRun(module string, args ...string) Command {
	return Command{Args: append([]string{"go", "run", module}, args...)}
}

func render(name string, data map[string]string) ([]byte, error) {
	return plane.Render(manifests, name, data)
}
