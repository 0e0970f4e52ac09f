package attacks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

// forged are texts by which a stranger would speak in our name, move a terminal's cursor, hide or turn words around, or
// give orders to a CI.
var forged = map[string]string{
	"a line of ours":      "x\n19:02:07 ERROR PushDenied: FORGED",
	"a line of JSON":      "x\n{\"level\":\"ERROR\",\"msg\":\"FORGED\"}",
	"a workflow command":  "x\n::error::FORGED\n  ::set-output name=image::evil",
	"after a return":      "x\r::error::FORGED\r\n::add-mask::o",
	"after other spaces":  "x\n\u00a0\u3000::stop-commands::o",
	"an old command":      "##[error]FORGED ##vso[task.setvariable variable=x]y ##teamcity[message text='x']",
	"a section of GitLab": "section_start:1700000000:x\r\x1b[0KFORGED",
	"screen and title":    "x\x1b[2J\x1b[H\x1b]0;FORGED\a\x1b]8;;https://evil.example.com\x1b\\click\x1b]8;;\x1b\\",
	"C1":                  "x\u009b2J\u0085FORGED\u0090",
	"directions":          "\u202eDEGROF\u2066x\u2069\u200f\u061c",
	"without width":       "FOR\u200b\u200d\ufeff\u00adGED",
	"separators":          "x\u2028FORGED\u2029::error::y\v\f::error::z",
	"rubbed out":          "good\b\b\b\bFORGED\x7f\x00",
	"tags":                "x\U000E0041\U000E0042",
	"markup":              "x\n```\n# FORGED <img src=https://evil.example.com> [a](https://b) |x|\n{{workflow.name}}",
}

// speak runs a step as a CI's job does, with its files in a folder, and returns what people and CIs get to see of it.
func speak(t *testing.T, dir, name string, flags ...string) ending {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e := ending{results: filepath.Join(dir, "results")}
	write(t, dir, map[string]string{"message": "", "outputs": "", "summary": ""})
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), append(
		flags, "--results-dir="+e.results, "--termination-message-path="+filepath.Join(dir, "message"),
		"--max-attempts=1",
	)...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + os.TempDir(), "GITHUB_ACTIONS=true",
		"GITHUB_OUTPUT=" + filepath.Join(dir, "outputs"), "GITHUB_STEP_SUMMARY=" + filepath.Join(dir, "summary"),
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // the outcome says how it ended
	if ctx.Err() != nil {
		t.Fatalf("%s does not end", name)
	}
	e.code, e.stdout, e.stderr = cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
	raw, err := os.ReadFile(filepath.Join(e.results, "outcome.json"))
	if err == nil {
		err = json.Unmarshal(raw, &e.report)
	}
	if err != nil {
		t.Fatalf("%s left no outcome: %v\n%.2000s", name, err, e.stderr)
	}
	return e
}

var (
	// ours is how a line of a log in text begins.
	ours = regexp.MustCompile(`^(\d\d:\d\d:\d\d |\| )`)
	// commands are what a CI obeys in a line.
	commands = regexp.MustCompile(`(?m)^\s*::[a-zA-Z]|##[a-zA-Z]*\[`)
)

// visible fails the test if a text holds what a person does not see or a CI obeys.
func visible(t *testing.T, where, text string) {
	t.Helper()
	if i := strings.IndexFunc(text, func(r rune) bool {
		return !quote.Visible(r) && r != '\n' && r != '\t'
	}); i >= 0 || !utf8.ValidString(text) {
		t.Errorf("%s holds what nobody sees: %.300q", where, text[max(i, 0):])
	}
	if found := commands.FindString(text); found != "" {
		t.Errorf("%s holds a command, %q: %.300q", where, found, text)
	}
}

