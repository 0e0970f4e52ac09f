package workflowplane

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/stepwright/stepwright/internal/workflowplane/diagnosis"
)

// Read implements diagnosis.Cluster.
func (p *Plane) Read(ctx context.Context, what, path string, query url.Values, into any) error {
	return p.get(ctx, what, path, query, into)
}

// Allowed implements diagnosis.Cluster.
func (p *Plane) Allowed(ctx context.Context, user string, what diagnosis.Access) (bool, error) {
	attributes := &authorizationv1.ResourceAttributes{
		Namespace: what.Namespace, Verb: what.Verb, Group: what.Group, Resource: what.Resource,
		Subresource: what.Subresource,
	}
	path := "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	var review any = authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes},
	}
	if user != "" {
		path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
		review = authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: attributes},
		}
	}
	body, err := json.Marshal(review)
	if err != nil {
		return false, err
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	raw, err := p.client.Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(body).Do(limited).Raw()
	if err != nil {
		return false, p.explain(ctx, "rights of "+user, err)
	}
	var answer authorizationv1.SubjectAccessReview // the status is the same in both
	err = json.Unmarshal(raw, &answer)
	return answer.Status.Allowed, err
}

// Delete implements diagnosis.Workshop.
func (p *Plane) Delete(ctx context.Context, what, path string) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := p.client.Delete().AbsPath(path).Param("gracePeriodSeconds", "2").Do(limited).Error()
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return p.explain(ctx, what, err)
}

// podLogLimit is how much of a pod's log is read, in bytes.
const podLogLimit = 1 << 20

// PodLog implements diagnosis.Workshop.
func (p *Plane) PodLog(ctx context.Context, namespace, pod string) (string, error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	raw, err := p.client.Get().AbsPath("/api/v1/namespaces/"+url.PathEscape(namespace)+"/pods/"+url.PathEscape(pod)+
		"/log").Param("container", mainContainer).Param("limitBytes", strconv.Itoa(podLogLimit)).Do(limited).Raw()
	if err != nil {
		return "", p.explain(ctx, "log of pod "+namespace+"/"+pod, err)
	}
	return string(raw), nil
}
