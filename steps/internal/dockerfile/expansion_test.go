package dockerfile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// A few lines whose variables would be gigabytes are refused before anybody expands them, by their line.
func TestExpansionsThatAreRefused(t *testing.T) {
	t.Parallel()
	doubled := func(format string) string {
		return fuzztest.Laughs(func(name, twice int) string { return fmt.Sprintf(format, name, twice, twice) })
	}
	long := "FROM x\nARG a=" + strings.Repeat("x", 2000) + "\n"
	many := strings.Repeat("$a", 600)
	for name, text := range map[string]string{
		"ARG before FROM":             doubled("ARG a%d=${a%d}${a%d}\n") + "FROM x:$a25\n",
		"ENV":                         "FROM x\n" + doubled("ENV a%d=$a%d$a%d\n"),
		"one name":                    "FROM x\nENV a=1234567\n" + strings.Repeat("ENV a=$a$a\n", 20),
		"triggers":                    long + strings.Repeat("ONBUILD ENV a=$a$a\n", 20) + "FROM 0\n",
		"stage upon stage":            strings.Repeat("FROM x AS s\nARG a=$a$a$a\nFROM s\n", 20),
		"a replacement":               long + "LABEL b=${a//x/" + strings.Repeat("y", 2000) + "}\n",
		"a replacement by a variable": long + "LABEL b=${a//x/$a}\n",
		"many in a label":             long + "LABEL b=" + many + "\n",
		"a document":                  long + "COPY <<E /e\n" + many + "\nE\n",
		"a mount":                     long + "RUN --mount=type=cache,target=/" + many + " x\n",
		"a little of each":            long + strings.Repeat("LABEL b="+many[:800]+"\n", 100),
	} {
		s := &source{name: "Dockerfile", original: []byte(text)}
		failure := outcome.Of(s.parse(Parameters{}))
		if failure == nil || failure.Reason != outcome.DockerfileInvalid ||
			!strings.Contains(failure.Message, " expand to more than ") ||
			!strings.HasPrefix(failure.Message, "Dockerfile line ") {
			t.Errorf("%s: %+v", name, failure)
		}
	}
}

func TestExpansionsThatAreTaken(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 60_000)
	for name, text := range map[string]string{
		"paths": "FROM x\n" + strings.Repeat("ENV PATH=/opt/some/tool/bin:$PATH\n", 100),
		"replacements": "FROM x\nARG V=v1.2.3\nENV A=${V#v}\nENV B=${A//./-} C=${A/.*/} D=${NODE_VERSION//./${A}}\n" +
			"ENV E=${B//-/_}\n",
		"a shell's own":         "FROM x\nENV a=" + long + "\nRUN echo " + strings.Repeat("$a ", 600) + "\n",
		"a document of a shell": "FROM x\nENV a=" + long + "\nRUN <<E\n" + strings.Repeat("echo $a\n", 600) + "E\n",
		"a configuration": "FROM x\nCOPY <<E /etc/nginx.conf\n" +
			strings.Repeat("set $host $remote_addr $scheme;\n", 2000) + "E\n",
		"what is given": "FROM x\nARG given\nENV a=$given$given\n",
	} {
		s := &source{name: "Dockerfile", original: []byte(text)}
		given := Parameters{BuildArgs: []step.NameValue{{Name: "given", Value: long}}, BuildEnv: named("E", long)}
		if err := s.parse(given); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
