package main

import (
	"encoding/json"
	"errors"
	"net/http"
)

const longestBody = 64 << 10 // bytes

var errNoSuchBook = errors.New("no such book")

// newHandler serves what openapi.yaml describes below /reading-list, and /healthz for probes.
func newHandler(s *shelf) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /reading-list/books", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, s.list())
	})
	mux.HandleFunc("POST /reading-list/books", func(w http.ResponseWriter, r *http.Request) {
		if b, ok := decode(w, r); ok {
			answer(w, http.StatusCreated, s.add(b))
		}
	})
	mux.HandleFunc("GET /reading-list/books/{id}", func(w http.ResponseWriter, r *http.Request) {
		b, found := s.get(r.PathValue("id"))
		if !found {
			refuse(w, http.StatusNotFound, errNoSuchBook)
			return
		}
		answer(w, http.StatusOK, b)
	})
	mux.HandleFunc("PUT /reading-list/books/{id}", func(w http.ResponseWriter, r *http.Request) {
		b, ok := decode(w, r)
		if !ok {
			return
		}
		b.ID = r.PathValue("id")
		if !s.replace(b) {
			refuse(w, http.StatusNotFound, errNoSuchBook)
			return
		}
		answer(w, http.StatusOK, b)
	})
	mux.HandleFunc("DELETE /reading-list/books/{id}", func(w http.ResponseWriter, r *http.Request) {
		if !s.remove(r.PathValue("id")) {
			refuse(w, http.StatusNotFound, errNoSuchBook)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	return mux
}

// decode reads a book from a request. When it is none, the request is answered.
func decode(w http.ResponseWriter, r *http.Request) (b book, ok bool) {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, longestBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&b)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		refuse(w, http.StatusRequestEntityTooLarge, err)
		return book{}, false
	}
	if err == nil {
		err = b.check()
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return book{}, false
	}
	return b, true
}

func refuse(w http.ResponseWriter, status int, err error) {
	answer(w, status, map[string]string{"error": err.Error()})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client has gone: nobody to tell
}
