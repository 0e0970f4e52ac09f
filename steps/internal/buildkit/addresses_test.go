package buildkit

import (
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestDaemonsAt(t *testing.T) {
	t.Parallel()
	for addresses, want := range map[string][]Daemons{
		"tcp://a:1":                      {{"tcp://a:1", ""}},
		"tcp://a:1,unix:///b,c , tcp://": {{"tcp://a:1,unix:///b,c,tcp://", ""}},
		"linux/arm64=tcp://a:1,linux/amd64=unix:///b": {
			{"tcp://a:1", "linux/arm64"}, {"unix:///b", "linux/amd64"},
		},
		"linux/arm64/v8=tcp://a:1, tcp://b:1,linux/arm64=tcp://c:1 ,linux/arm/v7=tcp://d:1": {
			{"tcp://a:1,tcp://c:1", "linux/arm64"}, {"tcp://b:1", ""}, {"tcp://d:1", "linux/arm/v7"},
		},
		"unix:///a,linux/arm64": {{"unix:///a,linux/arm64", ""}}, // a socket's path
	} {
		got, err := DaemonsAt(addresses)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", addresses, got, err, want)
		}
	}
	all := []Daemons{{"tcp://a:1", "linux/arm64"}, {"tcp://b:1", ""}}
	for architecture, want := range map[string]string{"arm64": "tcp://a:1", "amd64": "tcp://b:1"} {
		if got, ok := DaemonsFor(all, ocispec.Platform{OS: "linux", Architecture: architecture}); !ok ||
			got.Addresses != want {
			t.Errorf("%s: %v, want %s", architecture, got, want)
		}
	}
	if got, ok := DaemonsFor(all[:1], ocispec.Platform{OS: "linux", Architecture: "amd64"}); ok {
		t.Errorf("for a platform that none is for: %v", got)
	}
}
