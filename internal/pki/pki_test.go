package pki

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// serve starts a server that asks for a certificate of the clients' authority, and tells who called.
func serve(t *testing.T, server Pair, clients *Authority) string {
	t.Helper()
	certificate, err := server.TLS()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		subject := r.TLS.PeerCertificates[0].Subject
		io.WriteString(w, subject.CommonName+" of "+subject.Organization[0])
	}))
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients.Pool(),
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func TestCertificates(t *testing.T) {
	authority, err := NewAuthority("ours")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := NewAuthority("ours") // by the same name
	if err != nil {
		t.Fatal(err)
	}
	server, err := authority.Server("server", "127.0.0.1", "api.stepwright.test")
	if err != nil {
		t.Fatal(err)
	}
	url := serve(t, server, authority)
	for name, test := range map[string]struct {
		signs *Authority
		ok    bool
	}{
		"one of ours": {authority, true},
		"a stranger":  {stranger, false},
	} {
		t.Run(name, func(t *testing.T) {
			client, err := test.signs.Client("kubelet", "system:nodes")
			if err != nil {
				t.Fatal(err)
			}
			certificate, err := client.TLS()
			if err != nil {
				t.Fatal(err)
			}
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(authority.PEM())
			c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
				RootCAs: pool,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return &certificate, nil
				},
			}}}
			response, err := c.Get(url)
			if (err == nil) != test.ok {
				t.Fatalf("got %v, want success %v", err, test.ok)
			}
			if err != nil {
				return
			}
			defer response.Body.Close()
			if body, _ := io.ReadAll(response.Body); string(body) != "kubelet of system:nodes" {
				t.Errorf("the server saw %q", body)
			}
		})
	}
}
