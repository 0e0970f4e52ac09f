// Command browser looks at pages as a person does, with a Chromium that has no network, and tells as JSON what it
// found: browser -axe axe.min.js [-search WORDS] [-pictures FOLDER] PAGE...
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// look is what is found on a page in one theme.
type look struct {
	Page, Theme string
	Console     []string    // errors, warnings and refusals
	Requests    []string    // for anything but the page itself
	Numbers     []number    // in the order of the page
	Starts      []int64     // of the timeline's rows, in ms
	Took        []int64     // likewise
	Layers      []int64     // bytes of each layer of the image
	Lines       int         // of logs
	Violations  []violation // of the rules of accessibility
	Focusable   []string    // what a person can use
	Unreached   []string    // of these, what Tab does not come to
	Wide        int         // pixels by which the page is wider than its window
	Search      search
	Toggle      [2]string // colours of the ground before and after the button for the theme was pressed
	Unprinted   []string  // what is not seen in print
	Leaf        int       // bytes of the page as PDF
}

type number struct{ Class, Value, Text string }

type violation struct {
	ID, Impact, Help string
	Nodes            []string
}

type search struct {
	Found, Expected int // lines that are shown, and that have the words
	Said            string
	Marked          int
	After           int // lines that are shown when the search is over
	Closed          bool
}

// What is asked of the page: an object of functions.
//
//go:embed ask.js
var ask string

func main() {
	log.SetFlags(0)
	axe := flag.String("axe", "", "file of axe-core")
	words := flag.String("search", "", "what to search the logs for")
	pictures := flag.String("pictures", "", "folder to write pictures of the pages to")
	chromium := flag.String("chromium", "chromium", "program of the browser")
	flag.Parse()
	rules, err := os.ReadFile(*axe)
	if err != nil {
		log.Fatal(err)
	}
	b := browser{program: *chromium, axe: string(rules), words: *words, pictures: *pictures}
	found, err := b.all(flag.Args())
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		log.Fatal(err)
	}
}

type browser struct{ program, axe, words, pictures string }

const (
	width, height = 1240, 900
	patience      = 60 * time.Second // for a page
)

func (b browser) all(pages []string) (found []look, err error) {
	profile, err := os.MkdirTemp("", "browser-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(profile)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(b.program), chromedp.NoSandbox, chromedp.NoFirstRun, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("force-color-profile", "srgb"), chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND"),
		chromedp.UserDataDir(profile), chromedp.WindowSize(width, height),
	)
	allocated, end := chromedp.NewExecAllocator(context.Background(), options...)
	defer end()
	window, closing := chromedp.NewContext(allocated)
	defer closing()
	if err := chromedp.Do(window); err != nil {
		return nil, fmt.Errorf("%s does not start: %w", b.program, err)
	}
	for _, file := range pages {
		for _, theme := range []string{"light", "dark"} {
			one, err := b.look(window, file, theme)
			if err != nil {
				return nil, fmt.Errorf("%s in %s: %w", file, theme, err)
			}
			found = append(found, one)
		}
	}
	return found, nil
}

// look looks at a page in a tab of its own.
func (b browser) look(window context.Context, file, theme string) (look, error) {
	l := look{Page: filepath.Base(file), Theme: theme}
	ctx, closing := chromedp.NewContext(window)
	defer closing()
	if err := chromedp.Do(ctx); err != nil { // the tab's context has no limit, or its limit would be the browser's
		return l, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	path, err := filepath.Abs(file)
	if err != nil {
		return l, err
	}
	address := "file://" + path
	told, err := listen(ctx, address)
	if err != nil {
		return l, err
	}
	if err := media(ctx, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}},
	}); err != nil {
		return l, err
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(address), chromedp.Evaluate[chromedp.Void](ask)); err != nil {
		return l, err
	}
	err = errors.Join(
		asked(ctx, "ask.numbers()", &l.Numbers), asked(ctx, "ask.values('.gantt .track')", &l.Starts),
		asked(ctx, "ask.values('.gantt .took')", &l.Took),
		asked(ctx, "ask.values('.layers tr:not(.gone) .number')", &l.Layers),
		asked(ctx, "ask.lines()", &l.Lines), asked(ctx, "ask.wide()", &l.Wide),
	)
	if err == nil && b.pictures != "" {
		err = b.shoot(ctx, strings.TrimSuffix(l.Page, ".html")+"-"+theme+".png")
	}
	for _, part := range []func(context.Context, *look) error{b.rules, keys, b.find, toggle, print} {
		if err == nil {
			err = part(ctx, &l)
		}
	}
	l.Console, l.Requests = told()
	return l, err
}

