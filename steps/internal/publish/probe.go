package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// checkTag is the tag of what probe stores.
const checkTag = "stepwright-check"

// checkType is the artifactType of what probe stores, which holds nothing.
const checkType = "application/vnd.stepwright.check"

// probe looks whether the registry lets the step do what it does: push and pull, list what refers to an image, and
// delete, which only probe itself needs. It stores two manifests of a few bytes, and removes them.
func (in Parameters) probe(ctx context.Context, env step.Environment) error {
	to, err := in.target()
	if err != nil {
		return err
	}
	if err := in.awaitSecrets(ctx, env); err != nil {
		return err
	}
	pushing, err := registry.LoadCredentials(in.RegistryPushSecret, env.Secrets)
	if err != nil {
		return err
	}
	pulling, err := registry.LoadCredentials(in.RegistryPullSecret, env.Secrets)
	if err != nil {
		return err
	}
	pulls, err := trust.Transport(in.CABundle)
	if err != nil {
		return err
	}
	defer pulls.CloseIdleConnections()
	pushes := uploads(pulls)
	defer pushes.CloseIdleConnections()
	as := func(who *registry.Credentials, actions, wants string) *repository {
		r := newRepository(to.repository, who, in.InsecurePlainHTTP, pushes)
		r.wants = wants
		r.login.Scopes = []string{to.repository.Scope(actions)}
		return r
	}
	c := &probing{
		Probing: step.NewProbing(env), retry: env.Retry, where: to.repository.Name(),
		pushing:  as(pushing, transport.PushScope, "push to"),
		pulling:  as(pulling, transport.PullScope, "pull from"),
		deleting: as(pushing, transport.DeleteScope, "delete in"),
	}
	// What cannot be removed is told, also when the step is told to stop in the middle of it.
	defer c.remove(context.WithoutCancel(ctx))
	if !c.push(ctx) {
		return c.End()
	}
	c.pull(ctx)
	c.referrers(ctx)
	c.remove(context.WithoutCancel(ctx))
	return c.End()
}

// probing is a look at a registry.
type probing struct {
	*step.Probing
	retry                      outcome.Retry
	where                      string
	pushing, pulling, deleting *repository
	image                      imagelayout.Manifest
	stored                     []v1.Hash
}

// nothingAtAll is the blob that artifacts without content have (OCI image specification).
var nothingAtAll = describe("application/vnd.oci.empty.v1+json", []byte("{}"))

// manifest is an artifact of nothing, which may refer to another.
func (c *probing) manifest(subject *v1.Descriptor) (imagelayout.Manifest, error) {
	fields := map[string]any{
		"schemaVersion": 2, "mediaType": types.OCIManifestSchema1, "artifactType": checkType, "config": nothingAtAll,
		"layers": []any{nothingAtAll},
	}
	if subject != nil {
		fields["subject"] = subject
	}
	raw, err := json.Marshal(fields)
	return imagelayout.Manifest{
		Digest: describe("", raw).Digest, MediaType: types.OCIManifestSchema1, Raw: raw,
	}, err
}

// store stores a manifest, to be removed.
func (c *probing) store(ctx context.Context, m imagelayout.Manifest, reference string) error {
	return c.retry.Do(ctx, func(ctx context.Context) error {
		err := c.pushing.put(ctx, reference, m)
		if err == nil {
			c.stored = append(c.stored, m.Digest)
		}
		return err
	})
}

func (c *probing) push(ctx context.Context) bool {
	return c.Look("registry-push", c.where, func() (string, error) {
		started := time.Now()
		var err error
		if c.image, err = c.manifest(nil); err != nil {
			return "", err
		}
		s := &signing{push: &push{repository: c.pushing}}
		err = c.retry.Do(ctx, func(ctx context.Context) error {
			if err := c.pushing.connect(ctx, nil); err != nil {
				return err
			}
			return s.deliver(ctx, nothingAtAll, []byte("{}"))
		})
		if err == nil {
			err = c.store(ctx, c.image, checkTag)
		}
		return fmt.Sprintf("takes images, within %s", time.Since(started).Round(time.Millisecond)), err
	})
}

