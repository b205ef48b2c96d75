package engine

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"drydock/modules/artifact"
)

// SessionEnv are the variables by which a Dagger SDK finds what Serve serves:
// KEY=value for a port of loopback and the token.
func SessionEnv(port, token string) []string {
	return []string{envSessionPort + "=" + port, envSessionToken + "=" + token}
}

// maxServed bounds a query; file contents travel in queries.
const maxServed = 512 << 20

// Serve answers the Dagger API on l for every Dagger SDK that knows the token,
// until ctx is done; then it is nil. Who does not know it gets 401. It is for
// the embedded engine: a Dagger Engine has a session of its own.
func (e *Engine) Serve(ctx context.Context, l net.Listener, token string) error {
	if e.conn == nil || token == "" {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "serving the Dagger API",
			Message: "only the embedded engine is served, and under a token", Remedy: "use --engine embedded",
		}
	}
	server := &http.Server{
		Handler: e.session(token), ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    log.New(io.Discard, "", 0),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return &artifact.Error{Kind: artifact.KindFault, Op: "serving the Dagger API", Err: err}
	}
	return nil
}

// session passes queries on to the engine.
func (e *Engine) session(token string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/query", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxServed))
		if err != nil {
			http.Error(w, "reading the query: "+err.Error(), http.StatusBadRequest)
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+e.conn.Host()+"/query", bytes.NewReader(body))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		req.Header.Set("Content-Type", r.Header.Get("Content-Type"))
		resp, err := e.conn.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(user), []byte(token)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="drydock"`)
			http.Error(w, "wrong or no session token", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
}