// harmless fails the test if any text that a step left would be obeyed, or taken for another's.
func (e ending) harmless(t *testing.T, dir, format string) {
	t.Helper()
	texts := map[string]string{
		"the log": e.stderr, "stdout": e.stdout, "the message": e.report.Message, "the hint": e.report.Hint,
	}
	for _, name := range []string{"message", "outputs", "summary"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(raw)
	}
	for name, value := range e.report.Results {
		texts["result "+name] = value
		if value != e.result(name) || strings.Contains(value, "\n") || strings.Contains(value, "{{") {
			t.Errorf("result %s is %q, its file %q", name, value, e.result(name))
		}
	}
	for where, text := range texts {
		visible(t, where, text)
	}
	if len(texts["message"]) > 4096 || len(e.stderr) > 100_000 || len(e.report.Message) > 20_000 {
		t.Errorf("%d bytes of message, %d of log", len(e.report.Message), len(e.stderr))
	}
	if strings.Contains(e.report.Message, "\n19:02:07") || strings.Contains(e.report.Message, "\n{") {
		t.Errorf("a stranger begins a line of the message: %q", e.report.Message)
	}
	for line := range strings.Lines(e.stderr) {
		if format == "json" && !json.Valid([]byte(line)) {
			t.Errorf("%q is not JSON", line)
		}
		if format == "text" && !ours.MatchString(line) || strings.HasPrefix(line, "19:02:07") {
			t.Errorf("%q is neither a line of ours nor marked as another's", line)
		}
	}
	e.outputs(t, texts["outputs"])
	summary(t, texts["summary"])
}

// outputs fails the test unless a runner finds results and reason in the file of outputs, and nothing that a stranger
// has made up.
func (e ending) outputs(t *testing.T, text string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		name, end, ok := strings.Cut(lines[i], "<<")
		if _, known := e.report.Results[name]; !ok || !known && name != "reason" {
			t.Fatalf("there is an output %q", lines[i])
		}
		for i++; i < len(lines) && lines[i] != end; i++ {
			continue
		}
	}
}

// summary fails the test unless what strangers say is text in a summary: inside the fence, or escaped.
func summary(t *testing.T, text string) {
	t.Helper()
	_, inside, _ := strings.Cut(text, "\n\n")
	fence, rest, fenced := strings.Cut(inside, "\n")
	if fenced && strings.HasPrefix(fence, "```") {
		said, after, closed := strings.Cut(rest, "\n"+fence+"\n")
		if inside = after; !closed || strings.Contains("\n"+said, "\n"+fence) {
			t.Errorf("the fence is left:\n%s", text)
		}
	}
	for cell := range strings.SplitSeq(inside, "<code>") {
		if cell, _, ok := strings.Cut(cell, "</code>"); ok && strings.ContainsAny(cell, "`*[]<>|:\n") {
			t.Errorf("markup of a stranger's:\n%s", text)
		}
	}
}

// each runs an attack with every forged text and log formats.
func each(t *testing.T, formats []string, attack func(t *testing.T, text, dir, format string) ending) {
	t.Helper()
	for name, text := range forged {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, format := range formats {
				dir := t.TempDir()
				attack(t, text, dir, "--log-format="+format).harmless(t, dir, format)
			}
		})
	}
}

var asText, inBoth = []string{"text"}, []string{"text", "json"}

// register are the flags of generate-workload-cr for the descriptor in a folder.
func register(dir, format string) []string {
	return []string{
		"--dry-run", "--descriptor=" + filepath.Join(dir, "app"), "--image=registry.example.com/acme/cart:v1", format,
		"--namespace-name=acme", "--project-name=shop", "--component-name=cart",
	}
}