func (c *probing) pull(ctx context.Context) {
	c.Look("registry-pull", c.where, func() (string, error) {
		err := c.retry.Do(ctx, func(ctx context.Context) error {
			if err := c.pulling.connect(ctx, nil); err != nil {
				return err
			}
			seen, err := c.pulling.shows(ctx, c.image.Digest.String(), c.image)
			if err == nil && seen != same {
				err = outcome.Errorf(outcome.RegistryUnavailable, "%s does not show what was pushed", c.where)
			}
			return err
		})
		if failure := outcome.Of(err); failure != nil && failure.Reason == outcome.PushDenied {
			err = outcome.Errorf(outcome.AuthenticationFailed, "%s", failure.Message).WithHint(
				"Give the user of the registry pull secret the right to pull: builds read their caches from here.",
			)
		}
		return "shows images to the user of the pull secret", err
	})
}

// referrers looks whether the registry lists signatures and other statements by itself. Where it does not, the step
// keeps the list under a tag.
func (c *probing) referrers(ctx context.Context) {
	c.LookMinor("registry-referrers", c.where, func() (string, error) {
		subject := v1.Descriptor{
			MediaType: c.image.MediaType, Digest: c.image.Digest, Size: int64(len(c.image.Raw)),
		}
		m, err := c.manifest(&subject)
		if err == nil {
			err = c.store(ctx, m, m.Digest.String())
		}
		if err != nil {
			return "", err
		}
		list, listed, err := c.pushing.referrers(ctx, c.image.Digest)
		if err != nil {
			return "", err
		}
		for _, d := range list.Manifests {
			if d.Digest == m.Digest {
				return "lists what refers to an image", nil
			}
		}
		what := "does not list what refers to an image"
		if listed {
			what = "lists what refers to an image, and left out what was stored"
		}
		return "", outcome.Errorf(outcome.RegistryUnavailable, "%s %s", c.where, what).WithHint(
			"Signatures are found by a tag instead, which older registries need. One with the OCI distribution " +
				"specification 1.1 lists them by itself.",
		)
	})
}

// remove removes what was stored, the last first, and tells of what stays.
func (c *probing) remove(ctx context.Context) {
	if len(c.stored) == 0 {
		return
	}
	stored := c.stored
	c.stored = nil
	c.LookMinor("registry-delete", c.where, func() (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := c.deleting.connect(ctx, nil); err != nil {
			return "", c.stays(err)
		}
		for i := len(stored) - 1; i >= 0; i-- {
			if err := c.deleting.delete(ctx, stored[i]); err != nil {
				return "", c.stays(err)
			}
		}
		return "lets what is no longer needed be deleted; what was pushed to look is gone", nil
	})
}

// stays is the error of what could not be removed.
func (c *probing) stays(err error) error {
	failure := outcome.Of(err)
	return outcome.Errorf(
		failure.Reason, "%s; %s:%s stays, of a few bytes", failure.Message, c.where, checkTag,
	).WithHint(
		"No run needs to delete. Where old images are to go, let the registry's own rules remove them, or allow the " +
			"user of the push secret to delete.",
	)
}

// delete removes a manifest.
func (r *repository) delete(ctx context.Context, digest v1.Hash) error {
	doing := "delete " + digest.String()
	response, err := r.do(ctx, http.MethodDelete, r.url(r.name.RepositoryStr(), "manifests", digest.String()), nil)
	if err != nil {
		return r.failure(doing, err)
	}
	defer response.Body.Close()
	err = transport.CheckError(response, http.StatusOK, http.StatusAccepted, http.StatusNoContent, http.StatusNotFound)
	if err != nil {
		return r.failure(doing, err)
	}
	return nil
}
