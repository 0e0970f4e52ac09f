//go:build e2e

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/outcome"
)

// statusHost is where the Git host of TestComponents/commit-status takes statuses, and statusToken is what it wants.
const (
	statusHost  = node + ":7482"
	statusToken = "canary-status-6d20"
)

// commitStatus is a status as Gitea takes it: the operation repoCreateStatus of https://docs.gitea.com/api.
type commitStatus struct {
	State       string `json:"state"`
	Context     string `json:"context"`
	Description string `json:"description"`
	TargetURL   string `json:"target_url"`
}

// statusServer answers as Gitea does, and keeps the statuses of each commit.
type statusServer struct {
	mu   sync.Mutex
	got  map[string][]commitStatus // by the path of the repository and the commit
	away bool                      // whether it breaks every connection
}

var statuses *statusServer

func (s *statusServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		panic(http.ErrAbortHandler)
	}
	repository, commit, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/v1/repos/"), "/statuses/")
	var status commitStatus
	switch err := json.NewDecoder(r.Body).Decode(&status); {
	case r.Header.Get("Authorization") != "token "+statusToken:
		http.Error(w, `{"message":"token is required"}`, http.StatusUnauthorized)
	case r.Method != http.MethodPost || !ok:
		http.NotFound(w, r)
	case err != nil || r.Header.Get("Content-Type") != "application/json":
		http.Error(w, `{"message":"unprocessable"}`, http.StatusUnprocessableEntity)
	default:
		s.got[repository+" "+commit] = append(s.got[repository+" "+commit], status)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"id":1}`)
	}
}

// of are the statuses of a commit, in their order.
func (s *statusServer) of(repository, commit string) []commitStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got[repository+" "+commit])
}

func (s *statusServer) goAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = true
}

// gitHost starts the Git host, and puts its token into the secret store.
func gitHost(t *testing.T) {
	statuses = &statusServer{got: map[string][]commitStatus{}}
	if err := serve(t.Context(), statusHost, serving.certificate, statuses); err != nil {
		t.Fatal(err)
	}
	if err := k8s.apply(t.Context(), stored("commit-status", map[string]string{"token": statusToken})); err != nil {
		t.Fatal(err)
	}
}

// reported looks at the statuses of a build that has succeeded, and of one that has not.
func reported(t *testing.T, run string) {
	want := func(name string, commit string, last commitStatus) {
		t.Helper()
		first := commitStatus{State: "pending", Description: "The build runs"}
		all := []commitStatus{first, last}
		for i := range all {
			all[i].Context = "stepwright/acme/online-store/" + name
			all[i].TargetURL = "https://portal.example.com/acme/" + name + "/" + name
		}
		if diff := cmp.Diff(all, statuses.of("acme/"+name, commit)); diff != "" {
			t.Errorf("statuses of %s (-want +got)\n%s", name, diff)
		}
	}
	commit := must(k8s.run(t.Context(), run))(t).Annotations["stepwright.dev/commit"]
	want(run, commit, commitStatus{State: "success", Description: "The build has succeeded"})
	tasks := map[string]string{}
	for _, task := range must(k8s.run(t.Context(), run))(t).Status.Tasks {
		tasks[task.Name] = task.Phase
	}
	const done = "Succeeded"
	if diff := cmp.Diff(map[string]string{
		"checkout-source": done, "containerfile-build": done, "publish-image": done, "generate-workload-cr": done,
		run + ".hooks.commit-status": done, "commit-status": done,
	}, tasks); diff != "" {
		t.Errorf("tasks (-want +got)\n%s", diff)
	}
	checkCanaries(t, run)
	for _, pod := range pods(t, run) {
		for _, v := range pod.Spec.Volumes {
			has := v.Secret != nil && v.Secret.SecretName == run+"-commit-status"
			if has && step(pod) != "commit-status" {
				t.Errorf("the pod of %s has the token", step(pod))
			}
		}
	}
	reportTimes(t, run, byAge(pods(t, run))[0].CreationTimestamp.Time, 0, 0)

	failing := build{name: "commit-status-failed", url: "https://" + publicGit + "/acme/commit-status-failed.git"}
	commit = serving.repository(t, "acme/commit-status-failed.git", map[string]string{"README": "no Dockerfile"})
	failing.start(t)
	failed := failing.finish(t, 4*time.Minute)
	if got := failed.Annotations["stepwright.dev/failed-step"]; got != "containerfile-build" {
		t.Errorf("the run failed at %q: %s", got, summary(failed))
	}
	got := statuses.of("acme/commit-status-failed", commit)
	if len(got) != 2 || !strings.HasPrefix(got[1].Description, string(outcome.DockerfileNotFound)+": ") {
		t.Fatalf("statuses: %+v", got)
	}
	want(failing.name, commit, commitStatus{State: "failure", Description: got[1].Description})

	t.Run("the host has gone", reportedToNobody)
}

// reportedToNobody runs a build whose host does not answer: it succeeds all the same.
func reportedToNobody(t *testing.T) {
	atNight(t)
	statuses.goAway()
	gone := build{name: "commit-status-gone", url: "https://" + publicGit + "/acme/commit-status-gone.git"}
	commit := serving.repository(t, "acme/commit-status-gone.git", small)
	gone.succeed(t, 6*time.Minute)
	const said = "Succeeded: the commit has no such status: GitServerUnavailable: POST https://" + statusHost
	if all := logs(t, gone.name); strings.Count(all, said) != 2 {
		t.Errorf("the logs do not say twice %q:\n%s", said, all)
	}
	if got := statuses.of("acme/commit-status-gone", commit); len(got) > 0 {
		t.Errorf("statuses: %+v", got)
	}
	reportTimes(t, gone.name, byAge(pods(t, gone.name))[0].CreationTimestamp.Time, 0, 0)
}
