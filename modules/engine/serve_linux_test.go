package engine

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serveFake serves an engine that answers every query with what it was sent.
func serveFake(t *testing.T, lookup func(string) (string, bool)) (url string) {
	t.Helper()
	inner, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header.Values(envHeader), ",")+"|"+r.Header.Get("Authorization")+"|")
		_, _ = io.Copy(w, r.Body)
	})}
	go func() { _ = server.Serve(inner) }()
	t.Cleanup(func() { _ = server.Close() })
	e := &Engine{conn: &conn{host: "drydock", client: &http.Client{Transport: dialTransport("tcp", inner.Addr().String())}, lookup: lookup}}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx, l, "token") }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return "http://" + l.Addr().String()
}

func askServed(t *testing.T, url, token, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.SetBasicAuth(token, "")
	}
	req.Header.Set(envHeader, "Zm9yZ2VkPTE=") // nobody but the connection says what the variables are
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestServeAsksForTheToken(t *testing.T) {
	url := serveFake(t, nil)
	for _, token := range []string{"", "toke", "token2", "TOKEN"} {
		if code, text := askServed(t, url+"/query", token, "q"); code != http.StatusUnauthorized || strings.Contains(text, "token2") {
			t.Errorf("token %q: %d %s", token, code, text)
		}
	}
	if code, text := askServed(t, url+"/query", "token", "q"); code != http.StatusOK || text != "||q" {
		t.Errorf("with the token: %d %q", code, text)
	}
	if code, _ := askServed(t, url+"/events", "token", ""); code != http.StatusNotFound {
		t.Errorf("another path: %d", code)
	}
}

// A query brings the variables it names, and no others.
func TestLentVariables(t *testing.T) {
	url := serveFake(t, func(name string) (string, bool) { return "v", name == "NAMED" || name == "OTHER" })
	_, text := askServed(t, url+"/query", "token", `{secret(uri:"env://NAMED"){id} b:secret(uri:"env://NONE"){id}}`)
	if !strings.HasPrefix(text, "TkFNRUQ9dg==||") {
		t.Errorf("got %q", text)
	}
}

func TestServeNeedsTheEmbeddedEngine(t *testing.T) {
	if err := (&Engine{Kind: KindDagger}).Serve(t.Context(), nil, "token"); err == nil {
		t.Error("a Dagger Engine was served")
	}
	if err := (&Engine{conn: &conn{}}).Serve(t.Context(), nil, ""); err == nil {
		t.Error("served without a token")
	}
}
