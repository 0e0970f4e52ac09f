package gitsource

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

// endless repeats lines after a head, each with its number for #.
type endless struct {
	head, format string
	n            int
	left         []byte
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.left) == 0 {
		if e.left = []byte(e.head); e.n > 0 || e.head == "" {
			e.left = appendPacket(nil, "%s", strings.ReplaceAll(e.format, "#", fmt.Sprint(e.n)))
		}
		e.n++
	}
	n := copy(p, e.left)
	e.left = e.left[n:]
	return n, nil
}

// Nothing that a server says without end is listened to without end.
func TestEndlessAnswers(t *testing.T) {
	t.Parallel()
	zero := strings.Repeat("0", 40)
	packetsOf := func(e *endless) packets { return packets{bufio.NewReader(e)} }
	advertise := func(p packets) error {
		_, err := readAdvertisement(packets{bufio.NewReader(&bounded{p.r, largestAdvertisement})})
		return err
	}
	fetch := func(adv string) func(p packets) error {
		return func(p packets) error {
			a := &advertisement{capabilities: map[string]string{"side-band-64k": ""}, version2: adv == "2"}
			r, err := request{depth: 1}.readPack(p, a, func(string) {})
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			return err
		}
	}
	version2 := func(p packets) error {
		a := &advertisement{capabilities: map[string]string{}, version2: true}
		return a.readRefs(packets{bufio.NewReader(&bounded{p.r, largestAdvertisement})})
	}
	answer := "0008NAK\n"
	for name, c := range map[string]struct {
		from endless
		read func(packets) error
		part string
	}{
		"references": {
			endless{format: zero + " refs/heads/#"}, advertise, "more than 1000000 references",
		},
		"references of version 2": {
			endless{format: zero + " refs/heads/#"}, version2, "more than 1000000 references",
		},
		"long references": {
			endless{format: zero + " refs/heads/" + strings.Repeat("x", 1000) + "#"}, advertise,
			"more than 134217728 bytes",
		},
		"versions": {
			endless{format: "version 1" + strings.Repeat("0", 1000) + "#"}, advertise, "more than 134217728 bytes",
		},
		"capabilities": {endless{head: "000eversion 2\n", format: "capability-#"}, advertise, "1000 capabilities"},
		"shallow commits": {
			endless{format: "shallow " + zero + "#"}, fetch("0"), "shallow commits does not end",
		},
		"sections of version 2": {endless{format: "section #"}, fetch("2"), "no pack"},
		"progress": {
			endless{head: "0000" + answer, format: "\x02still working #\n"}, fetch("0"), "sends no pack",
		},
		"signs of life": {endless{head: "0000" + answer, format: "\x01"}, fetch("0"), "sends no pack"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := explain(c.read(packetsOf(&c.from)), Remote{Scheme: "https", Host: "h", Path: "/x"})
			if err == nil || outcome.Of(err).Reason != outcome.RepositoryInvalid ||
				!strings.Contains(err.Error(), c.part) {
				t.Errorf("%v", err)
			}
		})
	}
}

// What a server names is compared with what was asked for in bounded time.
func TestManyNames(t *testing.T) {
	t.Parallel()
	adv := &advertisement{capabilities: map[string]string{}}
	for i := range 200_000 {
		adv.refs = append(adv.refs, ref{name: fmt.Sprintf("refs/heads/%0500d", i)})
	}
	began := time.Now()
	_, err := revision{branch: strings.Repeat("x", 255)}.choose(adv)
	if err == nil || outcome.Of(err).Reason != outcome.RevisionNotFound || len(err.Error()) > 2000 {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A server that says things before it speaks SSH, for ever, is left after the usual patience.
func TestEndlessSSHBanner(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for err == nil {
					_, err = io.WriteString(conn, strings.Repeat("welcome\r\n", 100))
				}
			}()
		}
	}()
	run := newCheckout(t, "ssh://git@"+listener.Addr().String()+"/x")
	run.GitTimeout = 1
	run.GitSecretDir = secretDir(t, "ssh-privatekey", string(gittest.NewKey(t, "")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run.runContext(ctx).want(t, outcome.GitServerUnavailable)
}

// Many tags of one commit are all written, in bounded time.
func TestManyTags(t *testing.T) {
	t.Parallel()
	server := gittest.NewPlainServer(t)
	repo := server.Repo(t, "tags.git")
	commit := repo.Commit("main", "x", gittest.File("f", "x"))
	var packed strings.Builder
	packed.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	fmt.Fprintf(&packed, "%s refs/heads/main\n", commit)
	const tags = 100_000
	for i := range tags {
		fmt.Fprintf(&packed, "%s refs/tags/%0100d\n", commit, i)
	}
	if err := os.WriteFile(filepath.Join(repo.Dir, "packed-refs"), []byte(packed.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	run := newCheckout(t, repo.URL)
	began := time.Now()
	run.run(t).ok(t, commit)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	if got := strings.Count(run.git(t, "tag"), "\n"); got != tags-1 {
		t.Errorf("%d tags", got)
	}
}