func encode(t *testing.T, value any) string {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range string(raw) {
		if r >= 0x7f && r < 0xa0 { // of control characters YAML takes only such
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Names and values in a descriptor.
func TestTextsOfDescriptors(t *testing.T) {
	t.Parallel()
	each(t, inBoth, func(t *testing.T, text, dir, format string) ending {
		write(t, dir, map[string]string{"app/workload.yaml": strings.ReplaceAll(`{
"endpoints": [
  {"name": @, "displayName": @, "port": 80, "type": @, "schemaFile": @, "visibility": [@]},
  {"name": @, "port": 0, "type": "HTTP"}
],
"dependencies": {"endpoints": [{"component": @, "name": @, "visibility": @, "envBindings": {"address": @}}]},
"configurations": {
  "env": [{"name": @, "value": @, "valueFrom": {"path": @}}],
  "files": [{"name": @, "mountPath": @, "valueFrom": {"path": @}}]
},
@: 1
}`, "@", encode(t, text))})
		e := speak(t, dir, "generate-workload-cr", register(dir, format)...)
		if e.report.Reason != outcome.PathEscapesRepository { // a file's name may do so, too
			e.refused(t, outcome.DescriptorInvalid)
		}
		return e
	})
}

// What a dry run prints is data, and fit for a terminal all the same.
func TestTextsOfADryRun(t *testing.T) {
	t.Parallel()
	each(t, asText, func(t *testing.T, text, dir, format string) ending {
		write(t, dir, map[string]string{
			"app/workload.yaml": `{"configurations": {"env": [{"name": "GREETING", "value": ` + encode(t, text) +
				`}]}}`,
		})
		e := speak(t, dir, "generate-workload-cr", register(dir, format)...)
		e.refused(t, outcome.Succeeded)
		var made struct {
			Spec struct {
				Container struct{ Env []struct{ Value string } }
			}
		}
		if err := json.Unmarshal([]byte(e.stdout), &made); err != nil || len(made.Spec.Container.Env) != 1 ||
			made.Spec.Container.Env[0].Value != text {
			t.Errorf("%v: %s", err, e.stdout)
		}
		return e
	})
}

// Values of parameters that do not fit.
func TestTextsOfParameters(t *testing.T) {
	t.Parallel()
	each(t, asText, func(t *testing.T, text, dir, format string) ending {
		text = strings.ReplaceAll(text, "\x00", "")
		e := speak(t, dir, "generate-workload-cr", format, "--namespace-name="+text, "--project-name="+text,
			"--component-name="+text, "--image="+text, "--"+text+"=x", text, "--wait="+text)
		e.refused(t, outcome.InvalidParameters)
		return e
	})
}

// header leaves out what cannot stand in a header.
func header(text string) []string {
	return []string{strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, text)}
}

// The words of an API that refuses, or of what stands before it.
func TestTextsOfAnAPI(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(w http.ResponseWriter, text string){
		"refusal": func(w http.ResponseWriter, text string) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(map[string]string{"error": text, "code": text})
		},
		"plain": func(w http.ResponseWriter, text string) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusForbidden)
			w.Write([]byte(text + "\xff"))
		},
		"no API": func(w http.ResponseWriter, text string) {
			w.Header()["Content-Type"] = header("text/html; x=" + text)
			w.Write([]byte(text))
		},
		"another place": func(w http.ResponseWriter, text string) {
			w.Header()["Location"] = header("https://evil.example.com/" + text)
			w.WriteHeader(http.StatusFound)
		},
		"names": func(w http.ResponseWriter, text string) {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(map[string]any{"items": []any{map[string]any{
				"metadata": map[string]any{"name": text, "namespace": text},
				"spec":     map[string]any{"owner": map[string]any{"projectName": "shop", "componentName": "cart"}},
			}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, asText, func(t *testing.T, text, dir, format string) ending {
				var asked atomic.Int32
				api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					asked.Add(1)
					answer(w, text)
				}))
				t.Cleanup(api.Close)
				write(t, dir, map[string]string{"token": "canary-7f3a", "app/workload.yaml": ""})
				e := speak(t, dir, "generate-workload-cr", append(
					register(dir, format), "--dry-run=false", "--api-server-url="+api.URL, "--insecure-plain-http",
					"--token-file="+filepath.Join(dir, "token"),
				)...)
				if asked.Load() == 0 {
					t.Errorf("it asked for nothing: %s", e.stderr)
				}
				return e
			})
		})
	}
}

// Words of a registry, and annotations, labels and names in a layout that a build has left.
func TestTextsOfRegistriesAndLayouts(t *testing.T) {
	t.Parallel()
	each(t, asText, func(t *testing.T, text, dir, format string) ending {
		registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			json.NewEncoder(w).Encode(map[string]any{"errors": []any{
				map[string]any{"code": text, "message": text}, map[string]any{"code": "DENIED", "message": text},
			}})
		}))
		t.Cleanup(registry.Close)
		host := strings.TrimPrefix(registry.URL, "http://")
		layout(t, filepath.Join(dir, "vol", "image"), text)
		e := speak(t, dir, "publish-image", "--registry="+host, "--image-name=cart", "--insecure-plain-http",
			"--workspace="+filepath.Join(dir, "vol"), format)
		e.refused(t, outcome.PushDenied)
		return e
	})
}

