package localplane

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTraced(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "team=a")
	t.Setenv("TRACEPARENT", "00-of-a-ci")
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	if got := traced("cart-1", at); got != nil {
		t.Errorf("without a collector: %v", got)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
	first, second := traced("cart-1", at), traced("cart-1", at)
	if first["STEPWRIGHT_RUN_UID"] == second["STEPWRIGHT_RUN_UID"] || len(first["STEPWRIGHT_RUN_UID"]) != 32 {
		t.Errorf("two runs are one trace: %v", first)
	}
	delete(first, "STEPWRIGHT_RUN_UID")
	for name := range first { // of the machine that tests
		if strings.HasPrefix(name, "OTEL_") && first[name] == "" {
			delete(first, name)
		}
	}
	if diff := cmp.Diff(map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "TRACEPARENT": "00-of-a-ci",
		"OTEL_RESOURCE_ATTRIBUTES": "team=a,cicd.pipeline.run.id=cart-1",
		"STEPWRIGHT_RUN_START":     "2026-03-04T05:06:07Z",
	}, first); diff != "" {
		t.Error(diff)
	}
}
