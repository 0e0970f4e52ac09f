package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/stepwright/stepwright/schemas"
)

// noBuilder is the label builder of the steps that build nothing.
const noBuilder = "none"

// buckets are the bounds of the histograms of durations, in seconds: of a step, and of a run.
var (
	stepBuckets = []int{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600}
	runBuckets  = []int{10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200}
)

// stepMetrics are the metrics of a step's template, as YAML; Argo keeps them. The exit code tells the reason, since
// each reason has one of its own, and Argo knows the exit code also where the step wrote nothing.
func stepMetrics(step, builder string) string {
	of := func(choice string) string { return ">-\n" + choice }
	return fmt.Sprintf(`metrics:
  prometheus:
    - name: stepwright_step_duration_seconds
      help: How long the pod of a step took, the wait for its node included.
      labels:
        - {key: step, value: %[1]s}
        - {key: builder, value: %[2]s}
        - {key: status, value: '{{status}}'}
      histogram:
        buckets: [%[3]s]
        value: '{{duration}}'
    - name: stepwright_step_outcomes_total
      help: How steps ended that had an exit code, by its reason.
      labels:
        - {key: step, value: %[1]s}
        - {key: builder, value: %[2]s}
        - key: reason
          value: %[4]s
        - key: class
          value: %[5]s
      counter:
        value: "1"
`, step, builder, numbers(stepBuckets), of(reasons()),
		of(classes()))
}

// width is about how many columns a line of an expression has.
const width = 110

// reasons is an expression for Argo that looks up the exit code. Each pod and each Workflow has it, so it is short. It
// has nothing that JSON would escape, be it a quote or the end of a line: Argo looks at it also where its template is a
// text of JSON in the JSON of a pod, and wants to understand it there.
func reasons() string {
	const indent = "            "
	var b strings.Builder
	line := indent + "{{={"
	for i, reason := range schemas.Reasons() {
		entry := fmt.Sprintf("'%d':'%s'", reason.ExitCode, reason.Name)
		if i > 0 {
			line += ","
		}
		if len(line)+len(entry) > width {
			b.WriteString(line + "\n")
			line = indent
		}
		line += entry
	}
	b.WriteString(line + "}[exitCode]??'unknown'}}")
	return b.String()
}

// classes is an expression that chooses by the exit code, of which most classes have many.
func classes() string {
	codes := map[string][]string{}
	var all []string
	for _, reason := range schemas.Reasons() {
		if len(codes[reason.Class]) == 0 {
			all = append(all, reason.Class)
		}
		codes[reason.Class] = append(codes[reason.Class], "'"+strconv.Itoa(reason.ExitCode)+"'")
	}
	const indent = "            "
	var b strings.Builder
	b.WriteString(indent + "{{=\n")
	for _, class := range all {
		if of := codes[class]; len(of) == 1 {
			fmt.Fprintf(&b, "%sexitCode==%s?'%s':\n", indent, of[0], class)
		} else {
			fmt.Fprintf(&b, "%sexitCode in [%s]?'%s':\n", indent, strings.Join(of, ","), class)
		}
	}
	b.WriteString(indent + `'unknown'}}`)
	return b.String()
}

func numbers(all []int) string {
	var texts []string
	for _, n := range all {
		texts = append(texts, strconv.Itoa(n))
	}
	return strings.Join(texts, ", ")
}

// runMetrics are the metrics of the runs of a builder's ClusterWorkflow, as YAML.
func runMetrics(builder string) string {
	return fmt.Sprintf(`metrics:
  prometheus:
    - name: stepwright_run_duration_seconds
      help: How long a run took, from its creation to its end.
      labels: [{key: builder, value: %s}, {key: status, value: '{{workflow.status}}'}]
      histogram:
        buckets: [%s]
        value: '{{workflow.duration}}'
`, builder, numbers(runBuckets))
}

// withMetrics is the text of a step's template with its metrics made anew.
func withMetrics(path, text string) (string, error) {
	_, after, _ := strings.Cut(text, "\n  name: ")
	name, _, _ := strings.Cut(after, "\n")
	_, after, _ = strings.Cut(text, "\n    stepwright.dev/schema: ")
	step, _, _ := strings.Cut(after, "\n")
	builder := noBuilder
	if strings.Contains(text, "\n    - name: build-image\n") {
		builder = name
	}
	return withSections(path, text, stepMetrics(step, builder))
}
