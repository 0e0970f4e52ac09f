package workflowplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Error is what a cluster refused, and what to do about it.
type Error struct {
	Reason string // of the closed list in schemas/outcome.schema.json
	Hint   string // empty for the reason's own
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// explain says what an error of the client means for whoever called the command.
func (p *Plane) explain(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		return &Error{
			Reason: "ApiUnavailable", Err: fmt.Errorf("%s: the cluster at %s cannot be reached: %w", what, p.host, err),
			Hint: "Check the server and the certificate authority in the kubeconfig, and that the cluster is up: " +
				"kubectl cluster-info says the same.",
		}
	}
	failed := &Error{Reason: "ApiUnavailable", Err: fmt.Errorf("%s: %s answers: %w", what, p.host, err)}
	switch status.Status().Code {
	case http.StatusUnauthorized:
		failed.Reason = "Unauthorized"
		failed.Hint = "The cluster does not know this user: its token or certificate has expired, or is of another " +
			"cluster. Log in again, or choose another --context."
	case http.StatusForbidden:
		failed.Reason = "Forbidden"
		failed.Hint = "The user of the kubeconfig needs a Role with list on workflows.argoproj.io and pods, and get " +
			"on pods/log, in the namespace of the runs; " +
			"without --namespace, in every one."
	case http.StatusNotFound:
		failed.Reason = "NotFound"
	}
	return failed
}
