package buildpack

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Buildpacks and the application know the commit, as with Paketo's buildpack for Git, which needs the folder .git. What
// others set wins.
func TestRevision(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	commit := strings.Repeat("ab", 20)
	tests := []struct {
		name      string
		files     map[string]string
		configure string // a file of the builder's configuration with the value "of the builder"
		buildEnv  string
		build     string // the variable while it builds
		launch    string // the variable of the image; empty: it has none
	}{
		{"nobody sets it", greeter, "", "[]", commit, commit},
		{"the developer does", greeter, "", `[{"name":"REVISION","value":"v1"}]`, "v1", commit},
		{"the developer empties it", greeter, "", `[{"name":"REVISION","value":""}]`, "", commit},
		{"project.toml does", with("project.toml", "[[build.env]]\nname = \"REVISION\"\nvalue = \"v2\"\n"), "", "[]",
			"v2", commit},
		{"a buildpack does", with("revision.txt", "of a layer"), "", "[]", "of a layer", ""},
		{"the builder does", greeter, "REVISION", "[]", "of the builder", commit},
		{"the builder adds to it", greeter, "REVISION.append", `[{"name":"REVISION","value":"v1, "}]`,
			"v1, of the builder", commit},
		{"the builder sets another", greeter, "REVISIONS.override", "[]", commit, commit},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := newWorkspace(t, test.files)
			p := newPod(t, registry, dir, "BUILD_ENV", test.buildEnv)
			if test.configure != "" {
				p.mounts = map[string]string{"/cnb/build-config": buildConfig(t, test.configure)}
			}
			e := builds(t, p)
			if want := `variable "REVISION=` + test.build + `"`; !strings.Contains(e.output, "\n"+want+"\n") {
				t.Errorf("while it builds there is no %s\n%s", want, e.output)
			}
			config := configOf(t, filepath.Join(dir, "image"))
			i := slices.IndexFunc(config.Env, func(v string) bool { return strings.HasPrefix(v, "REVISION=") })
			if (i < 0) != (test.launch == "") || i >= 0 && config.Env[i] != "REVISION="+test.launch {
				t.Errorf("the image has %q, want REVISION=%s", config.Env, test.launch)
			}
			const want = `{"source":{"metadata":{"repository":"https://git.example.com/acme/greeter.git","revision":` +
				`"COMMIT"},"type":"git","version":{"commit":"COMMIT"}}}`
			if got := config.Labels[projectLabel]; got != strings.ReplaceAll(want, "COMMIT", commit) {
				t.Errorf("the label of the project is %s", got)
			}
		})
	}
}

// buildConfig is a builder's configuration with one file.
func buildConfig(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	path := place(t, filepath.Join(dir, "env", name))
	if err := os.WriteFile(path, []byte("of the builder"), 0o644); err != nil {
		t.Fatal(err)
	}
	for ; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Dir(filepath.Dir(path))
}
