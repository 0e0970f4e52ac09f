package dockerfile

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/stepwright/stepwright/steps/internal/metrics"
)

// What stands beside a daemon serves its metrics as Prometheus reads them. A RUN, which shares the network, gets
// nothing else of the debug address.
func TestMetricsOfADaemon(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	dir := openDir(t)
	address, debug := "unix://"+filepath.Join(dir, "sock"), filepath.Join(dir, "debug.sock")
	newDaemon(t, r, "", "--addr", address, "--debugaddr", "unix://"+debug)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := listener.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- metrics.Serve(ctx, listener, debug) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	in := parameters(project(t, map[string]string{"Dockerfile": fmt.Sprintf(`FROM busybox:1
RUN busybox wget -qO /metrics http://%[1]s/metrics
RUN for path in / /debug/pprof/ /debug/pprof/heap /debug/vars /debug/cache/all /debug/gc; do \
      if busybox wget -qO- http://%[1]s$path; then echo "$path is served"; exit 1; fi; done
RUN for socket in $(busybox awk '{ print $8 }' /proc/net/unix); do \
      if test -e "$socket"; then echo "$socket is here"; exit 1; fi; done
`, at)}), r)
	in.RegistryMirrors, in.CABundle, in.BuildKitAddress = nil, "", address
	parsed := parse(t, strings.NewReader(succeed(t, in).files["metrics"]))
	if parsed == 0 {
		t.Error("the RUN got no metrics")
	}
	response, err := http.Get("http://" + at + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if parse(t, response.Body) == 0 || response.StatusCode != http.StatusOK {
		t.Error("there are no metrics")
	}
}

// parse returns how many metrics there are. None may tell of a build.
func parse(t *testing.T, text io.Reader) int {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		t.Fatal(err)
	}
	if families["go_goroutines"] == nil || families["process_resident_memory_bytes"] == nil {
		t.Errorf("%d metrics, and none of the process", len(families))
	}
	for name, family := range families {
		for _, metric := range family.Metric {
			for _, label := range metric.Label {
				if value := label.GetValue(); strings.Contains(value, "busybox") || strings.Contains(value, "cart") {
					t.Errorf("%s tells of a build: %v", name, label)
				}
			}
		}
	}
	return len(families)
}
