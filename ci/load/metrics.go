package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// series is one line of a program's metrics.
type series struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// readSeries reads Prometheus' text format: the lines whose names are wanted.
func readSeries(r io.Reader, wanted func(name string) bool) ([]series, error) {
	var all []series
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		end := strings.IndexAny(line, "{ ")
		if strings.HasPrefix(line, "#") || end < 0 || !wanted(line[:end]) {
			continue
		}
		s := series{Name: line[:end], Labels: map[string]string{}}
		rest := line[end:]
		if rest[0] == '{' {
			var err error
			if rest, err = readLabels(rest[1:], s.Labels); err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
		}
		value, err := strconv.ParseFloat(strings.Fields(rest + " -")[0], 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
		s.Value = value
		all = append(all, s)
	}
	return all, lines.Err()
}

// readLabels reads name="value" pairs up to the brace that ends them, and returns what follows.
func readLabels(text string, into map[string]string) (rest string, err error) {
	for {
		text = strings.TrimLeft(text, ", ")
		if after, ok := strings.CutPrefix(text, "}"); ok {
			return after, nil
		}
		name, quoted, ok := strings.Cut(text, "=")
		if !ok {
			return "", fmt.Errorf("no value after %q", text)
		}
		prefix, err := strconv.QuotedPrefix(quoted)
		if err != nil {
			return "", err
		}
		value, err := strconv.Unquote(prefix)
		if err != nil {
			return "", err
		}
		into[name], text = value, quoted[len(prefix):]
	}
}

// sum adds up the series of a name that have these labels.
func sum(all []series, name string, labels ...string) (total float64) {
	for _, s := range all {
		fits := s.Name == name
		for i := 0; i+1 < len(labels); i += 2 {
			fits = fits && s.Labels[labels[i]] == labels[i+1]
		}
		if fits {
			total += s.Value
		}
	}
	return total
}

// scraper asks Argo's controller, whose certificate is its own, and programs of the node.
var scraper = &http.Client{
	Timeout:   10 * time.Second,
	Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
}

func scrape(ctx context.Context, url string, names ...string) ([]series, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := scraper.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return readSeries(response.Body, oneOf(names))
}

func oneOf(names []string) func(string) bool {
	return func(name string) bool {
		for _, n := range names {
			if n == name {
				return true
			}
		}
		return false
	}
}
