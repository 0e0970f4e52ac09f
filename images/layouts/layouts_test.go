package layouts

import (
	"errors"
	"net/http"
	"testing"
)

// No credentials leave the machine in the clear, whatever the flag says.
func TestPushInTheClear(t *testing.T) {
	called := errors.New("called")
	for _, test := range []struct {
		url   string
		plain bool
		ok    bool
	}{
		{"https://registry.example.com/v2/", false, true},
		{"http://registry.example.com/v2/", true, false},
		{"http://10.0.0.1:5000/v2/", true, false},
		{"http://registry.local/v2/", false, false},
		{"http://127.0.0.1:5000/v2/", false, false},
		{"http://127.0.0.1:5000/v2/", true, true},
		{"http://localhost:5000/v2/", true, true},
		{"http://[::1]:5000/v2/", true, true},
	} {
		r, err := http.NewRequest(http.MethodGet, test.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = guard{next: roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, called
		}), plainHTTP: test.plain}.RoundTrip(r)
		if errors.Is(err, called) != test.ok {
			t.Errorf("%s, plain HTTP %t: %v", test.url, test.plain, err)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
