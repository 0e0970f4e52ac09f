package quote_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stepwright/stepwright/internal/quote"
)

func TestJSON(t *testing.T) {
	t.Parallel()
	value := map[string]any{
		"a\u202e": "\x1b[2J\u009b\u2028\x7f", "b": []any{"##vso[x]", "caf\u00e9 \U000E0041 \ufeff#"},
	}
	raw, err := json.MarshalIndent(value, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	got := quote.JSON(raw)
	want := "{\n\t\"a\\u202e\": \"\\u001b[2J\\u009b\\u2028\\u007f\",\n\t\"b\": [\n\t\t\"\\u0023#vso[x]\",\n" +
		"\t\t\"caf\u00e9 \\udb40\\udc41 \\ufeff#\"\n\t]\n}"
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var back map[string]any
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	again, err := json.MarshalIndent(back, "", "\t")
	if err != nil || !bytes.Equal(again, raw) {
		t.Errorf("it means %s", again)
	}
}
