package registrytest_test

import (
	"net/http"
	"testing"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
)

func TestPushAndGet(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]registrytest.Option{
		"TLS and a user":     nil,
		"TLS, anonymous":     {registrytest.Anonymous},
		"plain HTTP, a user": {registrytest.PlainHTTP},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, options...)
			image := registrytest.RandomImage(t, 2, 1000)
			r.Push(t, "team/app:v1", image)
			want, err := image.Digest()
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Get(t, "team/app:v1").Digest; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if r.Has(t, "team/app:v2") {
				t.Error("has a tag that nobody pushed")
			}
			if n := len(r.Requests(http.MethodPut, "/manifests/")); n != 1 {
				t.Errorf("%d manifests put, want 1", n)
			}
		})
	}
}

func TestCredentialsAreAskedFor(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.PlainHTTP)
	response, err := http.Get(r.URL + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %s, want 401", response.Status)
	}
}