// layout writes an image layout whose annotations, labels and configuration say a text.
func layout(t *testing.T, dir, text string) {
	t.Helper()
	files := map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}
	annotations := map[string]any{
		"org.opencontainers.image.base.name": text, "org.opencontainers.image.source": text, text: text,
		"org.opencontainers.image.ref.name": text,
	}
	blob := func(kind string, content map[string]any) map[string]any {
		raw := encode(t, content)
		digest := fmt.Sprintf("%x", sha256.Sum256([]byte(raw)))
		files["blobs/sha256/"+digest] = raw
		return map[string]any{
			"mediaType": "application/vnd.oci.image." + kind + ".v1+json", "digest": "sha256:" + digest,
			"size": len(raw), "annotations": annotations,
		}
	}
	config := blob("config", map[string]any{
		"architecture": "amd64", "os": "linux", "author": text,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []any{}},
		"config": map[string]any{"Labels": annotations},
	})
	files["index.json"] = encode(t, map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "annotations": annotations,
		"manifests": []any{blob("manifest", map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
			"layers": []any{}, "annotations": annotations,
		})},
	})
	write(t, dir, files)
}

// Words of a Git server.
func TestTextsOfGitServers(t *testing.T) {
	t.Parallel()
	packet := func(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }
	each(t, asText, func(t *testing.T, text, dir, format string) ending {
		git := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			w.Write([]byte(packet("# service=git-upload-pack\n") + "0000" + packet("ERR "+text+"\xff\n")))
		}))
		t.Cleanup(git.Close)
		e := speak(t, dir, "checkout-source", "--git-repo="+git.URL+"/x.git", "--branch=main", "--git-secret-dir=",
			"--workspace="+filepath.Join(dir, "vol"), format)
		e.refused(t, outcome.GitServerUnavailable, "the server says")
		return e
	})
}

// A step that is killed without warning, as by the kernel for want of memory, has left why.
func TestKilledStepLeavesAnOutcome(t *testing.T) {
	t.Parallel()
	asked, dir := make(chan struct{}, 1), t.TempDir()
	git := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-r.Context().Done()
	}))
	t.Cleanup(git.Close)
	write(t, dir, map[string]string{"message": ""})
	cmd := exec.Command(
		filepath.Join(bin, "checkout-source"), "--git-repo="+git.URL+"/x.git", "--branch=main", "--git-secret-dir=",
		"--workspace="+filepath.Join(dir, "vol"), "--results-dir="+filepath.Join(dir, "results"),
		"--termination-message-path="+filepath.Join(dir, "message"),
	)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(patience):
		t.Error("it asks for nothing")
	}
	cmd.Process.Kill()
	cmd.Wait()
	report, err := outcome.Read(filepath.Join(dir, "results"))
	message, _ := os.ReadFile(filepath.Join(dir, "message"))
	if err != nil || report.Reason != outcome.Killed || report.ExitCode != 137 ||
		!strings.HasPrefix(string(message), "Killed: ") {
		t.Errorf("%+v, %v, %q", report, err, message)
	}
}

// bomb is a descriptor whose each line names the one before ten times.
func bomb(form string) string {
	lines := []string{"a0: &a0 {x: y}"}
	for i := 1; i < 12; i++ {
		before := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", ")
		lines = append(lines, fmt.Sprintf("a%d: &a%d "+form, i, i, before))
	}
	return strings.Join(lines, "\n")
}

// Descriptors that grow when they are read end soon, and take little memory.
func TestBombs(t *testing.T) {
	t.Parallel()
	var files strings.Builder
	files.WriteString("configurations:\n  files:\n")
	for i := range 4000 {
		fmt.Fprintf(&files, "  - {name: f%d, mountPath: /f%d, valueFrom: {path: large}}\n", i, i)
	}
	for name, descriptor := range map[string]string{
		"aliases":           bomb("[%s]"),
		"merged aliases":    bomb("{<<: [%s]}"),
		"deep lists":        "endpoints: " + strings.Repeat("[", 500_000),
		"deep maps":         "endpoints: " + strings.Repeat("{a: ", 100_000),
		"many faults":       "endpoints:\n" + strings.Repeat("- {name: a}\n", 20_000),
		"one large name":    "endpoints: [{name: " + strings.Repeat("x", 1_000_000) + ", port: 80, type: HTTP}]",
		"too large":         strings.Repeat("# x\n", 500_000),
		"a file many times": files.String(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, map[string]string{
				"app/workload.yaml": descriptor, "app/large": strings.Repeat("x", 1_000_000),
			})
			started := time.Now()
			e := speak(t, dir, "generate-workload-cr", register(dir, "--log-format=text")...)
			e.refused(t, outcome.DescriptorInvalid)
			e.harmless(t, dir, "text")
			if took := time.Since(started); took > 30*time.Second || e.report.PeakMemoryBytes > 400<<20 {
				t.Errorf("it took %s and %d MiB", took, e.report.PeakMemoryBytes>>20)
			}
		})
	}
}

