package plan

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/localplane/container"
	"github.com/stepwright/stepwright/internal/localplane/pipeline"
	"github.com/stepwright/stepwright/templates"
)

// builder is any builder of buildpacks whose user is the pods' usual one.
func builder(t *testing.T) templates.Builder {
	t.Helper()
	all := templates.Builders()
	i := slices.IndexFunc(all, func(b templates.Builder) bool {
		return b.Builder.User == 1000 && b.Builder.Group == 1000 && len(b.Writable) == 0
	})
	if i < 0 {
		t.Fatal("there is no such builder")
	}
	return all[i]
}

// planBuildpacks plans a run of it.
func planBuildpacks(t *testing.T, library *Library, machine Machine) ([]pipeline.Step, error) {
	t.Helper()
	return planRunOf(t, builder(t).Workflow, library, machine, object{
		"repository": object{"url": "https://git.example.com/cart.git", "appPath": "/tmp/app"},
	})
}

func buildpacksMachine(t *testing.T) Machine {
	t.Helper()
	if testing.Short() {
		t.Skip("wants runc, and root or a range of user IDs")
	}
	m := machine(t)
	m.Scratch, m.Containers = t.TempDir(), new(container.Runtime)
	if err := os.WriteFile(filepath.Join(m.Programs, "buildpacks-build"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

// Init containers are processes with the paths of this machine; what they bring runs in its image, with the paths of
// the container.
func TestPlanOfBuildpacks(t *testing.T) {
	m := buildpacksMachine(t)
	m.Mounts = map[string]string{"/etc/secrets/build-secrets": "/home/me/secrets"}
	steps, err := planBuildpacks(t, edited(t, ""), m)
	if err != nil {
		t.Fatal(err)
	}
	process, err := steps[1].Process(pipeline.Outputs{"checkout-source": checkedOut})
	if err != nil {
		t.Fatal(err)
	}
	if len(process.Before) != 3 || process.Enter == nil || process.Before[2].Enter == nil {
		t.Fatalf("before it run %d processes, and it is entered: %t", len(process.Before), process.Enter != nil)
	}
	volumes := filepath.Join(m.Scratch, "volumes", steps[1].Name)
	program := filepath.Join(m.Programs, "buildpacks-build")
	install, fetch, build := process.Before[0], process.Before[1], process.Before[2]
	if install.Program != program || install.Enter != nil || !cmp.Equal(install.Args, []string{
		"install", filepath.Join(volumes, "step"), filepath.Join(volumes, "product"),
	}) {
		t.Errorf("install is %s %q", install.Program, install.Args)
	}
	if fetch.Program != program || !cmp.Equal(fetch.Args, []string{
		"fetch",
	}) || fetch.Results != filepath.Join(volumes, "fetched", "results") ||
		fetch.Env["FETCHED_DIR"] != filepath.Join(volumes, "fetched") {
		t.Errorf("fetch is %s %q, with %v", fetch.Program, fetch.Args, fetch.Env)
	}
	if !cmp.Equal(build.Args, []string{
		"/opt/stepwright/buildpacks-build", "build",
	}) || build.Env["APP_PATH"] != "/tmp/app" || build.Env["WORKSPACE"] != "" {
		t.Errorf("in the builder runs %q, with %v", build.Args, build.Env)
	}
	// What runs strangers' code is not asked how it ended.
	if build.Results != "" || len(build.Outputs) > 0 {
		t.Errorf("the build's results are in %s, its outputs are %v", build.Results, build.Outputs)
	}
	if !cmp.Equal(process.Args, []string{"/opt/stepwright/buildpacks-build", "seal"}) {
		t.Errorf("the image is sealed by %q", process.Args)
	}
	if process.Results != filepath.Join(volumes, "results") ||
		process.Outputs["image-digest"].Path != filepath.Join(volumes, "results", "image-digest") {
		t.Errorf("its results are in %s, its outputs are %v", process.Results, process.Outputs)
	}
}

// Where parts of a volume are mounted as they are in it, the path over them leads to the volume.
func TestLocalPathOfPartsOfAVolume(t *testing.T) {
	all := mounts{
		{path: "/mnt/vol/source", folder: "/scratch/workspace/source", volume: "/scratch/workspace", readOnly: true},
		{path: "/mnt/vol/image", folder: "/scratch/workspace/image", volume: "/scratch/workspace"},
		{path: "/elsewhere/x", folder: "/scratch/workspace/cache", volume: "/scratch/workspace"},
		{path: "/data/own", folder: "/scratch/own"},
	}
	for path, want := range map[string]string{
		"/mnt/vol": "/scratch/workspace", "/mnt/vol/": "/scratch/workspace",
		"/mnt/vol/image/blobs": "/scratch/workspace/image/blobs",
		"/mnt":                 "", "/mnt/volume": "", "/mnt/vol/other": "", "/elsewhere": "",
		"/data": "", "/": "", "": "",
	} {
		if got, mapped := all.local(path); mapped != (want != "") || mapped && got != want {
			t.Errorf("%q: got %q, %t, want %q", path, got, mapped, want)
		}
	}
}

// What a container in its image has: the volumes of the pod, those of Secrets and ConfigMaps read-only, and nothing of
// the developer's besides.
func TestMountsOfAContainer(t *testing.T) {
	all := mounts{
		{path: "/etc/stepwright/ca", folder: "/scratch/ca", readOnly: true,
			links: map[string]string{"ca.crt": "/home/me/ca.pem"}},
		{path: "/opt/stepwright", folder: "/scratch/step", readOnly: true},
		{path: "/tmp", folder: "/scratch/tmp"},
		{path: "/src", folder: "/scratch/workspace/source", readOnly: true, lent: true},
	}
	want := []container.Mount{
		{Path: "/src", Source: "/scratch/workspace/source", ReadOnly: true, Lent: true},
		{Path: "/tmp", Source: "/scratch/tmp"},
		{Path: "/opt/stepwright", Source: "/scratch/step", ReadOnly: true},
		{Path: "/etc/stepwright/ca", ReadOnly: true},
		{Path: "/etc/stepwright/ca/ca.crt", Source: "/home/me/ca.pem", ReadOnly: true},
	}
	if diff := cmp.Diff(want, all.inside()); diff != "" {
		t.Error(diff)
	}
}

// A container that would have other rights here than in a cluster is not run.
func TestPlanRefusesRights(t *testing.T) {
	file := "workflow-plane/" + builder(t).Template + ".yaml"
	pod := "        runAsUser: 1000\n        runAsGroup: 1000\n"
	own := "        command: [/opt/stepwright/buildpacks-build, seal]\n"
	tests := []struct {
		name    string
		replace []string
		want    string
	}{
		{"no group", []string{pod, "        runAsUser: 1000\n"},
			"only with a runAsUser other than root, and a runAsGroup"},
		{"a privileged container",
			[]string{"        securityContext:\n          privileged: false\n",
				"        securityContext:\n          privileged: true\n"},
			"a privileged container cannot be run here"},
		{"root", []string{"          runAsNonRoot: true\n          runAsUser: 1000\n", "          runAsUser: 0\n"},
			"only with a runAsUser other than root, and a runAsGroup"},
		{"a field of its own", []string{own, own + "        workingDir: /workspace\n"},
			"container: workingDir cannot be run here"},
		{"a variable of a Secret",
			[]string{"          - name: IMAGE_TAG\n            value: '{{workflow.parameters.image-tag}}'\n",
				"          - name: IMAGE_TAG\n            valueFrom: {secretKeyRef: {name: a, key: b}}\n"},
			"variable IMAGE_TAG: valueFrom cannot be run here"},
		{"no program in the folder of steps", []string{own, "        command: [/opt/stepwright/sh]\n"},
			"the step sh is not in "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := planBuildpacks(t, edited(t, file, test.replace...), buildpacksMachine(t)); err == nil ||
				!strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want …%s…", err, test.want)
			}
		})
	}
	t.Run("a machine without containers", func(t *testing.T) {
		m := buildpacksMachine(t)
		m.Containers = nil
		if _, err := planBuildpacks(t, edited(t, ""), m); err == nil ||
			!strings.Contains(err.Error(), "cannot be run here") {
			t.Errorf("got %v", err)
		}
	})
}
