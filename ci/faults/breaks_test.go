package faults

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/outcome"
)

// A fault is what breaks while a step runs, or before, and is mended before the step runs again.
type fault struct {
	before func(*trouble)           // may be nil
	during func(*trouble, *attempt) // may be nil
	mend   func(*trouble)           // may be nil
}

// trouble is a scene with a fault, and its moment.
type trouble struct {
	*scene
	part float64 // of what the step does, between 0 and 1, after which it strikes
}

// truth is what the step does when nothing is wrong.
func (c *trouble) truth() *truth { return c.works.truth[c.step.name] }

// stretch is how long what the step sends and receives takes while a signal is on its way: else most of what it does
// would take too short to be met in its middle.
const stretch = 2 * time.Second

// moment waits until that part of the step's time has passed.
func (c *trouble) moment() {
	select {
	case <-time.After(time.Duration(c.part * float64(c.truth().took+stretch))):
	case <-c.t.Context().Done():
	}
}

// request is the number of the request at which a fault strikes that a server knows of.
func (c *trouble) request(s *server) int {
	part := c.part
	if c.step == publish {
		part *= 0.6 // what comes after is the cache's, which a build can do without
	}
	return 1 + int(part*float64(max(c.truth().asked[s.host]-1, 1)))
}

// at has something happen once, just before a server answers the request of that moment.
func (c *trouble) at(s *server, happens func()) {
	when, done := c.request(s), false
	s.obey(func(n int, _ http.ResponseWriter, _ *http.Request) bool {
		if n >= when && !done {
			done = true
			happens()
		}
		return false
	})
}

// signal sends the step a signal at the moment.
func signal(s syscall.Signal) fault {
	return fault{
		before: func(c *trouble) {
			for _, server := range c.servers() {
				server.set(weather{rate: float64(max(c.truth().carried[server.host], 1)) / stretch.Seconds()})
			}
		},
		during: func(c *trouble, a *attempt) {
			c.moment()
			a.kill(s)
		},
		mend: func(c *trouble) {
			for _, server := range c.servers() {
				server.set(weather{})
			}
		},
	}
}

// outOfMemory gives the step less memory than it takes.
func outOfMemory(bytes int) fault {
	return fault{
		before: func(c *trouble) {
			dir := filepath.Join(memoryCgroups, "stepwright-faults-"+filepath.Base(c.folder)+strconv.Itoa(os.Getpid()))
			if err := os.Mkdir(dir, 0o755); err != nil {
				c.t.Skipf("no cgroup for memory can be made here: %v", err)
			}
			limit := filepath.Join(dir, memoryLimit)
			if err := os.WriteFile(limit, []byte(strconv.Itoa(bytes)), 0); err != nil {
				c.t.Fatal(err)
			}
			c.memory = dir
		},
		mend: func(c *trouble) {
			if c.memory == "" {
				return
			}
			if err := os.Remove(c.memory); err != nil {
				c.t.Errorf("a process is left in the cgroup: %v", err)
			}
			c.memory = ""
		},
	}
}

// memoryCgroups is where groups of processes with a limit of memory are made, and memoryLimit the file of that.
var memoryCgroups, memoryLimit = func() (string, string) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "/sys/fs/cgroup", "memory.max"
	}
	return "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
}()

// filler is the file that fills a disk.
const filler = "filler"

// fullDisk has a folder be a file system of its own, in which only so many bytes are free.
func fullDisk(folder string, free int64) fault {
	var place string
	return fault{
		before: func(c *trouble) {
			place = filepath.Join(c.folder, folder)
			kept := c.t.TempDir()
			copyTree(c.t, place, kept)
			if err := unix.Mount("tmpfs", place, "tmpfs", 0, "size=64m"); err != nil {
				c.t.Skipf("no file system can be mounted here: %v", err)
			}
			c.t.Cleanup(func() { unix.Unmount(place, unix.MNT_DETACH) })
			copyTree(c.t, kept, place)
			if err := fill(filepath.Join(place, filler), place, free); err != nil {
				c.t.Fatal(err)
			}
		},
		mend: func(c *trouble) {
			if err := os.Remove(filepath.Join(place, filler)); err != nil {
				c.t.Fatal(err)
			}
		},
	}
}

// fill writes a file that leaves so many bytes free.
func fill(path, place string, free int64) error {
	var now unix.Statfs_t
	if err := unix.Statfs(place, &now); err != nil {
		return err
	}
	return os.WriteFile(path, make([]byte, max(int64(now.Bavail)*now.Bsize-free, 0)), 0o600)
}

