package gate_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/replay"
	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/gate"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// The tests run the three programs as processes, which this binary is, too.
func TestMain(m *testing.M) {
	run, isProgram := map[string]any{
		"prepare": gate.Prepare, "check": gate.Check, "decide": gate.Decide,
	}[os.Getenv("GATE_PROGRAM")]
	if !isProgram {
		os.Exit(m.Run())
	}
	os.Exit(step.Main("scan-gate", run.(program)))
}

type program = func(ctx, gate.Parameters, step.Environment) (step.Results, error)

// bench is a built image, and the folders of a pod that checks it.
type bench struct {
	t         *testing.T
	dir       string
	workspace workspace.Workspace
	more      []string // arguments of all programs
	isolated  bool     // the check is the first process of a PID namespace, as in a pod
}

func newBench(t *testing.T, image v1.Image) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir()}
	b.workspace = workspace.Workspace(filepath.Join(b.dir, "workspace"))
	for _, dir := range []string{b.workspace.Source(), b.path("prepared"), b.path("handover"), b.path("results")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path, err := layout.Write(b.workspace.Image(), emptyIndex)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(image); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) path(parts ...string) string {
	return filepath.Join(append([]string{b.dir}, parts...)...)
}

func (b *bench) write(path, text string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// ended is how a program ended.
type ended struct {
	report outcome.Report
	output string
}

// want fails the test unless the step has ended so, with these parts of a message and that summary.
func (e ended) want(t *testing.T, reason outcome.Reason, says []string, summary string) {
	t.Helper()
	if e.report.Reason != reason {
		t.Fatalf("ended with %s\n%s", e.report.Line(), e.output)
	}
	for _, want := range says {
		if !strings.Contains(e.report.Message, want) {
			t.Errorf("the message lacks %q:\n%s", want, e.report.Message)
		}
	}
	if got := e.report.Results["summary"]; got != summary {
		t.Errorf("the summary is %q, want %q", got, summary)
	}
}

// run runs one of the programs with a check by a shell, which is the check's affair here.
func (b *bench) run(program, script string, more ...string) ended {
	b.t.Helper()
	command, err := json.Marshal([]string{"/bin/sh", "-c", script})
	if err != nil {
		b.t.Fatal(err)
	}
	results := b.path("of-" + program)
	args := append([]string{
		"--workspace=" + string(b.workspace), "--results-dir=" + results, "--check-command=" + string(command),
		"--check-image=registry.example.com/check@sha256:" + strings.Repeat("0", 64),
		"--prepared-dir=" + b.path("prepared"), "--handover-dir=" + b.path("handover"),
		"--check-results-dir=" + b.path("results"), "--termination-message-path=" + b.path("none"),
	}, append(b.more, more...)...)
	cmd := exec.CommandContext(b.t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), "GATE_PROGRAM="+program, "SEVERITY=", "CANARY=of the image")
	if program == "check" && b.isolated {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	}
	out, _ := cmd.CombinedOutput()
	report, err := outcome.Read(results)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	return ended{report, string(out)}
}

// all runs all programs, as a pod does.
func (b *bench) all(script string, more ...string) ended {
	b.t.Helper()
	for _, program := range []string{"prepare", "check"} {
		if e := b.run(program, script, more...); e.report.Failed() {
			b.t.Fatalf("%s: %s\n%s", program, e.report.Line(), e.output)
		}
	}
	return b.run("decide", script, more...)
}

// sarif is a script that leaves a report with findings, each an ID and a score.
func sarif(findings ...string) string {
	var rules, results []string
	for _, f := range findings {
		id, score, _ := strings.Cut(f, " ")
		rules = append(rules, fmt.Sprintf(`{"id":%q,"properties":{"security-severity":%q}}`, id, score))
		results = append(results, fmt.Sprintf(`{"ruleId":%q,"message":{"text":"in openssl 3.0.1"}}`, id))
	}
	return fmt.Sprintf(`cat > "$R/results.sarif" <<'END'
{"version":"2.1.0","runs":[{"tool":{"driver":{"rules":[%s]}},"results":[%s]}]}
END
`, strings.Join(rules, ","), strings.Join(results, ","))
}

