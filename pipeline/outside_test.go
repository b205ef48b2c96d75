package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// outside starts an HTTP proxy and makes it this machine's way out: it answers
// for every host below outside.invalid itself and passes everything else on,
// so that mirrors are reached as ever; by TLS too with the certificate in DIR:
// outside DIR.
func outside(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: outside DIR")
	}
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s of %s\n", r.URL.Path, r.Host)
	}))
	pair, err := tls.LoadX509KeyPair(ts.MkAbs(args[0]+"/cert.pem"), ts.MkAbs(args[0]+"/key.pem"))
	ts.Check(err)
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	ts.Defer(secure.Close)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if r.URL.IsAbs() {
			host = r.URL.Host
		}
		name, _, _ := strings.Cut(host, ":")
		switch {
		case strings.HasSuffix(name, "outside.invalid") && r.Method != http.MethodConnect:
			fmt.Fprintf(w, "%s of %s\n", r.URL.Path, name)
		case strings.HasSuffix(name, "outside.invalid"):
			relay(w, secure.Listener.Addr().String())
		case r.Method == http.MethodConnect:
			relay(w, r.Host)
		default:
			forward(w, r)
		}
	}))
	ts.Defer(func() { s.CloseClientConnections(); s.Close() })
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} {
		ts.Setenv(name, s.URL)
	}
}

// forward passes a plain request on.
func forward(w http.ResponseWriter, r *http.Request) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// relay joins a tunnel.
func relay(w http.ResponseWriter, host string) {
	up, err := net.Dial("tcp", host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer up.Close()
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { _, _ = io.Copy(up, c); _ = up.Close() }()
	_, _ = io.Copy(c, up)
}
