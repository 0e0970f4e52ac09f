package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A book is one on the list.
type book struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Author string `json:"author"`
	Status status `json:"status"`
}

// A status is how far somebody has come with a book.
type status string

const (
	toRead  status = "to_read"
	reading status = "reading"
	read    status = "read"
)

// check fills in a book's defaults and returns its fault.
func (b *book) check() error {
	b.Title, b.Author = strings.TrimSpace(b.Title), strings.TrimSpace(b.Author)
	switch {
	case b.Title == "":
		return errors.New("title is empty")
	case b.Author == "":
		return errors.New("author is empty")
	case b.Status == "":
		b.Status = toRead
	case !slices.Contains([]status{toRead, reading, read}, b.Status):
		return fmt.Errorf("status is %q, want %s, %s or %s", b.Status, toRead, reading, read)
	}
	return nil
}

// A shelf keeps books by their IDs. Several goroutines may use it at a time.
type shelf struct {
	mu    sync.RWMutex
	books map[string]book
	next  int
}

func newShelf() *shelf { return &shelf{books: map[string]book{}} }

// add gives a book an ID.
func (s *shelf) add(b book) book {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	b.ID = fmt.Sprint(s.next)
	s.books[b.ID] = b
	return b
}

// list returns the books by title.
func (s *shelf) list() []book {
	s.mu.RLock()
	defer s.mu.RUnlock()
	books := []book{}
	for _, b := range s.books {
		books = append(books, b)
	}
	slices.SortFunc(books, func(a, b book) int {
		return cmp.Or(cmp.Compare(a.Title, b.Title), cmp.Compare(a.ID, b.ID))
	})
	return books
}

func (s *shelf) get(id string) (b book, found bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, found = s.books[id]
	return b, found
}

// replace puts a book in the place of the one with its ID.
func (s *shelf) replace(b book) (found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, found = s.books[b.ID]; found {
		s.books[b.ID] = b
	}
	return found
}

func (s *shelf) remove(id string) (found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, found = s.books[id]
	delete(s.books, id)
	return found
}
