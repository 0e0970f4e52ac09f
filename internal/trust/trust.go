// Package trust makes the TLS settings of every connection a step opens: always verified, against the system's
// authorities and a bundle that the platform engineer adds.
package trust

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Pool returns the system's certificate authorities and those of a PEM file. An empty path adds none.
func Pool(caBundle string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if caBundle == "" {
		return pool, nil
	}
	pem, err := os.ReadFile(caBundle)
	if err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "ca-bundle: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, outcome.Errorf(outcome.InvalidParameters, "ca-bundle: %s holds no PEM certificate", caBundle)
	}
	return pool, nil
}

// Transport returns an HTTP transport that trusts Pool, honours HTTP_PROXY, HTTPS_PROXY and NO_PROXY, and gives up on
// servers that do not answer: 30 s to connect, 60 s until the answer begins.
func Transport(caBundle string) (*http.Transport, error) {
	pool, err := Pool(caBundle)
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	t.DialContext = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	t.ResponseHeaderTimeout = 60 * time.Second
	// A server that takes its time answers these; on a network that was cut nobody does.
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 45 * time.Second}
	t.MaxIdleConnsPerHost = 16
	return t, nil
}