func TestGate(t *testing.T) {
	t.Parallel()
	image := registrytest.RandomImage(t, 1, 100)
	tests := []struct {
		name    string
		script  string
		args    []string
		ignore  string // of the repository
		reason  outcome.Reason
		says    []string // in the message
		summary string
	}{
		{"a check that passes", "echo fine", nil, "", outcome.Succeeded, nil, ""},
		{"a check that says so", "echo 12 tests passed > $R/summary", nil, "", outcome.Succeeded,
			[]string{"12 tests passed"}, "12 tests passed"},
		{"a check that fails", "echo one; echo two >&2; exit 3", nil, "", outcome.CheckFailed,
			[]string{"the check ended with exit code 3:\none\ntwo"}, ""},
		{"a check that fails and says so", "echo noise; echo '3 of 12 tests failed' > $R/summary; exit 1", nil, "",
			outcome.CheckFailed, []string{"the check ended with exit code 1: 3 of 12 tests failed"},
			"3 of 12 tests failed"},
		{"a check that a signal ends", "kill -TERM $$", nil, "", outcome.CheckFailed,
			[]string{"the signal terminated"}, ""},
		{"a check that is killed", "kill -KILL $$", nil, "", outcome.Killed, []string{"want of memory"}, ""},
		{"a check that takes too long", "echo begun; sleep 60", []string{"--check-timeout=1"}, "", outcome.Timeout,
			[]string{"did not end within 1s"}, ""},
		{"a check that does not start", "", []string{`--check-command=["/no/such/program"]`}, "",
			outcome.InvalidParameters, []string{"check-command: /no/such/program does not start"}, ""},
		{"a folder where it is told how a check ended", "mkdir -p $R/../handover/ending.json/x; exit 3", nil, "",
			outcome.CheckFailed, []string{"exit code 3"}, ""},
		{"no check", "", []string{"--check-image=", "--check-command=[]"}, "", outcome.InvalidParameters,
			[]string{"check-image: is empty", "check-command: is empty"}, ""},
		{"a report without a severity", sarif("CVE-2024-0001-openssl 9.8"), nil, "", outcome.Succeeded, nil, ""},

		{"a scan that finds nothing", sarif(), []string{"--severity=high"}, "", outcome.Succeeded,
			[]string{"nothing found"}, "nothing found"},
		{"findings below", sarif("CVE-2024-0001 6.9", "CVE-2024-0002 2"), []string{"--severity=high"}, "",
			outcome.Succeeded, []string{"1 medium, 1 low"}, "1 medium, 1 low"},
		{"findings above", sarif("CVE-2024-0001-openssl 9.8", "CVE-2024-0002 7.0", "CVE-2024-0003 2"),
			[]string{"--severity=high"}, "", outcome.VulnerabilitiesFound, []string{
				"of severity high or above: 2 (1 critical, 1 high, 1 low)",
				"\n  - critical CVE-2024-0001-openssl: in openssl 3.0.1", "\n  - high CVE-2024-0002: ",
			}, "1 critical, 1 high, 1 low"},
		{"findings above, whatever the exit code is", sarif("CVE-2024-0001 9.8") + "exit 2", []string{"--severity=low"},
			"", outcome.VulnerabilitiesFound, []string{"1 critical"}, "1 critical"},
		{"findings that are ignored", sarif("CVE-2024-0001-openssl 9.8", "CVE-2024-0002 7.0"),
			[]string{"--severity=high", "--ignore-file=.scan-ignore"},
			"CVE-2024-0001 # not reachable\ncve-2024-0002 exp:2999-01-01\n", outcome.Succeeded,
			[]string{"nothing found, 2 ignored"}, "nothing found, 2 ignored"},
		{"findings whose day is over", sarif("CVE-2024-0001-openssl 9.8"),
			[]string{"--severity=high", "--ignore-file=.scan-ignore"}, "CVE-2024-0001 exp:2020-01-01\n",
			outcome.VulnerabilitiesFound, []string{"CVE-2024-0001-openssl"}, "1 critical"},
		{"an ignore file that does not count", sarif("CVE-2024-0001-openssl 9.8"), []string{"--severity=high"},
			"CVE-2024-0001\n", outcome.VulnerabilitiesFound, []string{"CVE-2024-0001-openssl"}, "1 critical"},
		{"an ignore file of another form", sarif(), []string{"--severity=high", "--ignore-file=.scan-ignore"},
			"ignore: [CVE-2024-0001]\n", outcome.InvalidParameters, []string{".scan-ignore: line 1"}, ""},
		{"an ignore file outside", sarif(), []string{"--severity=high", "--ignore-file=../../etc/passwd"},
			"", outcome.PathEscapesRepository, []string{"ignore-file"}, ""},
		{"many findings", sarif("CVE-2024-1 9.8", "CVE-2024-2 9.8", "A 9", "B 9", "C 9", "D 9", "E 9", "F 9", "G 9",
			"H 9", "I 9", "J 9"), []string{"--severity=high"}, "",
			outcome.VulnerabilitiesFound, []string{"… and 2 more"}, "12 critical"},

		{"a scan without a report", "echo scanned", []string{"--severity=high"}, "", outcome.CheckFailed,
			[]string{"the check left no report results.sarif that can be read", "no such file"}, ""},
		{"a scan that broke", "echo no database >&2; exit 1", []string{"--severity=high"}, "", outcome.CheckFailed,
			[]string{"the check ended with exit code 1:\nno database"}, ""},
		{"a report that is none", "echo '<html>' > $R/results.sarif", []string{"--severity=high"}, "",
			outcome.CheckFailed, []string{"it is not SARIF"}, ""},
		{"a report that is a link", sarif() + "mv $R/results.sarif $R/x; ln -s x $R/results.sarif",
			[]string{"--severity=high"}, "", outcome.CheckFailed, []string{"is not a regular file"}, ""},
		{"a report that is a pipe", "mkfifo $R/results.sarif", []string{"--severity=high"}, "", outcome.CheckFailed,
			[]string{"is not a regular file"}, ""},
		{"a report without end", "head -c 34000000 /dev/zero > $R/results.sarif", []string{"--severity=high"}, "",
			outcome.CheckFailed, []string{"larger than the limit"}, ""},
		{"a summary for terminals", `printf 'a\033[2Jb\033[31mred\033[0m\n::error::c' > $R/summary; exit 1`, nil, "",
			outcome.CheckFailed, []string{`: a\x1b[2Jbred`}, `a\x1b[2Jbred`},
		{"a summary for Argo", "echo '{{workflow.name}}' > $R/summary", nil, "", outcome.Succeeded, nil,
			`{\x7bworkflow.name}}`},
		{"a summary without end", "head -c 1000000 /dev/zero > $R/summary; exit 1", nil, "", outcome.CheckFailed,
			[]string{"(the summary is no file of at most 64 KiB)"}, "(the summary is no file of at most 64 KiB)"},
		{"a summary that is a link", "ln -s /etc/passwd $R/summary; exit 1", nil, "", outcome.CheckFailed,
			[]string{"(the summary is no file"}, "(the summary is no file of at most 64 KiB)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, image)
			if test.ignore != "" {
				b.write(filepath.Join(b.workspace.Source(), ".scan-ignore"), test.ignore)
			}
			e := b.all("R="+b.path("results")+"\n"+test.script, test.args...)
			e.want(t, test.reason, test.says, test.summary)
			_, err := os.Stat(b.path("of-decide", "results.sarif"))
			judged := test.summary != "" && strings.Contains(strings.Join(test.args, " "), "severity")
			if kept := err == nil; kept != judged {
				t.Errorf("the report is kept: %t", kept)
			}
		})
	}
}

