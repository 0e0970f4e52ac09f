package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
)

const openchoreo = "github.com/openchoreo/openchoreo"

// question and answer are what testdata/controller reads and writes.
type question struct {
	Run         *v1alpha1.WorkflowRun
	Workflow    v1alpha1.WorkflowSpec
	SecretStore string
	Refs        map[string]any
}

type answer struct {
	Workflow  map[string]any
	Resources []map[string]any
	Error     string
}

// moduleDir is OpenChoreo's module, as go.mod names it.
var moduleDir = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", openchoreo).Output()
	return strings.TrimSpace(string(out)), err
})

// controller is a program of OpenChoreo's own code.
var controller struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(controller.dir)
	os.Exit(code)
}

// ask has OpenChoreo's own code render runs.
func ask(t testing.TB, questions []question) []answer {
	t.Helper()
	if testing.Short() {
		t.Skip("builds OpenChoreo's controller")
	}
	controller.Do(func() {
		if controller.dir, controller.err = os.MkdirTemp("", "stepwright-controller-"); controller.err == nil {
			controller.err = buildController(controller.dir)
		}
	})
	if controller.err != nil {
		t.Fatal(controller.err)
	}
	var in, stderr bytes.Buffer
	for _, q := range questions {
		if err := json.NewEncoder(&in).Encode(q); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(filepath.Join(controller.dir, "controller"))
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	answers := make([]answer, len(questions))
	dec := json.NewDecoder(bytes.NewReader(out))
	for i := range answers {
		if err := dec.Decode(&answers[i]); err != nil {
			t.Fatal(err)
		}
	}
	return answers
}

// buildController builds testdata/controller inside a copy of OpenChoreo's module: only there may it import internal
// packages.
func buildController(dir string) error {
	source, err := moduleDir()
	if err != nil {
		return err
	}
	module := filepath.Join(dir, "openchoreo")
	for _, part := range []string{"api", "internal"} {
		if err := os.CopyFS(filepath.Join(module, part), os.DirFS(filepath.Join(source, part))); err != nil {
			return err
		}
	}
	program := filepath.Join(module, "cmd", "controller")
	if err := os.CopyFS(program, os.DirFS("testdata/controller")); err != nil {
		return err
	}
	for _, file := range []string{"controller/workflowrun/controller.go", "webhook/workflow/webhook.go"} {
		if err := extract(
			filepath.Join(source, "internal", file), filepath.Join(program, strings.ReplaceAll(file, "/", "_")),
		); err != nil {
			return err
		}
	}
	theirs, err := os.ReadFile(filepath.Join(source, "go.mod"))
	if err != nil {
		return err
	}
	ours, err := os.ReadFile("../../../go.mod")
	if err != nil {
		return err
	}
	sums, err := os.ReadFile("../../../go.sum")
	if err != nil {
		return err
	}
	for path, text := range map[string][]byte{
		filepath.Join(module, "go.mod"): theirs,
		filepath.Join(dir, "go.mod"):    fmt.Appendf(ours, "\nreplace %s => %s\n", openchoreo, module),
		filepath.Join(dir, "go.sum"):    sums,
	} {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	out, err := exec.Command("go", "build", "-modfile="+
		filepath.Join(dir, "go.mod"), "-o", filepath.Join(dir, "controller"), openchoreo+
		"/cmd/controller").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// extract copies the functions that the program needs out of packages that link half of Kubernetes.
func extract(source, target string) error {
	wanted := []string{
		"InjectServiceAccountName",
		"convertParameterValuesToStrings", "convertSpecParametersToStrings", "convertArgumentsParametersToStrings",
		"convertParameterListToStrings", "convertToString",
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, source, nil, 0)
	if err != nil {
		return err
	}
	text := bytes.NewBufferString(
		"package main\n\nimport (\n\"encoding/json\"\n\"fmt\"\n\"k8s.io/apimachinery/pkg/runtime\"\n)\n\n" +
			"var _ runtime.RawExtension\n",
	)
	if strings.HasSuffix(source, "controller.go") {
		text = bytes.NewBufferString("package main\n\nimport (\n\"encoding/json\"\n\"fmt\"\n)\n")
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && slices.Contains(wanted, f.Name.Name) {
			text.WriteString("\n\n")
			if err := format.Node(text, files, f); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(target, text.Bytes(), 0o644)
}
