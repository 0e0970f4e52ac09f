package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGreet(t *testing.T) {
	for name, test := range map[string]struct {
		greeting, template, query string
		status                    int
		field, want               string
	}{
		"nobody":      {"Hello", defaultTemplate, "", 200, "message", "Hello, World!"},
		"somebody":    {"Hello", defaultTemplate, "name=Ada", 200, "message", "Hello, Ada!"},
		"other words": {"Ayubowan", "{{.Name}}: {{.Greeting}}\n", "name=Ada", 200, "message", "Ada: Ayubowan"},
		"spaces only": {"Hello", defaultTemplate, "name=+++", 200, "message", "Hello, World!"},
		"not a template": {
			"Hello", defaultTemplate, "name=" + url.QueryEscape("{{.Greeting}}"), 200, "message",
			"Hello, {{.Greeting}}!",
		},
		"longest": {"Hello", defaultTemplate, "name=" + url.QueryEscape(strings.Repeat("é", 100)), 200, "message",
			"Hello, " + strings.Repeat("é", 100) + "!"},
		"too long": {"Hello", defaultTemplate, "name=" + strings.Repeat("a", 101), 400, "error",
			"name is longer than 100 characters"},
		"not UTF-8": {"Hello", defaultTemplate, "name=%ff", 400, "error", "name is not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := newGreeter(test.greeting, test.template)
			if err != nil {
				t.Fatal(err)
			}
			status, body := get(t, newHandler(g, slog.New(slog.DiscardHandler)), "/greeter/greet?"+test.query)
			if status != test.status || body[test.field] != test.want {
				t.Errorf("got %d %v, want %d with %s %q", status, body, test.status, test.field, test.want)
			}
		})
	}
}

func TestRequestsAreLoggedAndProbesAreNot(t *testing.T) {
	g, err := newGreeter("Hello", defaultTemplate)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	handler := newHandler(g, slog.New(slog.NewJSONHandler(&out, nil)))
	if status, body := get(t, handler, "/healthz"); status != http.StatusOK || body["status"] != "ok" ||
		body["version"] != version {
		t.Errorf("/healthz: got %d %v", status, body)
	}
	if out.Len() != 0 {
		t.Errorf("a probe was logged: %s", &out)
	}
	get(t, handler, "/greeter/greet?name="+strings.Repeat("a", 101))
	var line struct {
		Path   string
		Status int
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("log is not one JSON object: %v: %s", err, &out)
	}
	if line.Path != "/greeter/greet" || line.Status != http.StatusBadRequest {
		t.Errorf("logged %+v, want the path and status 400", line)
	}
}

func TestConfigFaultsStopTheStart(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.tmpl")
	if err := os.WriteFile(broken, []byte("{{.Nickname}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ file, want string }{
		"no such file":  {broken + "x", "GREETING_TEMPLATE"},
		"no such field": {broken, "Nickname"},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), environment{"GREETING_TEMPLATE": test.file}.get, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error that names %q", err, test.want)
			}
		})
	}
}

func TestRunServesTheMountedTemplateAndStops(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	logs, logger := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, environment{
			"ADDRESS":           "127.0.0.1:0",
			"GREETING":          "Good day",
			"GREETING_TEMPLATE": "greeting.tmpl",
		}.get, slog.New(slog.NewJSONHandler(logger, nil)))
		logger.Close()
	}()
	lines := json.NewDecoder(logs)
	var serving struct{ Msg, Address string }
	if err := lines.Decode(&serving); err != nil {
		t.Fatalf("the service did not start: %v", <-done)
	}
	go io.Copy(io.Discard, io.MultiReader(lines.Buffered(), logs))

	response, err := http.Get("http://" + serving.Address + "/greeter/greet?name=Ada")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var body map[string]string
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if want := "Good day, Ada! Welcome to the online store."; body["message"] != want {
		t.Errorf("got %q, want %q", body["message"], want)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("after the stop: %v", err)
	}
}

type environment map[string]string

func (e environment) get(name string) string { return e[name] }

func get(t *testing.T, handler http.Handler, target string) (int, map[string]string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, target, nil))
	var body map[string]string
	if err := json.Unmarshal(recorder.Body.Bytes(), &body); err != nil {
		t.Fatalf("%s answered no JSON: %v: %s", target, err, recorder.Body)
	}
	return recorder.Code, body
}
