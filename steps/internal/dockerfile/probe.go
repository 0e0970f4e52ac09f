package dockerfile

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// probe looks whether a build could begin here: it tells what the node gives this container, and starts a builder.
func (in Parameters) probe(ctx context.Context, env step.Environment) error {
	if err := in.Await(ctx, env.Log, outcome.AuthenticationFailed, in.platformSecrets()...); err != nil {
		return err
	}
	credentials, err := registry.LoadCredentials(in.RegistryPullSecret, env.Secrets)
	if err != nil {
		return err
	}
	p := step.NewProbing(env)
	p.Look("node", "the build's container", func() (string, error) { return node(), nil })
	where := "a builder in the build's container"
	if in.BuildKitAddress != "" {
		where = in.BuildKitAddress
	}
	p.Look("builder", where, func() (string, error) {
		var builder *buildkit.BuildKit
		if in.BuildKitAddress != "" {
			builder, err = connect(ctx, in, env)
		} else {
			builder, err = start(ctx, in, &build{in: in, env: env, credentials: credentials}, env)
		}
		if err != nil {
			return "", err
		}
		env.Tidy()
		said := "starts"
		if builder.Isolation != "" {
			said += ", and separates processes by " + string(builder.Isolation)
		}
		return said, builder.Close()
	})
	return p.End()
}

// node tells what decides on a build's user namespace, as this process sees it.
func node() string {
	var facts []string
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		facts = append(facts, "Linux "+unix.ByteSliceToString(name.Release[:]))
	}
	first := func(path string) string {
		raw, err := os.ReadFile(path)
		if err != nil {
			return "unknown"
		}
		line, _, _ := strings.Cut(string(raw), "\n")
		return strings.Trim(line, " \x00")
	}
	facts = append(facts, "at most "+first("/proc/sys/user/max_user_namespaces")+" user namespaces")
	seccomp := "unknown"
	if raw, err := os.ReadFile("/proc/self/status"); err == nil {
		if _, after, ok := strings.Cut(string(raw), "\nSeccomp:"); ok {
			mode := ""
			fmt.Sscan(after, &mode)
			seccomp = map[string]string{"0": "off", "1": "strict", "2": "a filter"}[mode]
		}
	}
	facts = append(facts, "seccomp "+seccomp)
	if profile := first("/proc/self/attr/current"); profile != "unknown" && profile != "" {
		facts = append(facts, "AppArmor "+profile)
	}
	cgroup := "cgroup 1"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroup = "cgroup 2, memory at most " + first("/sys/fs/cgroup/memory.max")
	}
	return strings.Join(append(facts, cgroup), ", ")
}
