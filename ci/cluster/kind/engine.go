package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// EngineVariable is kind's own setting: the program that runs containers.
const EngineVariable = "KIND_EXPERIMENTAL_PROVIDER"

// engines are the programs that kind knows, in the order in which it looks for one, with what each needs to answer to
// be there. That docker is installed is not enough: its daemon may run elsewhere, or not at all.
var engines = []struct {
	name string
	asks []string
}{
	{"docker", []string{"docker", "info", "--format", "{{.ServerVersion}}"}},
	{"nerdctl", []string{"nerdctl", "info", "--format", "{{.ServerVersion}}"}},
	{"finch", []string{"finch", "info", "--format", "{{.ServerVersion}}"}},
	{"podman", []string{"podman", "info", "--format", "{{.Version.Version}}"}},
}

// Engine is the program that runs containers: the one that kind's variable names, or the first that answers.
func Engine(ctx context.Context, output func(context.Context, Command) ([]byte, error)) (string, error) {
	if name := os.Getenv(EngineVariable); name != "" {
		if known(name) {
			return name, nil
		}
		return "", fmt.Errorf("%s=%s: kind knows %s", EngineVariable, name, strings.Join(names(), ", "))
	}
	for _, engine := range engines {
		// A script named docker may start podman, which kind must know of.
		version, err := output(ctx, Command{Args: []string{engine.name, "--version"}})
		if err != nil || engine.name != "podman" && strings.HasPrefix(string(version), "podman") {
			continue
		}
		if _, err := output(ctx, Command{Args: engine.asks}); err == nil {
			return engine.name, nil
		}
	}
	return "", errors.New(
		"no engine for containers answers: kind needs docker, nerdctl, finch or podman; " + EngineVariable +
			" names one",
	)
}

func names() []string {
	var all []string
	for _, engine := range engines {
		all = append(all, engine.name)
	}
	return append(all, "nerdctl.lima")
}

func known(name string) bool { return slices.Contains(names(), name) }

// network is the cluster's own, which does not meet other clusters of kind, and goes with the cluster.
const network = name

// makeNetwork makes the cluster's network, unless it is there. kind would make one with IPv6, which the node does not
// need: for that, Docker has the machine forward IPv6, and never puts this back.
func (c *Cluster) makeNetwork(ctx context.Context) error {
	there, err := c.hasNetwork(ctx)
	if err != nil || there {
		return err
	}
	args := []string{"network", "create", "--driver", "bridge"}
	if c.Engine == "docker" {
		// As kind does: the daemon's MTU is for Docker's own network alone.
		const option = "com.docker.network.driver.mtu"
		format := fmt.Sprintf("{{index .Options %q}}", option)
		mtu, err := c.Output(ctx, c.engine("network", "inspect", "--format", format, "bridge"))
		if n, no := strconv.Atoi(strings.TrimSpace(string(mtu))); err == nil && no == nil {
			args = append(args, "--opt", fmt.Sprintf("%s=%d", option, n))
		}
	}
	return c.all(ctx, c.engine(append(args, network)...))
}

// hasNetwork tells whether the engine has the cluster's network.
func (c *Cluster) hasNetwork(ctx context.Context) (bool, error) {
	listed, err := c.Output(ctx, c.engine("network", "ls", "--format", "{{.Name}}"))
	return slices.Contains(strings.Fields(string(listed)), network), err
}

// networkVariable is the variable by which kind takes the name of a network.
func (c *Cluster) networkVariable() string {
	if c.Engine == "podman" {
		return "KIND_EXPERIMENTAL_PODMAN_NETWORK"
	}
	return "KIND_EXPERIMENTAL_DOCKER_NETWORK"
}

// engine is a command of the engine.
func (c *Cluster) engine(args ...string) Command {
	return Command{Args: append([]string{c.Engine}, args...)}
}

// present tells whether the engine has an image.
func (c *Cluster) present(ctx context.Context, image string) bool {
	_, err := c.Output(ctx, c.engine("image", "inspect", "--format", "{{.Id}}", image))
	return err == nil
}

// withoutTag is the name of an image of Docker Hub with its digest alone: podman takes no name with a tag, too.
func withoutTag(image string) string {
	tagged, digest, _ := strings.Cut(image, "@")
	repository, _, _ := strings.Cut(tagged, ":")
	return "docker.io/" + repository + "@" + digest
}
