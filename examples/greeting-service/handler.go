package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

const longestName = 100 // characters

// newHandler serves what openapi.yaml describes below /greeter, and /healthz for probes.
func newHandler(g *greeter, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /greeter/greet", func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimSpace(r.URL.Query().Get("name"))
		switch {
		case name == "":
			name = "World"
		case !utf8.ValidString(name):
			answer(w, http.StatusBadRequest, map[string]string{"error": "name is not UTF-8"})
			return
		case utf8.RuneCountInString(name) > longestName:
			answer(w, http.StatusBadRequest, map[string]string{"error": "name is longer than 100 characters"})
			return
		}
		message, err := g.greet(name)
		if err != nil {
			log.Error("cannot greet", "error", err)
			answer(w, http.StatusInternalServerError, map[string]string{"error": "internal error"})
			return
		}
		answer(w, http.StatusOK, map[string]string{"message": message})
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok", "version": version})
	})
	return logged(mux, log)
}

func answer(w http.ResponseWriter, status int, body map[string]string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone: nobody to tell
}

// logged logs each request, except those of probes.
func logged(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			next.ServeHTTP(w, r)
			return
		}
		started := time.Now()
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(recorder, r)
		log.Info(
			"request", "method", r.Method, "path", r.URL.Path, "status", recorder.status, "took", time.Since(started),
		)
	})
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}
