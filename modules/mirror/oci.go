package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"drydock/modules/artifact"
	"drydock/modules/mirror/internal/fetch"
)

// manifestTypes are the manifests a pull understands.
const manifestTypes = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"

// tokenCache holds the bearer tokens of OCI mirrors.
type tokenCache struct {
	mu     sync.Mutex
	tokens map[string]ociToken
}

type ociToken struct {
	value string
	until time.Time
}

// ociWant is how a file of an OCI mirror is fetched: "v2/<name>/manifests/…"
// or "v2/<name>/blobs/…". A path in the mirror's URL is a prefix of its names.
func (s *Set) ociWant(w want) want {
	rest := strings.TrimPrefix(strings.TrimPrefix(w.rel, "v2"), "/")
	base := *w.up.base
	prefix := strings.Trim(strings.TrimPrefix(base.Path, "/v2"), "/")
	base.Path = ""
	w.up.base = &base
	w.rel = strings.TrimSuffix("v2/"+strings.TrimPrefix(prefix+"/"+rest, "/"), "/")
	if w.rel == "v2" {
		w.rel = "v2/"
	}
	if strings.Contains(w.rel, "/manifests/") {
		w.header = http.Header{"Accept": {manifestTypes}}
	}
	if i := strings.LastIndex(w.rel, "/sha256:"); i >= 0 && w.sha256 == "" {
		if d, err := artifact.ParseDigest(w.rel[i+1:]); err == nil {
			w.sha256 = d
		}
	}
	target := w.target()
	w.token = func(ctx context.Context, err error) (context.Context, bool) { return s.ociToken(ctx, target, err) }
	return w
}

var challengePart = regexp.MustCompile(`([a-z]+)="([^"]*)"`)

// ociToken answers a registry's bearer challenge (distribution spec, token
// authentication). The registry's credentials go to its token service only
// over TLS or on the same host.
func (s *Set) ociToken(ctx context.Context, target *url.URL, err error) (context.Context, bool) {
	var se *fetch.StatusError
	if !errors.As(err, &se) || se.Code != http.StatusUnauthorized {
		return ctx, false
	}
	challenge := se.Header.Get("WWW-Authenticate")
	if !strings.HasPrefix(strings.ToLower(challenge), "bearer ") {
		return ctx, false
	}
	part := map[string]string{}
	for _, m := range challengePart.FindAllStringSubmatch(challenge, -1) {
		part[m[1]] = m[2]
	}
	realm, perr := url.Parse(part["realm"])
	if perr != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return ctx, false
	}
	q := realm.Query()
	for _, k := range []string{"service", "scope"} {
		if part[k] != "" {
			q.Set(k, part[k])
		}
	}
	realm.RawQuery, realm.User = q.Encode(), nil
	value, ok := s.bearer(ctx, target, realm)
	if !ok {
		return ctx, false
	}
	return fetch.WithAuthorization(ctx, target, "Bearer "+value), true
}

func (s *Set) bearer(ctx context.Context, target, realm *url.URL) (string, bool) {
	key := realm.String()
	s.tokens.mu.Lock()
	t, ok := s.tokens.tokens[key]
	s.tokens.mu.Unlock()
	if ok && time.Now().Before(t.until) {
		return t.value, true
	}
	if auth := s.client.Authorization(target); auth != "" && (realm.Scheme == "https" || realm.Host == target.Host) {
		ctx = fetch.WithAuthorization(ctx, realm, auth)
	}
	resp, err := s.client.Get(ctx, realm, nil)
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	var answer struct {
		Token   string `json:"token"`
		Access  string `json:"access_token"`
		Expires int    `json:"expires_in"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer) != nil {
		return "", false
	}
	if answer.Token == "" {
		answer.Token = answer.Access
	}
	life := time.Duration(max(answer.Expires, 60)) * time.Second * 3 / 4
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	if s.tokens.tokens == nil {
		s.tokens.tokens = map[string]ociToken{}
	}
	s.tokens.tokens[key] = ociToken{value: answer.Token, until: time.Now().Add(life)}
	return answer.Token, answer.Token != ""
}
