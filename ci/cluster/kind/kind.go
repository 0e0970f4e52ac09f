// Package kind is the cluster by other means: a node of kind, in an engine for containers. What runs inside finds the
// names and addresses that it finds in the namespaces of package node.
//
// It needs an engine and Go. kind, helm, charts and manifests come from Go modules, kubectl is the node's own. With a
// network images are pulled; without one package programs makes them.
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
	"time"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/ci/cluster/plane"
	"github.com/stepwright/stepwright/ci/cluster/programs"
	"github.com/stepwright/stepwright/internal/cachedir"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
)

// nodeImages come with kind's releases. The keys are the minor versions of programs.KubernetesVersions, which a test
// compares.
var nodeImages = map[string]string{
	"1.33": "kindest/node:v1.33.12@sha256:3f5c8443c620245e4d355cfe09e96a91ead32ceaa569d3f1ca9edf0cb2fe2ff4",
	"1.36": "kindest/node:v1.36.4@sha256:099e049362a1526b2db71494e1947aae99bd16290d7c895f2b7ea312e3cbfaed",
}

// certManager is the chart that is pulled; what is made without a network is older.
const certManager = "v1.19.4"

// Names of what the engine has of a cluster.
const (
	name     = "stepwright"
	nodeName = name + "-control-plane" // kind's name for it
	inside   = name + "-inside"        // container in the node's network, for commands
	registry = name + "-registry"
	idp      = name + "-idp"
	api      = name + "-api" // OpenChoreo's API at the node's address
)

// containers are all of them but the node, in the order in which they are started.
var containers = []string{inside, registry, idp, api}

const (
	controlPlane  = "openchoreo-control-plane"
	workflowPlane = "openchoreo-workflow-plane"
	gatewayCA     = "cluster-gateway-ca" // Secret and ConfigMaps of OpenChoreo's charts
)

// cpu is what parts of the cluster ask for: a machine of two processors is to have room for builds.
const cpu = "10m"

//go:embed manifests
var manifests embed.FS