// kept makes a run of this machine, as if its only task had written this, and had failed with this message.
func kept(t *testing.T, state, log, message string) {
	t.Helper()
	const began, ended = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"
	write(t, filepath.Join(state, "runs", "acme", "cart-1"), map[string]string{
		"logs/build.log": log,
		"workflowrun.yaml": encode(t, map[string]any{
			"apiVersion": "openchoreo.dev/v1alpha1", "kind": "WorkflowRun",
			"metadata": map[string]any{
				"name": "cart-1", "namespace": "acme", "creationTimestamp": began,
				"labels": map[string]any{"openchoreo.dev/component": message},
			},
			"spec": map[string]any{"workflow": map[string]any{"name": "x", "kind": "ClusterWorkflow"}},
			"status": map[string]any{
				"completedAt": ended,
				"conditions": []any{map[string]any{
					"type": "WorkflowCompleted", "status": "True", "reason": "WorkflowFailed", "message": message,
					"lastTransitionTime": ended,
				}},
				"tasks": []any{map[string]any{
					"name": "build", "phase": "Failed", "message": message, "startedAt": began, "completedAt": ended,
				}},
			},
		}),
	})
}

// show runs a command of stepwright's over the runs of this machine, and returns what it prints and how long it took.
func show(t *testing.T, state string, args ...string) (string, time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	started := time.Now()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "stepwright"), append(args, "--state="+state)...).
		CombinedOutput()
	if err != nil {
		t.Fatalf("stepwright %s: %v\n%.1000s", args, err, out)
	}
	return string(out), time.Since(started)
}

// What the command prints of a run.
func TestTextsOfRuns(t *testing.T) {
	t.Parallel()
	for name, text := range forged {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			state := t.TempDir()
			kept(t, state, text+"\n\xff"+text+"\n", text)
			for _, args := range []string{
				"list", "get cart-1", "get cart-1 -o yaml", "get cart-1 -o json", "logs cart-1",
			} {
				out, _ := show(t, state, strings.Fields(args)...)
				visible(t, args, out)
			}
		})
	}
}

// A log without the end of a line takes time in proportion to its length.
func TestEndlessLine(t *testing.T) {
	t.Parallel()
	cost := func(size int) time.Duration {
		state := t.TempDir()
		kept(t, state, strings.Repeat("x", size), "")
		out, took := show(t, state, "logs", "cart-1", "build")
		if n := strings.Count(out, "x"); n != size {
			t.Errorf("%d of %d bytes are there", n, size)
		}
		return took
	}
	if small, large := cost(8_000_000), cost(80_000_000); large > 20*small+5*time.Second {
		t.Errorf("8 MB took %s, 80 MB %s", small, large)
	}
}

// What is no file is not waited for, and not read without an end.
func TestNoFiles(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(path string) error{
		"a pipe":   func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"a device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"a folder": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, folder := range []string{"report", "secret"} {
				write(t, dir, map[string]string{folder + "/x": ""})
			}
			if err := leave(filepath.Join(dir, "report", "outcome.json")); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := outcome.Read(filepath.Join(dir, "report"))
				done <- err
			}()
			select {
			case err := <-done:
				if err == nil {
					t.Error("it is taken for a report")
				}
			case <-time.After(patience):
				t.Error("a report is waited for")
			}
			if err := leave(filepath.Join(dir, "secret", "username")); err != nil {
				t.Fatal(err)
			}
			e := speak(t, dir, "checkout-source", "--git-repo=http://127.0.0.1:1/x.git", "--branch=main",
				"--git-secret-dir="+filepath.Join(dir, "secret"), "--workspace="+filepath.Join(dir, "vol"))
			if e.code == 0 {
				t.Error("it succeeded")
			}
		})
	}
}
