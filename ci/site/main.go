// Command site renders the guide as static pages with a search of their own, which work from a folder, too:
// go run ./ci/site --out dist/site
//
// It is a program of a few hundred lines on goldmark, a library without dependencies. Hugo would bring a hundred
// modules, minutes of compiling, and templates and a theme of which we would write the same parts by hand.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"path/filepath"
)

func main() {
	log.SetFlags(0)
	out := flag.String("out", "dist/site", "`folder` to write; what it held before is removed")
	mermaid := flag.String("draw", "", "draw diagrams anew, into ci/site/assets, by this `file`: mermaid.min.js of "+
		"npm's mermaid 11; it takes Chromium")
	flag.Parse()
	s, err := load(".")
	switch {
	case err == nil && *mermaid != "":
		err = draw(context.Background(), s, *mermaid, "ci/site/assets")
	case err == nil:
		err = s.write(*out)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d pages: %s\n", len(s.pages), filepath.Join(*out, "index.html"))
}
