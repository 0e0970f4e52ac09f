package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// What the page of a thousand runs must show, and the limits that OpenChoreo's charts give its programs.
const (
	goalRuns       = 1000
	argoLimit      = 512.0  // MiB
	managerLimit   = 1024.0 // MiB, controllerManager.resources.limits.memory of openchoreo-control-plane
	agentLimit     = 256.0  // MiB, clusterAgent.resources.limits.memory of openchoreo-workflow-plane
	goalMultiplier = 2.0
)

// pages are the files that show results, by their names.
func pages(all []result) map[string]string {
	files := map[string]string{"scale.md": page(all)}
	for _, r := range all {
		if name := r.plot(); name != "" {
			files[name] = plot(r)
		}
	}
	return files
}

// plot is the name of the file that shows how an experiment went, if it took long enough for that.
func (r result) plot() string {
	if r.Runs < 100 {
		return ""
	}
	name := fmt.Sprintf("scale-%d", r.Runs)
	if r.Name != recommended {
		name += "-" + r.Name
	}
	if r.Rate > 0 {
		name += "-" + strconv.FormatFloat(r.Rate, 'f', -1, 64)
	}
	return name + ".svg"
}

func page(all []result) string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString(goals(all))
	b.WriteString(recommendations(all))
	if len(all) == 0 {
		return b.String()
	}
	b.WriteString(experiments(all))
	b.WriteString(controllers(all))
	b.WriteString(costs(all))
	b.WriteString(keep(all))
	heading := "\n## How it went\n" // where there is something to see
	for _, r := range all {
		if name := r.plot(); name != "" {
			fmt.Fprintf(
				&b, "%s\n![%s over time: runs, queues, memory, processors and requests](%s)\n",
				heading, r.title(), name,
			)
			heading = ""
		}
	}
	b.WriteString(measured(all))
	return b.String()
}

// title names an experiment for people.
func (r result) title() string {
	if r.Runs == 1 {
		return "1 run, " + r.settingsName()
	}
	how := "at once"
	if r.Rate > 0 {
		how = strconv.FormatFloat(r.Rate, 'f', -1, 64) + " a minute"
	}
	return fmt.Sprintf("%s runs %s, %s", thousands(r.Runs), how, r.settingsName())
}

func (r result) settingsName() string {
	if r.Name == defaults {
		return "Argo's defaults"
	}
	return "recommended settings"
}

func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// find returns the experiment of so many runs at once with the recommended settings.
func find(all []result, runs int) (result, bool) {
	i := slices.IndexFunc(all, func(r result) bool { return r.key() == [3]any{runs, recommended, 0.0} })
	if i < 0 {
		return result{}, false
	}
	return all[i], true
}

// goals compares what was measured with what was promised.
func goals(all []result) string {
	r, ok := find(all, goalRuns)
	if !ok {
		return "\n## Goals\n\n**Not shown yet:** a thousand runs at once were not measured.\n"
	}
	rows := [][]string{
		goal("runs that did not end", "0", float64(r.Unended), 0, ""),
		goal("memory of Argo's controller", "512 MiB", r.Programs[argoProgram].MiB, argoLimit, " MiB"),
		goal("memory of OpenChoreo's manager", "1,024 MiB, its chart's limit", r.Programs["manager"].MiB,
			managerLimit, " MiB"),
		goal("memory of OpenChoreo's agent", "256 MiB, its chart's limit", r.Programs["cluster-agent"].MiB, agentLimit,
			" MiB"),
		goal("claims and volumes that are left", "0", float64(r.Claims+r.Volumes), 0, ""),
	}
	if single, ok := find(all, 1); ok && single.Overhead.Median > 0 {
		rows = append(rows, goal("seconds that are no step's work, median, as a multiple of a single run's", "2",
			round(r.Overhead.Median/single.Overhead.Median), goalMultiplier, ""))
	}
	return "\n## Goals\n\nOf a thousand runs at once.\n\n" + table([]string{"", "goal, at most", "measured", ""}, rows)
}

func goal(what, limit string, got, most float64, unit string) []string {
	verdict := "met"
	if got > most {
		verdict = "**missed**"
	}
	return []string{what, limit, number(got) + unit, verdict}
}