// What a check prints is said once more where people look, and cannot look like a line of the step's.
func TestOutputOfACheck(t *testing.T) {
	t.Parallel()
	b := newBench(t, registrytest.RandomImage(t, 1, 100))
	e := b.all(`echo scanning; printf '2026-01-01T00:00:00Z INFO Done\n::error::x\n\033[2J'; exit 1`)
	for _, line := range []string{"| scanning", "| 2026-01-01T00:00:00Z INFO Done", `| \x3a:error::x`, `| \x1b[2J`} {
		if want := "\n| " + replay.Mark(replay.Check, line) + "\n"; !strings.Contains(e.output, want) {
			t.Errorf("the log lacks %q:\n%s", want, e.output)
		}
	}
}

// A check has the variables of its image and those of the platform, and none of the step's.
func TestEnvironmentOfACheck(t *testing.T) {
	t.Parallel()
	b := newBench(t, registrytest.RandomImage(t, 1, 100))
	e := b.all(`echo "home $HOME, $CANARY, $DATABASE, severity ${SEVERITY-none}, in $PWD"; exit 1`,
		`--check-env=[{"name":"HOME","value":"/home"},{"name":"DATABASE","value":"/db"}]`)
	want := "home /home, of the image, /db, severity none, in " + b.workspace.Source()
	if !strings.Contains(e.report.Message, want) {
		t.Errorf("the message lacks %q: %s", want, e.report.Message)
	}
}