// asked evaluates an expression on the page.
func asked[T any](ctx context.Context, expression string, into *T) error {
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	*into = value
	if err != nil {
		return fmt.Errorf("%.60s: %w", expression, err)
	}
	return nil
}

// media has the page be shown as that.
func media(ctx context.Context, as emulation.SetEmulatedMediaParams) error {
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, as)
	return err
}

// listen notes what a page says and asks for. told returns it.
func listen(ctx context.Context, address string) (told func() (console, requests []string), err error) {
	var mu sync.Mutex
	var console, requests []string
	err = chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventConsoleAPICalled:
			if e.Type != runtime.ConsoleAPICalledTypeLog {
				console = append(console, fmt.Sprint(e.Type, e.Args))
			}
		case *runtime.EventExceptionThrown:
			console = append(console, e.ExceptionDetails.Text)
		case *cdplog.EventEntryAdded:
			console = append(console, e.Entry.Text)
		case *network.EventRequestWillBeSent:
			if e.Request.URL != address {
				requests = append(requests, e.Request.URL)
			}
		}
	})
	if err == nil {
		_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	}
	if err == nil {
		_, err = chromedp.Call(ctx, cdplog.Enable, cdp.Empty{})
	}
	return func() ([]string, []string) {
		mu.Lock()
		defer mu.Unlock()
		return console, requests
	}, err
}

// rules asks axe-core, with all logs unfolded.
func (b browser) rules(ctx context.Context, l *look) error {
	if err := chromedp.Do(ctx,
		chromedp.Evaluate[chromedp.Void]("ask.unfold()"), chromedp.Evaluate[chromedp.Void](b.axe),
	); err != nil {
		return err
	}
	if err := asked(ctx, "ask.rules()", &l.Violations); err != nil {
		return err
	}
	return chromedp.Do(ctx, chromedp.Evaluate[chromedp.Void]("ask.fold()"))
}

// keys goes through the page by the key Tab.
func keys(ctx context.Context, l *look) error {
	if err := asked(ctx, "ask.focusable()", &l.Focusable); err != nil {
		return err
	}
	for range len(l.Focusable) + 2 {
		if err := chromedp.Do(ctx,
			chromedp.KeyEvent(kb.Tab), chromedp.Evaluate[chromedp.Void]("ask.reach()"),
		); err != nil {
			return err
		}
	}
	return asked(ctx, "ask.unreached()", &l.Unreached)
}

// find searches the logs.
func (b browser) find(ctx context.Context, l *look) error {
	var open, again string
	wait := func(until string) chromedp.Action[chromedp.Void] {
		return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
			_, err := chromedp.Run(ctx, chromedp.Poll[bool](
				"document.getElementById('found').textContent "+until, chromedp.WithPollingTimeout(patience),
			))
			return err
		})
	}
	if err := chromedp.Do(ctx, chromedp.Evaluate[chromedp.Void]("document.activeElement.blur()")); err != nil {
		return err
	}
	if err := asked(ctx, "JSON.stringify(ask.open())", &open); err != nil {
		return err
	}
	// What a person presses to get there does not count: CDP types it even where the page has taken the key.
	if err := chromedp.Do(
		ctx, chromedp.KeyEvent("/"), chromedp.Evaluate[chromedp.Void]("ask.empty()"), chromedp.KeyEvent(b.words),
		wait("!== ''"),
	); err != nil {
		return err
	}
	if err := asked(ctx, "ask.found()", &l.Search); err != nil {
		return err
	}
	if err := chromedp.Do(ctx, chromedp.KeyEvent(kb.Escape), wait("=== ''")); err != nil {
		return err
	}
	err := errors.Join(
		asked(ctx, "ask.after()", &l.Search.After), asked(ctx, "JSON.stringify(ask.open())", &again),
	)
	l.Search.Closed = open == again
	return err
}

// toggle presses the button for the theme.
func toggle(ctx context.Context, l *look) error {
	if err := asked(ctx, "ask.ground()", &l.Toggle[0]); err != nil {
		return err
	}
	if err := chromedp.Do(ctx,
		chromedp.Evaluate[chromedp.Void]("document.getElementById('theme').focus()"), chromedp.KeyEvent(kb.Enter),
	); err != nil {
		return err
	}
	return asked(ctx, "ask.ground()", &l.Toggle[1])
}

// print looks for what paper would lack.
func print(ctx context.Context, l *look) error {
	if err := media(ctx, emulation.SetEmulatedMediaParams{Media: "print"}); err != nil {
		return err
	}
	if err := asked(ctx, "ask.unprinted()", &l.Unprinted); err != nil {
		return err
	}
	pdf, err := chromedp.Run(ctx, chromedp.PrintToPDF(chromedp.PDFPrintBackground()))
	l.Leaf = len(pdf)
	return err
}