// recommendations are the settings that recommendation has, so that the page never differs from what was measured.
func recommendations(all []result) string {
	var rows [][]string
	for _, n := range []int{10, 100, goalRuns} {
		s := recommendation(n)
		memory := "not measured"
		if r, ok := find(all, n); ok {
			s = r.Argo
			memory = number(r.Programs[argoProgram].MiB) + " MiB"
		}
		rows = append(rows, []string{
			thousands(n), strconv.Itoa(s.Workers), number(s.QPS), strconv.Itoa(s.Burst), s.Requeue,
			limited(s.Parallelism), limited(s.NamespaceParallelism), cmp.Or(s.MemoryLimit, "–"), memory,
		})
	}
	return settingsText + table([]string{
		"runs at once", "`--workflow-workers`", "`--qps`", "`--burst`", "`DEFAULT_REQUEUE_TIME`",
		"`parallelism`", "`namespaceParallelism`", "`GOMEMLIMIT`", "memory that Argo's controller took",
	}, rows) + settingsNotes
}

func limited(n int) string {
	if n == 0 {
		return "–"
	}
	return strconv.Itoa(n)
}

func experiments(all []result) string {
	var rows [][]string
	for _, r := range all {
		rows = append(rows, []string{
			r.title(), strconv.Itoa(r.Succeeded), strconv.Itoa(r.Failed), strconv.Itoa(r.Unended), number(r.Seconds),
			r.Queue.String(), r.visited(), r.Overhead.String(), r.Told.String(),
		})
	}
	return experimentsText + table([]string{
		"", "succeeded", "failed", "did not end", "all in all, s", "in Argo's queue, s",
		"the neighbour's there, s", "no step's work, s",
		"until OpenChoreo tells, s",
	}, rows) + real(all)
}

func (r result) visited() string {
	if r.Visitors == 0 {
		return "–"
	}
	return r.Visited.String()
}

// String shows the median, and what 95 of 100 and all are within.
func (q quantiles) String() string {
	return fmt.Sprintf("%s (%s, %s)", number(q.Median), number(q.P95), number(q.Max))
}

// real tells of runs on the real node, which share it with all that is measured.
func real(all []result) string {
	var rows [][]string
	for _, r := range all {
		for _, run := range r.Real {
			outcome := "failed"
			if run.Succeeded {
				outcome = "succeeded"
			}
			rows = append(rows, []string{
				r.title(), outcome, number(run.Queue), number(run.Seconds), number(run.Seconds - run.Working),
			})
		}
	}
	if rows == nil {
		return ""
	}
	return realText + table([]string{"", "", "in Argo's queue, s", "from start to end, s", "without a pod, s"}, rows)
}

// shown are the programs that the page tells of.
var shown = []string{argoProgram, "manager", "cluster-agent", "external-secrets", "kube-apiserver", "etcd"}

func controllers(all []result) string {
	var rows, deaths [][]string
	for _, r := range all {
		for _, name := range shown {
			p := r.Programs[name]
			rows = append(rows, []string{
				r.title(), "`" + name + "`", number(p.MiB), number(p.Seconds), number(p.Seconds / float64(r.all())),
				r.most(name, "rate"), r.most(name, "queue"),
			})
		}
		if r.Restart != nil {
			steady := "not seen"
			if r.Restart.Steady > 0 {
				steady = number(r.Restart.Steady)
			}
			deaths = append(deaths, []string{r.title(), number(r.Restart.At), number(r.Restart.Back), steady})
		}
	}
	text := controllersText + table([]string{
		"", "program", "memory at most, MiB", "CPU, s", "CPU each run, s", "requests each second at most",
		"queue at most",
	}, rows)
	if deaths != nil {
		text += deathText + table([]string{"", "killed after, s", "back after, s", "steady after, s"}, deaths)
	}
	return text
}

// most is the largest of a controller's figures in samples; a dash, where nobody measured them.
func (r result) most(program, what string) string {
	of := map[string]func(sample) float64{
		argoProgram + " rate":  func(s sample) float64 { return s.ArgoRate },
		argoProgram + " queue": func(s sample) float64 { return s.ArgoQueue },
		"manager rate":         func(s sample) float64 { return s.RunsRate },
		"manager queue":        func(s sample) float64 { return s.RunsQueue },
	}[program+" "+what]
	if of == nil {
		return "–"
	}
	most := 0.0
	for _, s := range r.Samples {
		most = max(most, of(s))
	}
	return number(most)
}

