package secret

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Awaited are the parameters of steps that need Secrets which the platform makes for each run. A step's own Parameters
// embed it.
type Awaited struct {
	SecretTimeout int     `json:"secret-timeout"` // seconds
	SecretKeys    []Store `json:"secret-keys"`
}

// Store says which key of the WorkflowPlane's secret store a Secret is made of.
type Store struct {
	Secret string `json:"secret"` // the name of the folder that it is mounted in
	Key    string `json:"key"`
}

// Await waits for files that Secrets are mounted as, all of them at once. One that has not come within the timeout is
// an error of the reason, with the key that the Secret is made of. Each file is there whole or not at all, since
// Kubernetes swaps a Secret's files by one link. What is empty is not waited for.
func (a Awaited) Await(ctx context.Context, log *slog.Logger, reason outcome.Reason, files ...string) error {
	var missing []string
	look := func() (bool, error) {
		missing = nil
		for _, path := range files {
			if path == "" {
				continue
			}
			if _, err := os.Stat(path); err != nil { // its reader tells other faults
				missing = append(missing, path)
			}
		}
		return len(missing) == 0, nil
	}
	if there, _ := look(); there {
		return nil
	}
	limit := time.Duration(a.SecretTimeout) * time.Second
	there, err := Await(ctx, log, a.names(missing), strings.Join(missing, ", "), limit, look)
	if there || err != nil {
		return err
	}
	return outcome.Errorf(
		reason, "%s: not there within %d s: %s", a.names(missing), a.SecretTimeout, strings.Join(missing, ", "),
	).WithHint(
		"Put the key into the WorkflowPlane's secret store. The run's ExternalSecret of that name says why its " +
			"Secret does not come, and stepwright doctor finds what is missing before a run.",
	)
}

// names tells of files' Secrets and what they are made of.
func (a Awaited) names(files []string) string {
	var all []string
	for _, path := range files {
		folder := filepath.Base(filepath.Dir(path))
		text := "Secret " + folder
		for _, store := range a.SecretKeys {
			if store.Secret == folder {
				text += fmt.Sprintf(" (key %s of the secret store)", store.Key)
			}
		}
		all = append(all, text)
	}
	return strings.Join(all, " and ")
}
