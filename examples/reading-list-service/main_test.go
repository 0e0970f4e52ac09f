package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// ask sends a request and returns the answer's status and text.
func ask(t *testing.T, handler http.Handler, method, path, body string) (int, string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(method, path, strings.NewReader(body)))
	return recorder.Code, strings.TrimSpace(recorder.Body.String())
}

func TestBooks(t *testing.T) {
	handler := newHandler(newShelf())
	for _, step := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/reading-list/books", "", 200, `[]`},
		{"POST", "/reading-list/books", `{"title":" Middlemarch ","author":"George Eliot"}`, 201,
			`{"id":"1","title":"Middlemarch","author":"George Eliot","status":"to_read"}`},
		{"POST", "/reading-list/books", `{"title":"Emma","author":"Jane Austen","status":"read"}`, 201,
			`{"id":"2","title":"Emma","author":"Jane Austen","status":"read"}`},
		{"GET", "/reading-list/books/1", "", 200,
			`{"id":"1","title":"Middlemarch","author":"George Eliot","status":"to_read"}`},
		{"PUT", "/reading-list/books/1", `{"title":"Middlemarch","author":"George Eliot","status":"reading"}`, 200,
			`{"id":"1","title":"Middlemarch","author":"George Eliot","status":"reading"}`},
		{"PUT", "/reading-list/books/9", `{"title":"Middlemarch","author":"George Eliot"}`, 404,
			`{"error":"no such book"}`},
		{"GET", "/reading-list/books", "", 200,
			`[{"id":"2","title":"Emma","author":"Jane Austen","status":"read"},{"id":"1","title":"Middlemarch",` +
				`"author":"George Eliot","status":"reading"}]`},
		{"DELETE", "/reading-list/books/1", "", 204, ``},
		{"DELETE", "/reading-list/books/1", "", 404, `{"error":"no such book"}`},
		{"GET", "/reading-list/books/1", "", 404, `{"error":"no such book"}`},
		{"GET", "/healthz", "", 200, `{"status":"ok"}`},
	} {
		status, body := ask(t, handler, step.method, step.path, step.body)
		if status != step.status || body != step.want {
			t.Errorf("%s %s: got %d %s, want %d %s", step.method, step.path, status, body, step.status, step.want)
		}
	}
}

func TestWhatIsNoBookIsRefused(t *testing.T) {
	handler := newHandler(newShelf())
	for name, test := range map[string]struct {
		body   string
		status int
		want   string
	}{
		"not JSON":  {`title`, 400, "invalid character"},
		"no title":  {`{"author":"George Eliot"}`, 400, "title is empty"},
		"no author": {`{"title":"Middlemarch","author":" "}`, 400, "author is empty"},
		"another status": {
			`{"title":"Middlemarch","author":"George Eliot","status":"lost"}`, 400, `status is \"lost\"`,
		},
		"unknown field": {`{"title":"Middlemarch","author":"George Eliot","isbn":1}`, 400, "isbn"},
		"too large":     {`{"title":"` + strings.Repeat("a", longestBody) + `"}`, 413, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := ask(t, handler, "POST", "/reading-list/books", test.body)
			if status != test.status || !strings.Contains(body, test.want) {
				t.Errorf("got %d %s, want %d and %q", status, body, test.status, test.want)
			}
		})
	}
}

func TestRunServesAndStops(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	logs, logger := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, "127.0.0.1:0", slog.New(slog.NewJSONHandler(logger, nil)))
		logger.Close()
	}()
	lines := json.NewDecoder(logs)
	var serving struct{ Address string }
	if err := lines.Decode(&serving); err != nil {
		t.Fatalf("the service did not start: %v", <-done)
	}
	go io.Copy(io.Discard, io.MultiReader(lines.Buffered(), logs))

	response, err := http.Get("http://" + serving.Address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("/healthz answered %s", response.Status)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("after the stop: %v", err)
	}
}
