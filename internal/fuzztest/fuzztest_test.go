package fuzztest

import (
	"testing"
	"time"
)

// The time is the processor's: a parser that waits costs none, and one that works does.
func TestProcessorTime(t *testing.T) {
	started, at := processorTime(), time.Now()
	for n := 0; processorTime()-started < 20*time.Millisecond; n++ {
		if time.Since(at) > time.Minute {
			t.Fatalf("after a minute of work it is %v", processorTime()-started)
		}
	}
}

func TestLong(t *testing.T) {
	if got := Long("abc"); len(got) != long/3*3 || got[:6] != "abcabc" {
		t.Errorf("%d bytes", len(got))
	}
	if got := Long([]byte(nil)); len(got) != 0 {
		t.Errorf("%d bytes of none", len(got))
	}
}