// readOnly has a folder of the step's be one that cannot be written to.
func readOnly(place string) fault {
	return fault{
		before: func(c *trouble) { c.fixed = append(c.fixed, place) },
		mend:   func(c *trouble) { c.fixed = nil },
	}
}

// clock has a server's certificate be valid at other times than now: by its own clock, or by the step's, it is not.
func clock(peer func(*site) *server, from, until time.Duration) fault {
	return fault{
		before: func(c *trouble) { peer(c.site).certificate.Store(c.certificate(from, until)) },
		mend:   func(c *trouble) { peer(c.site).certificate.Store(c.works.certificate) },
	}
}

func (c *trouble) certificate(from, until time.Duration) *tls.Certificate {
	made, err := c.works.certify(time.Now().Add(from), time.Now().Add(until))
	if err != nil {
		c.t.Fatal(err)
	}
	return made
}

// expires has a certificate end in the middle, and the connections that are open.
func expires(peer func(*site) *server) fault {
	return fault{
		before: func(c *trouble) {
			s, made := peer(c.site), c.certificate(-2*time.Hour, -time.Minute)
			c.at(s, func() {
				s.certificate.Store(made)
				go s.resetAll()
			})
		},
		mend: func(c *trouble) {
			peer(c.site).obey(nil)
			peer(c.site).certificate.Store(c.works.certificate)
		},
	}
}

// dns has the resolver do something else.
func dns(state int32) fault {
	return fault{
		before: func(c *trouble) { c.resolver.state.Store(state) },
		mend:   func(c *trouble) { c.resolver.state.Store(answers) },
	}
}

// on has the line to a server be in some weather.
func on(peer func(*site) *server, w weather) fault {
	return fault{
		before: func(c *trouble) { peer(c.site).set(w) },
		mend:   func(c *trouble) { peer(c.site).set(weather{}) },
	}
}

// cut has nothing come through from the middle on: until the end, or for a time.
func cut(peer func(*site) *server, howLong time.Duration) fault {
	return fault{
		before: func(c *trouble) {
			s := peer(c.site)
			if howLong == 0 {
				c.flags = []string{"--max-attempts=1"} // each may take a minute
				s.set(weather{after: max(int64(c.part*float64(c.truth().carried[s.host])), 1)})
				return
			}
			c.at(s, func() {
				s.set(weather{cut: true})
				time.AfterFunc(howLong, func() { s.set(weather{}) })
			})
		},
		mend: func(c *trouble) {
			peer(c.site).obey(nil)
			peer(c.site).set(weather{})
			peer(c.site).resetAll()
			c.flags = nil
		},
	}
}

// resets has connections be reset after a part of what is sent over them: so many of them, or all.
func resets(peer func(*site) *server, connections int) fault {
	return fault{
		before: func(c *trouble) {
			s := peer(c.site)
			bytes := max(int64(c.part*float64(c.truth().carried[s.host])), 1)
			s.set(weather{reset: bytes, resets: connections})
		},
		mend: func(c *trouble) { peer(c.site).set(weather{}) },
	}
}

// restarts has a server be gone from the middle on: until the end, or for a time. What it knew of tokens is forgotten.
func restarts(peer func(*site) *server, howLong time.Duration) fault {
	back := make(chan struct{})
	return fault{
		before: func(c *trouble) {
			s := peer(c.site)
			up := func() {
				c.startAPI(c.t)
				if err := s.up(); err != nil {
					c.t.Error(err)
				}
				close(back)
			}
			c.at(s, func() { // the connection of this request is reset, so that nobody answers it
				s.down()
				if howLong > 0 {
					time.AfterFunc(howLong, up)
				}
			})
		},
		mend: func(c *trouble) {
			s := peer(c.site)
			s.obey(nil)
			if howLong > 0 {
				<-back
				return
			}
			s.down()
			c.startAPI(c.t)
			if err := s.up(); err != nil {
				c.t.Fatal(err)
			}
		},
	}
}

// refuses has nobody listen.
func refuses(peer func(*site) *server) fault {
	return fault{
		before: func(c *trouble) { peer(c.site).down() },
		mend: func(c *trouble) {
			if err := peer(c.site).up(); err != nil {
				c.t.Fatal(err)
			}
		},
	}
}

// says has a server answer so many requests with something else, from the middle on; negative: all of those.
func says(peer func(*site) *server, status int, body string, times int) fault {
	return fault{
		before: func(c *trouble) {
			s := peer(c.site)
			from := max(c.request(s), 2)
			s.obey(func(n int, w http.ResponseWriter, r *http.Request) bool {
				return n >= from && (times < 0 || n < from+times) && say(w, r, status, body)
			})
		},
		mend: func(c *trouble) { peer(c.site).obey(nil) },
	}
}