// A Command is a program with its arguments, and what it reads.
type Command struct {
	Args  []string
	Stdin []byte
	Env   []string // besides this process's
	Here  bool     // on this machine, wherever the engine is
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

// A Cluster is in an engine, under names of its own: there is one in an engine.
type Cluster struct {
	State  node.State // credentials, and this program for the containers
	Root   string     // of the project; containers have it under the same path
	Cache  string     // what the project's programs keep between runs; likewise
	Engine string     // program that runs containers
	Tools  programs.Tools
	Made   *programs.Parts // what was made for want of a network; nil: it is pulled
	// Version, one of programs.KubernetesVersions. An image that is pulled has its minor version.
	Kubernetes string
	Go         Go
	// Output runs a command and returns what it printed.
	Output func(context.Context, Command) ([]byte, error)
	Say    func(format string, args ...any)
}

// Go is what containers have of this machine's Go, for the tests that run it: folders, under the same paths.
type Go struct{ Root, Modules, Cache string }

type images struct{ node, commands string }

// images are the names of the engine's images.
func (c *Cluster) images() images {
	if c.Made != nil {
		return images{programs.NodeImage(c.Kubernetes), programs.CommandsImage}
	}
	image := nodeImages[programs.Minor(c.Kubernetes)]
	if c.Engine == "podman" {
		return images{withoutTag(image), inside}
	}
	return images{image, inside}
}

// Up returns when all of the cluster is ready. What it leaves when it fails is for Down.
func (c *Cluster) Up(ctx context.Context) error {
	there, err := c.Output(ctx, c.kindCommand(nil, "get", "clusters"))
	if err != nil {
		return err
	}
	complete := c.State.Path("up")
	if slices.Contains(strings.Fields(string(there)), name) {
		if _, err := os.Stat(complete); err != nil {
			return errors.New("what an earlier start has left is there; down removes it")
		}
		return c.revive(ctx)
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

// revive starts what does not run any more of a cluster that was up: a restart of the engine starts the node at most.
func (c *Cluster) revive(ctx context.Context) error {
	stopped := false
	for _, container := range append([]string{nodeName}, containers...) {
		running, err := c.Output(ctx, c.engine("inspect", "--format", "{{.State.Running}}", container))
		if err != nil {
			return err
		}
		// What shares the node's network has lost it with the node.
		if !stopped && strings.TrimSpace(string(running)) == "true" {
			continue
		}
		if !stopped {
			c.Say("Starting the cluster, which has stopped")
		}
		stopped = true
		if container != nodeName {
			if err := c.all(ctx, c.engine("stop", "--time", "1", container)); err != nil {
				return err
			}
		}
		if err := c.all(ctx, c.engine("start", container)); err != nil {
			return err
		}
		if container == nodeName {
			if err := c.addressNode(ctx); err != nil {
				return err
			}
		}
	}
	if !stopped {
		// It may have been restarted, and then has not what was added to it.
		if err := c.addressNode(ctx); err != nil {
			return err
		}
	}
	if err := c.answering(ctx); err != nil {
		return err
	}
	if stopped {
		return c.kubectl(ctx,
			"--namespace kube-system rollout status deployment/coredns --timeout 3m",
			"--namespace "+controlPlane+" wait --for condition=Available deployment --all --timeout 5m")
	}
	c.Say("The cluster is up already")
	return nil
}

// answering waits until the API server is ready.
func (c *Cluster) answering(ctx context.Context) error {
	var err error
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Second) {
		if err = c.kubectl(ctx, "get --raw /readyz"); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// Down removes all that the engine has of the cluster, and the folder. It may be repeated.
func (c *Cluster) Down(ctx context.Context) error {
	return errors.Join(c.remove(ctx), os.RemoveAll(c.State.Dir))
}

func (c *Cluster) remove(ctx context.Context) error {
	listed, err := c.Output(ctx, c.engine("ps", "--all", "--format", "{{.Names}}"))
	if err != nil {
		return err
	}
	there := strings.Fields(string(listed))
	var errs []error
	for _, container := range slices.Backward(append(containers, building)) {
		if slices.Contains(there, container) {
			errs = append(errs, c.all(ctx, c.engine("rm", "--force", "--volumes", container)))
		}
	}
	if slices.Contains(there, nodeName) {
		errs = append(errs, c.kind(
			ctx, nil, "delete", "cluster", "--name", name, "--kubeconfig", c.State.Kubeconfig("host"),
		))
	}
	errs = append(errs, c.restoreSettings(ctx))
	linked, err := c.hasNetwork(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if linked {
		errs = append(errs, c.all(ctx, c.engine("network", "rm", network)))
	}
	added, err := os.ReadFile(c.State.Path("images"))
	if err == nil {
		for image := range strings.FieldsSeq(string(added)) {
			if c.present(ctx, image) {
				errs = append(errs, c.all(ctx, c.engine("rmi", image)))
			}
		}
	}
	return errors.Join(errs...)
}

// startNode makes the node and says where its containerd finds the registry.
func (c *Cluster) startNode(ctx context.Context) error {
	for _, dir := range []string{"inside", "kubeconfig", "patches"} {
		if err := os.MkdirAll(c.State.Path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := c.haveImages(ctx); err != nil {
		return err
	}
	if err := c.noteSettings(ctx); err != nil {
		return err
	}
	for _, part := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		patch := fmt.Sprintf("spec: {containers: [{name: %s, resources: {requests: {cpu: %s}}}]}\n", part, cpu)
		if err := os.WriteFile(c.State.Path("patches", part+".yaml"), []byte(patch), 0o644); err != nil {
			return err
		}
	}
	config, err := render("kind.yaml", map[string]any{
		"Image": c.images().node, "Services": node.Services, "Patches": c.State.Path("patches"),
		"Unprivileged": lacksResources(),
	})
	if err != nil {
		return err
	}
	if err := c.makeNetwork(ctx); err != nil {
		return err
	}
	if err := c.kind(
		ctx, config, "create", "cluster", "--name", name, "--config", "-", "--kubeconfig", c.State.Kubeconfig("host"),
	); err != nil {
		return err
	}
	kubeconfig, err := c.Output(ctx, c.kindCommand(nil, "get", "kubeconfig", "--name", name, "--internal"))
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
	const certs = "/etc/containerd/certs.d/_default"
	copied := c.engine("exec", "--interactive", nodeName, "cp", "/dev/stdin", certs+"/hosts.toml")
	copied.Stdin = hosts
	if err := c.all(ctx, c.engine("exec", nodeName, "mkdir", "-p", certs), copied); err != nil {
		return err
	}
	if err := c.addressNode(ctx); err != nil {
		return err
	}
	if c.Made == nil {
		return nil
	}
	for _, archive := range c.Made.Images {
		if err := c.kind(ctx, nil, "load", "image-archive", archive, "--name", name); err != nil {
			return err
		}
	}
	return nil
}

// addressNode gives the node the address that it has in package node, whatever network the engine has put it into.
func (c *Cluster) addressNode(ctx context.Context) error {
	return c.all(ctx, c.engine("exec", nodeName, "ip", "address", "replace", node.Address+"/32", "dev", "lo"))
}

// haveImages has the engine have its images, and writes down which of them it had not.
func (c *Cluster) haveImages(ctx context.Context) error {
	all := c.images()
	var added []string
	for _, image := range []string{all.commands, all.node} { // in the order of their removal
		if !c.present(ctx, image) {
			added = append(added, image)
		}
	}
	// Also when it is interrupted.
	if err := os.WriteFile(c.State.Path("images"), []byte(strings.Join(added, "\n")), 0o644); err != nil {
		return err
	}
	if c.Made != nil {
		return c.all(ctx,
			c.engine("load", "--input", c.Made.Node), c.engine("load", "--input", c.Made.Commands))
	}
	if err := c.all(ctx, c.engine("pull", all.node)); err != nil {
		return err
	}
	// On the node's image, which has kubectl, so that one image is pulled.
	install := []string{"run", "--name", building, "--entrypoint", "sh"}
	for _, variable := range []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		if value := os.Getenv(variable); value != "" {
			install = append(install, "--env", variable) // its value is this process's
		}
	}
	return c.all(ctx,
		c.engine(append(install, all.node, "-euc", "apt-get update; DEBIAN_FRONTEND=noninteractive apt-get install "+
			"--yes --no-install-recommends "+strings.Join(baseimages.KindCommandsPackages, " "))...),
		c.engine("commit", "--change", "ENTRYPOINT []", "--change", `CMD ["sleep", "infinity"]`, building, inside),
		c.engine("rm", building))
}

// building is the container that becomes the image for commands.
const building = name + "-building"

// startServices starts, in the node's network, what the node itself runs in the other provider.
func (c *Cluster) startServices(ctx context.Context) error {
	if err := os.WriteFile(c.State.Path("resolv.conf"), []byte("nameserver "+node.DNS+"\n"), 0o644); err != nil {
		return err
	}
	program := c.State.Path("inside", "cluster")
	run := func(container string, args ...string) Command {
		options := []string{
			"run", "--detach", "--name", container, "--network", "container:" + nodeName, "--volume",
			c.State.Dir + ":" + c.State.Dir, "--volume", c.State.Path("resolv.conf") + ":/etc/resolv.conf:ro",
		}
		return c.engine(append(options, args...)...)
	}
	service := func(container, service string, options ...string) Command {
		return run(container, append(
			options, c.images().commands, program, "--state", c.State.Dir, "serve", service,
		)...)
	}
	// Tests make addresses and mounts, on a file system that layers can be put on.
	commands := []string{"--privileged", "--volume", "/tmp"}
	for _, path := range []string{c.Root, c.Cache, c.Go.Root, c.Go.Modules, c.Go.Cache} {
		if path != "" {
			commands = append(commands, "--volume", path+":"+path)
		}
	}
	for _, variable := range []string{
		"KUBECONFIG=" + c.State.Kubeconfig("admin"), node.StateVariable + "=" + c.State.Dir, Variable + "=" + Name,
		cachedir.Variable + "=" + c.Cache, "GOMODCACHE=" + c.Go.Modules, "GOCACHE=" + c.Go.Cache,
		"PATH=" + filepath.ToSlash(filepath.Dir(program)) + ":" + c.Go.Root +
			"/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	} {
		commands = append(commands, "--env", variable)
	}
	if err := c.all(ctx,
		// Static, for it runs in an image that may have another libc than this machine.
		Command{
			Args: []string{"go", "build", "-o", program, "./ci/cluster"},
			Env:  []string{"CGO_ENABLED=0", "GOOS=linux"}, Here: true,
		},
		run(inside, append(commands, c.images().commands, program, "--state", c.State.Dir, "serve",
			"commands")...),
		service(registry, "registry", "--volume", c.State.Path("registry")),
		service(idp, "idp"),
		service(api, "api"),
	); err != nil {
		return err
	}
	if err := c.apply(ctx, "coredns.yaml", map[string]string{
		"Domain": node.Domain,
		"Node":   node.Address,
	}); err != nil {
		return err
	}
	return c.kubectl(ctx,
		"--namespace kube-system scale deployment/coredns --replicas 1",
		"--namespace kube-system set resources deployment/coredns --requests cpu="+cpu,
		"--namespace kube-system rollout restart deployment/coredns",
		"--namespace kube-system rollout status deployment/coredns --timeout 5m",
		"wait --for condition=Ready node --all --timeout 5m")
}

func (c *Cluster) startArgo(ctx context.Context) error {
	manifests := filepath.Join(c.Tools.Charts, "argo")
	definitions, err := filepath.Glob(filepath.Join(manifests, "base", "crds", "full", "argoproj.io_*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range definitions {
		definition, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := c.all(ctx, c.applied(definition)); err != nil {
			return err
		}
	}
	controller, err := plane.Argo(c.State.Path("argo"), manifests)
	if err != nil {
		return err
	}
	if err := c.kubectl(ctx, "create namespace argo"); err != nil {
		return err
	}
	if err := c.all(ctx, c.applied(controller)); err != nil {
		return err
	}
	return c.kubectl(ctx, "--namespace argo rollout status deployment/workflow-controller --timeout 5m")
}

func (c *Cluster) startPrerequisites(ctx context.Context) error {
	manager := c.helm(
		nil, "cert-manager", "oci://quay.io/jetstack/charts/cert-manager", "cert-manager", "--version", certManager,
		"--set", "crds.enabled=true", "--wait",
	)
	if c.Made != nil {
		definitions, err := os.ReadFile(filepath.Join(c.Made.CertManager, "crds.yaml"))
		if err != nil {
			return err
		}
		if err := c.all(ctx, c.applied(definitions)); err != nil {
			return err
		}
		manager = c.helm(
			nil, "cert-manager", c.Made.CertManager, "cert-manager", "--set", "startupapicheck.enabled=false", "--wait",
		)
	}
	secrets := filepath.Join(c.Tools.Charts, "external-secrets")
	definitions, err := os.ReadFile(filepath.Join(secrets, "crds.yaml"))
	if err != nil {
		return err
	}
	if err := c.all(ctx, manager, c.applied(definitions), c.helm(
		nil, "external-secrets", secrets, "external-secrets", "--set", "installCRDs=false", "--wait",
	)); err != nil {
		return err
	}
	store, err := plane.Secrets("https://kubernetes.default.svc")
	if err != nil {
		return err
	}
	return c.all(ctx, c.applied(store))
}

// startOpenChoreo installs the control plane and, with the authorities that cert-manager has made for each side, the
// workflow plane.
func (c *Cluster) startOpenChoreo(ctx context.Context) error {
	values, err := render("control-plane.yaml", map[string]string{
		"API":     plane.APIURL,
		"APIPort": plane.APIURL[strings.LastIndexByte(plane.APIURL, ':')+1:],
		"Issuer":  plane.IssuerURL,
		"CPU":     cpu,
		"Kubectl": c.kubectlImage(),
	})
	if err != nil {
		return err
	}
	agent, err := render("workflow-plane.yaml", map[string]string{"CPU": cpu})
	if err != nil {
		return err
	}
	chart := func(name string) string { return filepath.Join(c.Tools.Charts, name) }
	if err := c.all(ctx, c.helm(values, controlPlane, chart(controlPlane), controlPlane)); err != nil {
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
	if err := c.all(ctx, c.helm(agent, workflowPlane, chart(workflowPlane), workflowPlane)); err != nil {
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

// kubectlImage is what a job of OpenChoreo's chart runs; empty: the chart's own.
func (c *Cluster) kubectlImage() string {
	if c.Made == nil {
		return ""
	}
	return programs.KubectlImage(c.Kubernetes)
}

// Logs writes what helps to look into a failure into a folder: the node's journal, its pods' logs, and those of the
// containers beside it.
func (c *Cluster) Logs(ctx context.Context, dir string) error {
	errs := []error{c.kind(ctx, nil, "export", "logs", dir, "--name", name)}
	for _, container := range containers {
		log, err := c.Output(ctx, c.engine("logs", container))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, container+".log"), log, 0o644)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
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

// Inside is a command in the node's network, in a folder of the project. Of the engine's options there may be --tty.
// The other command asks it to end: an engine does not pass signals on.
func (c *Cluster) Inside(dir string, args []string, options ...string) (command, end Command) {
	if os.Getenv(node.StateVariable) != "" { // this is inside
		return Command{Args: args}, Command{}
	}
	pid := fmt.Sprintf("/run/command-%d-%d", os.Getpid(), time.Now().UnixNano())
	command = c.engine(slices.Concat([]string{"exec", "--interactive"}, options, []string{
		"--workdir", dir, inside, "sh", "-c", `echo $$ >"$0" && exec "$@"`, pid,
	}, args)...)
	return command, c.engine("exec", inside, "sh", "-c", `kill -TERM "$(cat "$0")"`, pid)
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
	if os.Getenv(node.StateVariable) != "" {
		return Command{Args: append([]string{"kubectl"}, args...)}
	}
	return c.engine(append([]string{"exec", "--interactive", inside, "kubectl"}, args...)...)
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
	return c.all(ctx, c.kindCommand(stdin, args...))
}

// kindCommand is kind's, with this engine and a network of the cluster's own.
func (c *Cluster) kindCommand(stdin []byte, args ...string) Command {
	return Command{
		Args: append([]string{c.Tools.Kind}, args...), Stdin: stdin,
		Env: []string{EngineVariable + "=" + c.Engine, c.networkVariable() + "=" + network},
	}
}

// helm installs a chart.
func (c *Cluster) helm(values []byte, release, chart, namespace string, more ...string) Command {
	args := []string{
		c.Tools.Helm, "upgrade", "--install", release, chart, "--namespace", namespace, "--create-namespace",
		"--kubeconfig", c.State.Kubeconfig("host"), "--timeout", "10m",
	}
	if values != nil {
		args = append(args, "--values", "-")
	}
	return Command{
		Args: append(args, more...), Stdin: values,
		// Helm's client remembers what the API server has, in the user's folder.
		Env: []string{"KUBECACHEDIR=" + c.State.Path("helm"), "HELM_CACHE_HOME=" + c.State.Path("helm")},
	}
}

func render(name string, data any) ([]byte, error) {
	return plane.Render(manifests, name, data)
}