// How a check ended is said after all its processes have ended, by a process that it cannot reach.
func TestACheckCannotSayHowItEnded(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("makes a PID namespace")
	}
	b := newBench(t, registrytest.RandomImage(t, 1, 100))
	b.isolated = true
	// Processes that nobody waits for write how it ended, as fast and as long as they can.
	forge := b.path("forge")
	b.write(forge, `while :; do printf '{"reason":"Succeeded"}' > "$1"; done`)
	script := fmt.Sprintf(`for i in 1 2 3 4 5 6 7 8; do setsid sh %s %s >/dev/null 2>&1 & done
sleep 0.2; exit 3`, forge, b.path("handover", "ending.json"))
	e := b.all(script)
	if e.report.Reason != outcome.CheckFailed || !strings.Contains(e.report.Message, "exit code 3") {
		t.Errorf("ended with %s\n%s", e.report.Line(), e.output)
	}
	before, err := os.ReadFile(b.path("handover", "ending.json"))
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Second) // what still ran would have written by now
	for time.Now().Before(deadline) {
		if now, err := os.ReadFile(b.path("handover", "ending.json")); err != nil || string(now) != string(before) {
			t.Fatalf("a process of the check has outlived it: %s, %v", now, err)
		}
	}
}

// A check sees the whole image, whatever layers the build left in registries, and its bills of materials as documents.
func TestWhatIsChecked(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	base := registrytest.RandomImage(t, 2, 200)
	r.Push(t, "base/run:1", base)
	image := appended(t, base)
	b := newBench(t, image)
	want := digest(t, image)
	for _, layer := range layers(t, base) {
		if err := os.Remove(filepath.Join(b.workspace.Image(), "blobs", "sha256", layer.Hex)); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	dir := imagelayout.Dir(b.workspace.Image())
	root, err := attestation.Attach(dir, v1.Descriptor{
		MediaType: "application/vnd.docker.distribution.manifest.v2+json", Digest: want, Size: int64(len(raw)),
	}, attestation.Predicate{Type: attestation.SPDX, Content: map[string]any{"spdxVersion": "SPDX-2.3"}},
		attestation.Predicate{Type: attestation.Provenance, Content: map[string]any{"buildDefinition": 1}})
	if err == nil {
		err = dir.WriteIndex(root)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.more = []string{
		"--image-digest=" + root.Digest.String(), "--registry-pull-secret=" + r.DockerConfig, "--ca-bundle=" + r.CAFile,
		fmt.Sprintf(`--base-images=["%s/base/run@%s"]`, r.Host, digest(t, base)),
	}
	e := b.all("cat " + b.path("prepared") + "/sbom/1.spdx.json; ls " + b.path("prepared") + "/sbom; exit 1")
	if !strings.Contains(e.report.Message, `{"spdxVersion":"SPDX-2.3"}1.spdx.json`) {
		t.Errorf("the check has other bills of materials: %s\n%s", e.report.Line(), e.output)
	}
	index, err := layout.ImageIndexFromPath(b.path("prepared", "image"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest != want {
		t.Fatalf("the layout has %+v, %v, want %s alone", manifest, err, want)
	}
	whole, err := index.Image(want)
	if err == nil {
		err = validate.Image(whole)
	}
	if err != nil {
		t.Error(err)
	}

	// What fails before the check is said at the end, and no check runs.
	for name, test := range map[string]struct {
		args   []string
		reason outcome.Reason
		says   string
	}{
		"another image": {[]string{"--image-digest=sha256:" + strings.Repeat("1", 64)}, outcome.ImageInvalid,
			"which the build step made"},
		"no base image":  {[]string{"--base-images=[]"}, outcome.ImageInvalid, "no base image is given"},
		"no credentials": {[]string{"--registry-pull-secret=" + b.path("none")}, outcome.BaseImageUnavailable, "401"},
		"credentials that never come": {
			[]string{"--registry-pull-secret=" + b.path("none"), "--pull-secret-required=true"},
			outcome.AuthenticationFailed, "not there within 0 s",
		},
		"another source": {[]string{"--source-digest=sha256:" + strings.Repeat("1", 64)}, outcome.SourceChanged, ""},
	} {
		e := b.all("touch "+b.path("ran"), append(test.args, "--max-attempts=1")...)
		if e.report.Reason != test.reason || !strings.Contains(e.report.Message, test.says) {
			t.Errorf("%s: ended with %s", name, e.report.Line())
		}
		if _, err := os.Stat(b.path("ran")); err == nil {
			t.Errorf("%s: the check ran", name)
		}
	}
}

// TestGateOfSeveralPlatforms wants each image of an index to be checked, and what is said to name its platform.
func TestGateOfSeveralPlatforms(t *testing.T) {
	t.Parallel()
	of := map[string]v1.Image{}
	index := mutate.IndexMediaType(emptyIndex, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		image := registrytest.RandomImage(t, 1, 100)
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config = config.DeepCopy()
		config.OS, config.Architecture = "linux", arch
		if of[arch], err = mutate.ConfigFile(image, config); err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: of[arch], Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	clean, vulnerable := sarif("CVE-2024-0003 2"), sarif("CVE-2024-0001 9.8")
	for name, test := range map[string]struct {
		amd64, arm64 string // scripts
		args         []string
		reason       outcome.Reason
		says         []string
		summary      string
		runs         int // in the report that is kept
	}{
		"both pass": {"echo fine > $R/summary", "true", nil, outcome.Succeeded, nil, "linux/amd64: fine", 0},
		"one fails": {"true", "exit 3", nil, outcome.CheckFailed,
			[]string{"linux/arm64: the check ended with exit code 3"}, "", 0},
		"both fail": {"exit 2", "exit 3", nil, outcome.CheckFailed,
			[]string{"linux/amd64: the check ended with exit code 2", "linux/arm64: the check ended with exit code 3"},
			"", 0},
		"one is vulnerable": {clean, vulnerable, []string{"--severity=high"}, outcome.VulnerabilitiesFound,
			[]string{"linux/arm64: of severity high or above: 1 (1 critical)", "CVE-2024-0001"},
			"linux/amd64: 1 low; linux/arm64: 1 critical", 2},
		"one has no report": {clean, "true", []string{"--severity=high"}, outcome.CheckFailed,
			[]string{"linux/arm64: the check left no report"}, "", 0},
		"one takes too long": {"sleep 60", "true", []string{"--check-timeout=1"}, outcome.Timeout,
			[]string{"linux/amd64: the check did not end within 1s"}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, of["amd64"])
			if err := os.RemoveAll(b.workspace.Image()); err != nil {
				t.Fatal(err)
			}
			path, err := layout.Write(b.workspace.Image(), emptyIndex)
			if err != nil {
				t.Fatal(err)
			}
			if err := path.AppendIndex(index); err != nil {
				t.Fatal(err)
			}
			script := "R=" + b.path("results") + "\nL=" + b.path("prepared", "image") + "\n" +
				"test $(ls $L/blobs/sha256 | wc -l) = 3 || exit 9\n" +
				"if grep -q " + digest(t, of["amd64"]).Hex + " $L/index.json; then\n" + test.amd64 + "\nelse\n" +
				"grep -q " + digest(t, of["arm64"]).Hex + " $L/index.json || exit 9\n" + test.arm64 + "\nfi"
			e := b.all(script, test.args...)
			e.want(t, test.reason, test.says, test.summary)
			raw, _ := os.ReadFile(b.path("of-decide", "results.sarif"))
			var kept struct{ Runs []any }
			if len(raw) > 0 {
				if err := json.Unmarshal(raw, &kept); err != nil {
					t.Fatal(err)
				}
			}
			if len(kept.Runs) != test.runs {
				t.Errorf("the report that is kept has %d runs, want %d", len(kept.Runs), test.runs)
			}
		})
	}
}

// Decide believes no folder that prepare or check did not leave.
func TestDecideAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t, registrytest.RandomImage(t, 1, 100))
	if e := b.run("decide", "true"); e.report.Reason != outcome.InvalidParameters {
		t.Errorf("without prepare it ends with %s", e.report.Line())
	}
	b.run("prepare", "true")
	if e := b.run("decide", "true"); e.report.Reason != outcome.CheckFailed ||
		!strings.Contains(e.report.Message, "nothing that tells how it ended") {
		t.Errorf("without a check it ends with %s", e.report.Line())
	}
}
