package localplane

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"strings"
	"time"
)

// traced are the variables by which steps send their spans where this process's environment says, as one trace: that of
// a TRACEPARENT, or one of the run's own. It is nil when the environment names no collector.
func traced(run string, started time.Time) map[string]string {
	variables := map[string]string{}
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "OTEL_") || name == "TRACEPARENT" {
			variables[name] = value
		}
	}
	if variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "" && variables["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == "" {
		return nil
	}
	var id [16]byte
	rand.Read(id[:])
	variables["STEPWRIGHT_RUN_UID"] = hex.EncodeToString(id[:])
	variables["STEPWRIGHT_RUN_START"] = started.UTC().Format(time.RFC3339)
	of := "cicd.pipeline.run.id=" + run
	if own := variables["OTEL_RESOURCE_ATTRIBUTES"]; own != "" {
		of = own + "," + of
	}
	variables["OTEL_RESOURCE_ATTRIBUTES"] = of
	return variables
}
