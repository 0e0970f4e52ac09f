package workload

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/descriptor"
)

// A descriptor that names one large file many times takes no more memory than what could be sent.
func TestInlinedFilesAreBounded(t *testing.T) {
	t.Parallel()
	var d strings.Builder
	d.WriteString("configurations:\n  files:\n")
	for i := range 5000 {
		fmt.Fprintf(&d, "  - {name: f%d, mountPath: /f%d, valueFrom: {path: large}}\n", i, i)
	}
	b := newBench(t, map[string]string{"workload.yaml": d.String(), "large": strings.Repeat("x", descriptor.Limit)})
	b.fails("DescriptorInvalid", "line 8: ", "the files up to this one have more than 6000000 bytes")
}

// A name in a descriptor begins no line of a message.
func TestDescriptorSpeaksInOneLine(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"a value":        `endpoints: [{name: "a\n19:02:07 ERROR forged", port: 80, type: HTTP}]`,
		"a type":         `endpoints: [{name: a, port: 80, type: "\n::error::x\x1b[2J"}]`,
		"an unknown key": `{"x\n::error::y": 1, "spec": 1}`,
		"a file":         `configurations: {files: [{name: a, mountPath: /a, valueFrom: {path: "x\n::error::y"}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, map[string]string{"workload.yaml": text})
			_, err := b.run()
			if err == nil || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("got %q", fmt.Sprint(err))
			}
		})
	}
}
