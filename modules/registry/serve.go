package registry

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"drydock/modules/artifact"
)

// ServeOptions says how stages are shown to other programs.
type ServeOptions struct {
	Address  string // host:port; port 0 picks one
	Stage    string // serve this stage alone, without its name in the path; "" = all, as /<stage>/<repository>
	ReadOnly bool   // refuse writes

	CertFile, KeyFile  string // TLS
	Username, Password string // basic authentication
	// Ready, if not nil, is called with the address once it listens.
	Ready func(net.Addr)
}

// Serve shows the stages to clients such as crane, skopeo and cosign until ctx
// ends. Off the loopback it wants TLS and authentication.
func (e *Embedded) Serve(ctx context.Context, o ServeOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Address)
	if err != nil {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "serving registry", Place: o.Address,
			Remedy: "give a free address", Err: err,
		}
	}
	srv := &http.Server{
		Handler:           o.guard(e.handler(o.Stage)),
		ReadHeaderTimeout: 10 * time.Second,
	}
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	defer stop()
	if o.Ready != nil {
		o.Ready(l.Addr())
	}
	if o.CertFile != "" {
		err = srv.ServeTLS(l, o.CertFile, o.KeyFile)
	} else {
		err = srv.Serve(l)
	}
	_ = srv.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "serving registry", Place: o.Address,
		Remedy: "check certificate and key", Err: err,
	}
}

func (o ServeOptions) check() error {
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "serving registry", Place: o.Address,
			Remedy: "write host:port, for example 127.0.0.1:5000", Err: err,
		}
	}
	if (o.CertFile == "") != (o.KeyFile == "") || (o.Username == "") != (o.Password == "") {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "serving registry", Place: o.Address,
			Message: "half of a pair is missing", Remedy: "give certificate and key, user and password together",
		}
	}
	if !loopbackHost(host) && (o.CertFile == "" || o.Username == "") {
		return &artifact.Error{
			Kind: artifact.KindUsage, Op: "serving registry", Place: o.Address,
			Message: "an address others can reach wants TLS and authentication",
			Remedy:  "give certificate, key, user and password, or listen on 127.0.0.1",
		}
	}
	return nil
}

func (o ServeOptions) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.Username != "" {
			user, pass, ok := r.BasicAuth()
			same := subtle.ConstantTimeCompare([]byte(user), []byte(o.Username)) &
				subtle.ConstantTimeCompare([]byte(pass), []byte(o.Password))
			if !ok || same != 1 {
				w.Header().Set("WWW-Authenticate", `Basic realm="drydock"`)
				writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "user and password are required")
				return
			}
		}
		if o.ReadOnly && r.Method != http.MethodGet && r.Method != http.MethodHead {
			writeError(w, http.StatusForbidden, "DENIED", "this registry is served read-only")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Handler is the registry of one stage, to be served where the caller likes: it
// has no guard of its own.
func (e *Embedded) Handler(stage string) (http.Handler, error) {
	if _, err := e.Location(stage); err != nil {
		return nil, err
	}
	return e.handler(stage), nil
}

// handler maps /v2/<stage>/<repository>/… (or, for one stage, the plain API) to
// the stages, wherever they are held.
func (e *Embedded) handler(only string) http.Handler {
	proxy := &httputil.ReverseProxy{
		Transport:     e.transport(),
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			stage, path := splitStage(only, p.In.URL.Path)
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.URL.Path, p.Out.URL.RawPath = "http", stage+InternalSuffix, path, ""
			p.Out.Host = p.Out.URL.Host
			p.Out.Header.Del("Authorization")
			p.Out.Header.Del(tokenHeader)
			dropForeignMount(only, stage, p.Out.URL)
		},
		ModifyResponse: func(r *http.Response) error {
			stage := strings.TrimSuffix(r.Request.URL.Host, InternalSuffix)
			if only == "" {
				restorePrefix(r.Header, stage)
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			writeError(w, http.StatusBadGateway, "UNKNOWN", err.Error())
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		if p := strings.Trim(r.URL.Path, "/"); p == "v2" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, "{}")
			return
		}
		stage, _ := splitStage(only, r.URL.Path)
		if !stagePattern.MatchString(stage) {
			writeError(w, http.StatusNotFound, "NAME_UNKNOWN", "the path is /v2/<stage>/<repository>/…")
			return
		}
		if fi, err := os.Stat(filepath.Join(e.dir, stage)); err != nil || !fi.IsDir() {
			writeError(w, http.StatusNotFound, "NAME_UNKNOWN", "there is no stage "+stage)
			return
		}
		proxy.ServeHTTP(w, r)
	})
}

// splitStage takes the stage off a path; with only set it is always that one.
func splitStage(only, path string) (stage, rest string) {
	if only != "" {
		return only, path
	}
	p, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return "", path
	}
	stage, rest, ok = strings.Cut(p, "/")
	if !ok {
		return "", path
	}
	return stage, "/v2/" + rest
}

// dropForeignMount keeps a blob mount within its stage, and drops one from
// another: the client then uploads.
func dropForeignMount(only, stage string, u *url.URL) {
	q := u.Query()
	from := q.Get("from")
	if only != "" || from == "" {
		return
	}
	if rest, ok := strings.CutPrefix(from, stage+"/"); ok {
		q.Set("from", rest)
	} else {
		q.Del("from")
		q.Del("mount")
	}
	u.RawQuery = q.Encode()
}

func restorePrefix(h http.Header, stage string) {
	for _, key := range []string{"Location", "Link"} {
		for i, v := range h[key] {
			h[key][i] = strings.Replace(v, "/v2/", "/v2/"+stage+"/", 1)
		}
	}
}