func costs(all []result) string {
	var rows [][]string
	for _, r := range all {
		held, left := total(r.Objects), total(r.Left)
		rows = append(rows, []string{
			r.title(), number(r.Requests), number(float64(held.Objects) / float64(r.all())),
			number(float64(held.Bytes) / 1024 / float64(r.all())), strconv.Itoa(r.Claims), number(r.ClearSeconds),
			strconv.Itoa(left.Objects - r.Left["events"].Objects),
		})
	}
	largest := all[len(all)-1]
	text := costsText + table([]string{
		"", "API requests each run", "objects each run", "KiB in etcd each run", "claims left",
		"deleted in, s", "objects left then, without events",
	}, rows)
	text += "\nOf " + largest.title() + ", what each run has left until it was deleted:\n\n"
	rows = nil
	for _, kind := range slices.SortedFunc(maps.Keys(largest.Objects), func(a, b string) int {
		return cmp.Or(cmp.Compare(largest.Objects[b].Bytes, largest.Objects[a].Bytes), cmp.Compare(a, b))
	}) {
		s := largest.Objects[kind]
		if s.Objects*2 < largest.all() {
			continue
		}
		rows = append(rows, []string{
			"`" + kind + "`", number(float64(s.Objects) / float64(largest.all())),
			number(float64(s.Bytes) / 1024 / float64(s.Objects)),
			number(float64(s.Bytes) / 1024 / float64(largest.all())),
		})
	}
	text += table([]string{"", "objects each run", "KiB each object", "KiB each run"}, rows)
	text += "\nAnd the requests to the API server, two or more each run:\n\n"
	rows = nil
	for _, to := range slices.SortedFunc(maps.Keys(largest.RequestsTo), func(a, b string) int {
		return cmp.Or(cmp.Compare(largest.RequestsTo[b], largest.RequestsTo[a]), cmp.Compare(a, b))
	}) {
		if largest.RequestsTo[to] >= 2 {
			rows = append(rows, []string{to, number(largest.RequestsTo[to])})
		}
	}
	return text + table([]string{"", "each run"}, rows)
}

// keep calculates how long runs can be kept until half of etcd's quota is theirs.
func keep(all []result) string {
	largest := all[len(all)-1]
	held := total(largest.Objects).Bytes - largest.Objects["events"].Bytes
	with := float64(held) / float64(largest.all())
	without := float64(held-largest.Objects["pods"].Bytes) / float64(largest.all())
	if with <= 0 || without <= 0 {
		return ""
	}
	const half = 1 << 30
	var rows [][]string
	for _, day := range []int{100, 1000, 10000} {
		days := func(bytes float64) string { return number(half / bytes / float64(day)) }
		rows = append(rows, []string{
			thousands(day), mib(with * float64(day)), days(with), mib(without * float64(day)), days(without),
		})
	}
	return keepText + table([]string{
		"runs a day", "MiB, kept for a day", "days until 1 GiB", "without pods, MiB", "days until 1 GiB",
	}, rows)
}

func mib(bytes float64) string { return number(bytes / (1 << 20)) }

// measured says when and where.
func measured(all []result) string {
	var b strings.Builder
	b.WriteString("\n## When and where\n\n")
	for _, r := range all {
		var steps []string
		for _, s := range r.Steps {
			steps = append(steps, fmt.Sprintf("%s %s", s.Step, s.Duration))
		}
		fmt.Fprintf(&b, "- %s: %s; %s; %s of 100 steps fail.\n", r.title(), r.About, strings.Join(steps, ", "),
			number(r.Failures*100))
	}
	return b.String()
}

// number shows two digits of a small figure, and a large one with commas.
func number(f float64) string {
	if f < 0 {
		return "-" + number(-f)
	}
	if f >= 100 {
		return thousands(int(f + 0.5))
	}
	return strconv.FormatFloat(round(f), 'f', -1, 64)
}

func table(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, r := range rows {
		line(r)
	}
	return b.String()
}
