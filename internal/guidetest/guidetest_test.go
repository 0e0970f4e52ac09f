package guidetest

import (
	"slices"
	"testing"
)

func TestBlocksOf(t *testing.T) {
	const page = "# A\n\n<!-- It runs. -->\n\n    make x   # why\n\n    make \\\n      y\n\ntext\n\n" +
		"1. b\n\n   <!-- It runs. -->\n\n       kubectl get\n\n   text\n\n<!-- Not it. -->\n\n    make z\n\n" +
		"<!-- It runs. -->\n\n```console\n$ curl a\n{}\n\n[]\n$ curl b\n1\n```\n\n    text\n\n<!-- It runs. -->\n"
	got := blocksOf(page, "It runs.")
	want := []string{"make x   # why\n\nmake \\\n  y\n", "kubectl get\n", "$ curl a\n{}\n\n[]\n$ curl b\n1\n"}
	if !slices.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
	for i, want := range [][]string{{"make x   # why", "make    y"}, {"kubectl get"}, {"curl a", "curl b"}} {
		if got := Commands(got[i]); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got, want := Transcript(got[2]), []Call{{"curl a", "{}\n\n[]"}, {"curl b", "1"}}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
