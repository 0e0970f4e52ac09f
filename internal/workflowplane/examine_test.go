package workflowplane

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/workflowplane/workflowplanetest"
)

// What was made to look is deleted, and that it has gone already is well.
func TestWorkshop(t *testing.T) {
	status := func(w http.ResponseWriter, code int, reason string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d,"message":"no"}`,
			reason, code)
	}
	var deleted []string
	mux := http.NewServeMux()
	const pods = "/api/v1/namespaces/workflows-acme/pods/"
	mux.HandleFunc("DELETE "+pods+"{name}", func(w http.ResponseWriter, r *http.Request) {
		switch name := r.PathValue("name"); name {
		case "gone":
			status(w, http.StatusNotFound, "NotFound")
		case "foreign":
			status(w, http.StatusForbidden, "Forbidden")
		default:
			deleted = append(deleted, name+"?"+r.URL.RawQuery)
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Success"}`)
		}
	})
	mux.HandleFunc("GET "+pods+"probe/log", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "{\"check\":\"node\"}\n%s\n", r.URL.Query().Get("container"))
	})
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	plane, err := Open(workflowplanetest.Kubeconfig(t, server.URL, "token", authority), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]outcome.Reason{"probe": "", "gone": "", "foreign": outcome.Forbidden} {
		err := plane.Delete(t.Context(), "Pod "+name, pods+name)
		if failure := outcome.Of(err); (want == "") != (failure == nil) || failure != nil && failure.Reason != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(deleted) != 1 || deleted[0] != "probe?gracePeriodSeconds=2" {
		t.Errorf("deleted %q", deleted)
	}
	log, err := plane.PodLog(t.Context(), "workflows-acme", "probe")
	if err != nil || log != "{\"check\":\"node\"}\nmain\n" {
		t.Errorf("%v %q", err, log)
	}
}
