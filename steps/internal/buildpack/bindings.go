package buildpack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// binding is a service binding: its files by name. One of them is bindingType, which buildpacks look for.
type binding map[string][]byte

const (
	bindingType = "type"
	caBinding   = "stepwright-ca" // the one that carries ca-bundle
)

// waitForBindings reads the service bindings by their names, waits for those that are required, and adds the values in
// them to what is never shown.
func (in Parameters) waitForBindings(
	ctx context.Context, env step.Environment,
) (bindings map[string]binding, err error) {
	limit := time.Duration(in.BindingsTimeout) * time.Second
	there, err := secret.Await(ctx, env.Log, "Secret of the bindings", in.BindingsDir, limit, func() (bool, error) {
		if bindings, err = readBindings(in.BindingsDir); err != nil {
			return false, outcome.Errorf(outcome.InvalidParameters, "bindings-dir: %w", err).WithHint(
				"Each binding has a file type. The keys of a Secret with several are BINDING.FILE, such as npm.type.",
			)
		}
		return len(bindings) > 0 || !in.BindingsRequired, nil
	})
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, outcome.Errorf(
			outcome.InvalidParameters, "bindings-dir: no binding appeared in %s within %d s", in.BindingsDir,
			in.BindingsTimeout,
		).WithHint(
			"Check that bindings.secretRef names a SecretReference whose secret exists, and which has the " +
				"annotation stepwright.dev/bindings: \"true\" in spec.template.metadata.",
		)
	}
	for _, values := range bindings {
		for name, value := range values {
			env.Secrets.Add(redact.Named(name, string(value))...)
		}
	}
	return bindings, nil
}

// readBindings reads a folder of bindings, or of the keys of one Secret.
func readBindings(dir string) (map[string]binding, error) {
	bindings := map[string]binding{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || dir == "" {
		return bindings, nil
	}
	if err != nil {
		return nil, err
	}
	keys, err := secret.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if err := divide(keys, bindings); err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, isKey := keys[e.Name()]; isKey || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if bindings[e.Name()] != nil {
			return nil, fmt.Errorf("binding %q is there as a folder and as keys", e.Name())
		}
		if bindings[e.Name()], err = secret.ReadDir(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(bindings)) {
		if len(strings.TrimSpace(string(bindings[name][bindingType]))) == 0 {
			return nil, fmt.Errorf("binding %q has no file %q, which says what it is for", name, bindingType)
		}
		if name == caBinding {
			return nil, fmt.Errorf("the name %q is the step's own", name)
		}
	}
	return bindings, nil
}

// divide makes bindings of the keys of a Secret.
func divide(keys map[string][]byte, into map[string]binding) error {
	if _, one := keys[bindingType]; one {
		into["binding"] = keys
		return nil
	}
	for key, value := range keys {
		if strings.HasPrefix(key, ".") {
			continue // such as what a file manager leaves
		}
		name, file, ok := strings.Cut(key, ".")
		if !ok || file == "" {
			return fmt.Errorf("the key %q is not named BINDING.FILE, and there is no key %q", key, bindingType)
		}
		if into[name] == nil {
			into[name] = binding{}
		}
		into[name][file] = value
	}
	return nil
}

// writeBinding gives buildpacks a binding (CNB platform specification). The folder is not part of the image.
func writeBinding(name string, values binding) error {
	dir := filepath.Join(platformDir, "bindings", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for file, value := range values {
		if err := os.WriteFile(filepath.Join(dir, file), value, 0o600); err != nil {
			return err
		}
	}
	return nil
}
