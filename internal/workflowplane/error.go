package workflowplane

import (
	"context"
	"errors"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/stepwright/stepwright/internal/outcome"
)

// explain turns an error of the client into the outcome of the command.
func (p *Plane) explain(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		return outcome.Errorf(
			outcome.ApiUnavailable, "%s: the cluster at %s cannot be reached: %w", what, p.host, err,
		).WithHint("Check the server and the certificate authority in the kubeconfig, and that the cluster is up: " +
			"kubectl cluster-info says the same.")
	}
	failed := outcome.Errorf(outcome.ApiUnavailable, "%s: %s answers: %w", what, p.host, err)
	switch status.Status().Code {
	case http.StatusUnauthorized:
		failed.Reason = outcome.Unauthorized
		failed.Hint = "The cluster does not know this user: its token or certificate has expired, or is of another " +
			"cluster. Log in again, or choose another --context."
	case http.StatusForbidden:
		failed.Reason = outcome.Forbidden
		failed.Hint = "The user of the kubeconfig needs a Role with list on workflows.argoproj.io and pods, and get " +
			"on pods/log, in the namespace of the runs; " +
			"without --namespace, in every one."
	case http.StatusNotFound:
		failed.Reason = outcome.NotFound
	}
	return failed
}