// nth has a server answer one request with something else, given by its number. A negative number counts from the last
// one of an undisturbed run.
func nth(peer func(*site) *server, number, status int, body string) fault {
	return fault{
		before: func(c *trouble) {
			s, at := peer(c.site), number
			if at < 0 {
				at += 1 + c.truth().asked[s.host]
			}
			s.obey(func(n int, w http.ResponseWriter, r *http.Request) bool {
				return n == at && say(w, r, status, body)
			})
		},
		mend: func(c *trouble) { peer(c.site).obey(nil) },
	}
}

// lost has a server do what one request says, and its answer be lost.
func lost(peer func(*site) *server, number int) fault {
	return fault{
		before: func(c *trouble) {
			s := peer(c.site)
			s.obey(func(n int, _ http.ResponseWriter, r *http.Request) bool {
				if n != number {
					return false
				}
				s.handler.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			})
		},
		mend: func(c *trouble) { peer(c.site).obey(nil) },
	}
}

// beside has another run of the component take place at the same time.
func beside(prepare func(c *trouble, other *scene)) fault {
	return fault{during: func(c *trouble, _ *attempt) {
		other := newScene(c.t, c.works, c.step, c.site)
		prepare(c, other)
		if e := other.run(nil); e.reason != outcome.Succeeded {
			c.t.Errorf("the other run ended with %s: %s\n%s", e.reason, e.message, e.out)
		}
	}}
}

// besideKilled has another run take place that is killed in its middle.
func besideKilled(prepare func(c *trouble, other *scene)) fault {
	return fault{during: func(c *trouble, _ *attempt) {
		other := newScene(c.t, c.works, c.step, c.site)
		prepare(c, other)
		e := other.run(func(a *attempt) {
			c.moment()
			a.kill(syscall.SIGKILL)
		})
		if e.reason != outcome.Killed && e.reason != outcome.Succeeded || len(e.word.Left) > 0 {
			c.t.Errorf("the other run ended with %s and left %q: %s\n%s", e.reason, e.word.Left, e.message, e.out)
		}
	}}
}

// always has a server answer all requests with something else.
func always(peer func(*site) *server, status int, body string) fault {
	return fault{
		before: func(c *trouble) {
			peer(c.site).obey(func(_ int, w http.ResponseWriter, r *http.Request) bool {
				return say(w, r, status, body)
			})
		},
		mend: func(c *trouble) { peer(c.site).obey(nil) },
	}
}

func say(w http.ResponseWriter, r *http.Request, status int, body string) bool {
	io.Copy(io.Discard, r.Body)
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	if strings.HasPrefix(body, "<") {
		w.Header().Set("Content-Type", "text/html")
	}
	w.WriteHeader(status)
	io.WriteString(w, body)
	return true
}

// signIn is the answer of a network that wants people to sign in, or of a proxy that was set up wrongly.
const signIn = "<!DOCTYPE html><html><body>Sign in to continue</body></html>"

// noise is an answer of no format.
var noise = string(payload(7, 3000))

// forced has another commit be forced on the branch, after the step has asked for the branches, and the former removed.
var forced = fault{
	before: func(c *trouble) {
		repository := filepath.Join(c.site.dir, "git", "acme", "shop.git")
		c.git.obey(func(n int, _ http.ResponseWriter, _ *http.Request) bool {
			if n != 3 {
				return false
			}
			for _, args := range [][]string{
				{"update-ref", "refs/heads/main", "next"}, {"reflog", "expire", "--expire=now", "--all"},
				{"repack", "-a", "-d", "-q"}, {"prune", "--expire=now"},
			} {
				if _, err := devgit.Git(c.t.Context(), repository, nil, nil, args...); err != nil {
					c.t.Error(err)
				}
			}
			return false
		})
	},
	mend: func(c *trouble) { c.git.obey(nil) },
}

// rotated has servers want another secret from the middle on, and the folder of the Secret have it so much later.
func rotated(peer func(*site) *server, later time.Duration) fault {
	arrived := make(chan struct{})
	return fault{
		before: func(c *trouble) {
			c.at(peer(c.site), func() {
				c.site.secret.Store(new("second-secret"))
				c.objects.Load().ExpireTokens()
				time.AfterFunc(later, func() {
					c.secrets("second-secret")
					close(arrived)
				})
			})
		},
		mend: func(c *trouble) {
			<-arrived
			peer(c.site).obey(nil)
		},
	}
}

// endedTokens has the identity provider give tokens that have ended already by the API's clock.
var endedTokens = fault{
	before: func(c *trouble) { c.life = -time.Hour; c.startAPI(c.t) },
	mend:   func(c *trouble) { c.life = 0; c.startAPI(c.t) },
}
