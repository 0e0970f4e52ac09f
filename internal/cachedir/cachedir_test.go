package cachedir

import (
	"runtime"
	"strings"
	"testing"
)

func TestPath(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("other systems have other cache folders")
	}
	tests := []struct{ name, given, xdg, home, want, fault string }{
		{name: "given", given: "/given", xdg: "/xdg", home: "/home/me", want: "/given/a/b"},
		{name: "the user's", xdg: "/xdg", home: "/home/me", want: "/xdg/stepwright/a/b"},
		{name: "the user's, by default", home: "/home/me", want: "/home/me/.cache/stepwright/a/b"},
		{name: "none", fault: "set STEPWRIGHT_CACHE: "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv(Variable, test.given)
			t.Setenv("XDG_CACHE_HOME", test.xdg)
			t.Setenv("HOME", test.home)
			path, err := Path("a", "b")
			if path != test.want || (err == nil) != (test.fault == "") ||
				err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Errorf("%q, %v", path, err)
			}
		})
	}
}
