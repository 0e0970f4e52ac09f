package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// keepLogs writes everything that helps to look into a failure into the folder logsDir, since the cluster takes all of
// it along: the logs of the control plane's processes, the objects of all namespaces that tell how far they got, and
// the logs of pods that failed or still run, and the pictures of the runs.
func (r runner) keepLogs(ctx context.Context) error {
	errs := []error{r.command(ctx, clusterBin, "logs", filepath.Join(logsDir, "plane"))}
	if err := r.commandTo(ctx, io.Discard, clusterBin, "kubectl", "get", "namespaces"); err != nil {
		return errs[0] // it did not start, and says itself why
	}
	for file, args := range map[string][]string{
		"events.txt":          {"get", "events", "-A", "--sort-by=.lastTimestamp"},
		"pods.txt":            {"get", "pods", "-A", "-o", "wide"},
		"pods.yaml":           {"get", "pods", "-A", "-o", "yaml"},
		"workflowruns.yaml":   {"get", "workflowruns", "-A", "-o", "yaml"},
		"workflows.yaml":      {"get", "workflows", "-A", "-o", "yaml"},
		"nodes.txt":           {"describe", "nodes"},
		"namespaces.txt":      {"get", "namespaces", "--show-labels"},
		"externalsecrets.txt": {"get", "externalsecrets", "-A"},
	} {
		errs = append(errs, r.kubectlTo(ctx, file, args...))
	}
	var list strings.Builder
	errs = append(errs,
		r.commandTo(ctx, &list, clusterBin, "kubectl", "get", "pods", "-A", "--field-selector=status.phase!=Succeeded",
			"--no-headers",
			"-o", "custom-columns=namespace:.metadata.namespace,name:.metadata.name"))
	for line := range strings.Lines(list.String()) {
		if pod := strings.Fields(line); len(pod) == 2 {
			// A container that never started has no log, and kubectl says so by its exit code. The other logs are kept.
			_ = r.kubectlTo(ctx, filepath.Join("pods", pod[0], pod[1]+
				".log"), "logs", "--all-containers", "--prefix", "--timestamps", "--ignore-errors",
				"-n", pod[0], pod[1])
		}
	}
	errs = append(errs, r.keepPictures(ctx))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("not all logs are in %s: %w", logsDir, err)
	}
	return nil
}

// keepPictures writes the picture of each run. Of one that nothing is known of there is none.
func (r runner) keepPictures(ctx context.Context) error {
	var list struct {
		Items []struct {
			Metadata struct{ Namespace, Name string }
		}
	}
	var raw bytes.Buffer
	err := r.commandTo(ctx, &raw, clusterBin, "exec", cliBin, "list", "--cluster", "-o", "json")
	if err == nil {
		err = json.Unmarshal(raw.Bytes(), &list)
	}
	if err != nil {
		return err
	}
	for _, run := range list.Items {
		of := run.Metadata
		dir := filepath.Join(logsDir, "reports", of.Namespace)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		_ = r.commandTo(
			ctx, io.Discard, clusterBin, "exec", cliBin, "report", "--cluster", "-n", of.Namespace, of.Name,
			"-o", filepath.Join(dir, of.Name+".html"),
		)
	}
	return nil
}

// kubectlTo writes what kubectl prints into a file below logsDir.
func (r runner) kubectlTo(ctx context.Context, file string, args ...string) (err error) {
	path := filepath.Join(logsDir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return r.commandTo(ctx, f, clusterBin, append([]string{"kubectl"}, args...)...)
}
