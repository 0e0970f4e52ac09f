package yamlline

import (
	"bytes"
	"testing"

	goyaml "go.yaml.in/yaml/v3"
)

func TestLines(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []int // lines of the values a, b and c
	}{
		{"newlines", "a: 1\nb: 2\nc: 3\n", []int{1, 2, 3}},
		{"Windows", "a: 1\r\nb: 2\r\nc: 3\r\n", []int{1, 2, 3}},
		{"a carriage return alone", "a: 1\rb: 2\nc: 3\n", []int{1, 1, 2}},
		{"a carriage return before one of Windows", "a: 1\r\r\nb: 2\r\nc: 3", []int{1, 2, 3}},
		{"NEL", "a: 1\u0085b: 2\nc: 3\n", []int{1, 1, 2}},
		{"LS in a text", "a: \"x\u2028y\"\nb: 2\nc: 3\n", []int{1, 2, 3}},
		{"PS in a comment", "a: 1 # x\u2029\nb: 2\nc: 3\n", []int{1, 2, 3}},
		{"a sign that begins as NEL does", "a: \u00a9\nb: \u2026\nc: 3", []int{1, 2, 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var node goyaml.Node
			if err := goyaml.Unmarshal([]byte(test.text), &node); err != nil {
				t.Fatal(err)
			}
			lines := Of([]byte(test.text))
			lines.Number(&node)
			content := node.Content[0].Content
			if len(content) != 6 {
				t.Fatalf("got %d nodes", len(content))
			}
			for i, want := range test.want {
				if key, value := content[2*i], content[2*i+1]; key.Line != want || value.Line != want {
					t.Errorf("%s is in line %d and its value in %d, want %d", key.Value, key.Line, value.Line, want)
				}
			}
		})
	}
}

func TestLine(t *testing.T) {
	for _, test := range []struct {
		text          string
		parsers, want int
	}{
		{"", 0, 0}, {"", 1, 1}, {"", 3, 1}, {"a\nb", 3, 2}, {"a\rb\nc", 2, 1}, {"a\rb\nc", 3, 2}, {"a\rb\nc", 9, 2},
		{"a\rb", 0, 0},
	} {
		if got := Of([]byte(test.text)).Line(test.parsers); got != test.want {
			t.Errorf("line %d of %q is %d, want %d", test.parsers, test.text, got, test.want)
		}
	}
}

// FuzzLines reads texts by the parser: each of its nodes is in a line of the file.
func FuzzLines(f *testing.F) {
	for _, text := range []string{
		"a: 1\rb: 2\n", "# x\u2028\na: [1,\r2]\n", "a: |\n  x\u0085  y\n\r\nb: >-\r  z\n", "\ufeffa: 'x\r\ny'\n",
		"?", // its parts are behind the end
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var node goyaml.Node
		if len(text) > 1<<14 || goyaml.Unmarshal(text, &node) != nil {
			return
		}
		lines := Of(text)
		lines.Number(&node)
		last := bytes.Count(text, []byte("\n")) + 1
		var check func(*goyaml.Node)
		check = func(n *goyaml.Node) {
			if n.Line < 1 || n.Line > last {
				t.Errorf("%q is in line %d of %d", n.Value, n.Line, last)
			}
			for _, below := range n.Content {
				check(below)
			}
		}
		if node.Kind != 0 {
			check(&node)
		}
	})
}
