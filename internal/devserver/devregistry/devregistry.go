// Package devregistry is a container registry inside this process: the distribution project's own code, for a
// developer's machine and for tests.
package devregistry

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // the auth type "htpasswd"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the storage "filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"   // the storage "inmemory"
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
)

// Options say how the registry keeps and guards what it holds. The zero value keeps it in memory and lets anyone push
// and pull.
type Options struct {
	Dir         string            // folder to keep the images in, made when absent; empty: in memory
	Users       map[string]string // passwords by user name; none: anyone may push and pull
	Certificate *tls.Certificate  // for TLS; nil: plain HTTP
}

// Registry is an http.Handler that serves the distribution API under /v2/. Close it after use.
type Registry struct {
	app         *handlers.App
	certificate *tls.Certificate
	server      *http.Server
	htpasswd    string // file to remove
}

// New makes a registry. It serves nothing yet: call Start, or serve it as a handler.
func New(o Options) (*Registry, error) {
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"delete":      {"enabled": true},
			"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
		},
	}
	if o.Dir == "" {
		config.Storage["inmemory"] = configuration.Parameters{}
	} else {
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		config.Storage["filesystem"] = configuration.Parameters{"rootdirectory": dir}
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	config.HTTP.Secret = hex.EncodeToString(secret)

	r := &Registry{certificate: o.Certificate}
	if len(o.Users) > 0 {
		path, err := writeHtpasswd(o.Users)
		if err != nil {
			return nil, err
		}
		r.htpasswd = path
		config.Auth = configuration.Auth{"htpasswd": {"realm": "devregistry", "path": path}}
	}
	r.app = handlers.NewApp(quiet{context.Background()}, config)
	return r, nil
}

// ServeHTTP answers one request of the distribution API.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.app.ServeHTTP(w, req.WithContext(quiet{req.Context()}))
}

// Start serves the registry at a TCP address until Close. An empty address is a free port of 127.0.0.1. It returns
// host:port.
func (r *Registry) Start(address string) (host string, err error) {
	return r.StartHandler(address, r)
}

// StartHandler is Start with a handler in front of the registry, which calls the registry's ServeHTTP for what it lets
// through.
func (r *Registry) StartHandler(address string, handler http.Handler) (host string, err error) {
	if r.server != nil {
		return "", errors.New("the registry is started already")
	}
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	host = listener.Addr().String()
	r.server = &http.Server{Handler: handler, ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	if r.certificate != nil {
		listener = tls.NewListener(listener, &tls.Config{
			Certificates: []tls.Certificate{*r.certificate},
			MinVersion:   tls.VersionTLS12,
		})
	}
	go r.server.Serve(listener)
	return host, nil
}

// Close stops serving, at once. Files in Options.Dir stay.
func (r *Registry) Close() error {
	var errs []error
	if r.server != nil {
		errs = append(errs, r.server.Close())
	}
	errs = append(errs, r.app.Shutdown())
	if r.htpasswd != "" {
		errs = append(errs, os.Remove(r.htpasswd))
	}
	return errors.Join(errs...)
}

// writeHtpasswd writes a temporary file as htpasswd -B does.
func writeHtpasswd(users map[string]string) (path string, err error) {
	f, err := os.CreateTemp("", "devregistry-*.htpasswd")
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(f.Name())
		}
	}()
	for user, password := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost) // checked anew for each request
		if err != nil {
			return "", err
		}
		if _, err := fmt.Fprintf(f, "%s:%s\n", user, hash); err != nil {
			return "", err
		}
	}
	return f.Name(), nil
}

// quiet is a context in which the registry finds a logger that says nothing. Its own setting for that is the logger of
// the whole process, and the key under which it looks in a context is not exported.
type quiet struct{ context.Context }

var silence = logrus.NewEntry(&logrus.Logger{
	Out:       io.Discard,
	Formatter: &logrus.TextFormatter{},
	Level:     logrus.PanicLevel,
})

const loggerPackage = "github.com/distribution/distribution/v3/internal/dcontext"

func (q quiet) Value(key any) any {
	if t := reflect.TypeOf(key); t != nil && t.PkgPath() == loggerPackage && t.Name() == "loggerKey" {
		return silence
	}
	return q.Context.Value(key)
}
