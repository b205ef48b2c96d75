package mirror

import (
	"context"
	"encoding/json"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"drydock/modules/mirror/internal/clientconf"
	"drydock/modules/mirror/internal/store"
)

// publicNames remembers which hosts are public, on disk too: showing a plan
// must not touch the network.
type publicNames struct {
	file    string
	offline bool // no name is looked up: an unknown host counts as public

	mu    sync.Mutex
	hosts map[string]bool // as remembered
	fresh map[string]bool // resolved by this process
}

func newPublicNames(file string) *publicNames {
	p := &publicNames{file: file, hosts: map[string]bool{}, fresh: map[string]bool{}}
	if b, err := os.ReadFile(file); err == nil {
		var doc hostsFile
		if json.Unmarshal(b, &doc) == nil && doc.Version == 1 && doc.Public != nil {
			p.hosts = doc.Public
		}
	}
	return p
}

type hostsFile struct {
	Version int             `json:"version"`
	Public  map[string]bool `json:"public"`
}

// remembered is what was last known, and resolved only when nothing is.
func (p *publicNames) remembered(ctx context.Context, u *url.URL) bool {
	p.mu.Lock()
	v, ok := p.hosts[u.Hostname()]
	p.mu.Unlock()
	if ok {
		return v
	}
	return p.resolve(ctx, u)
}

// resolve asks, once per process. A host that was known and does not resolve
// now keeps what was known of it.
func (p *publicNames) resolve(ctx context.Context, u *url.URL) bool {
	host := u.Hostname()
	if u.Scheme == "file" {
		return false
	}
	p.mu.Lock()
	v, known := p.hosts[host]
	fresh := p.fresh[host]
	p.mu.Unlock()
	if fresh {
		return v
	}
	if p.offline {
		return !known || v
	}
	public, resolved := isPublic(ctx, host)
	if ctx.Err() != nil {
		return public
	}
	if !resolved && known {
		public = v
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hosts[host], p.fresh[host] = public, true
	if !known || v != public {
		if b, err := json.Marshal(hostsFile{Version: 1, Public: p.hosts}); err == nil {
			_ = store.WriteFile(p.file, b) // only a memory: the answer stands without it
		}
	}
	return public
}

func isPublic(ctx context.Context, host string) (public, resolved bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil || len(addrs) == 0 {
		return true, false
	}
	for _, a := range addrs {
		if !a.IP.IsPrivate() && !a.IP.IsLoopback() && !a.IP.IsLinkLocalUnicast() {
			return true, true
		}
	}
	return false, true
}

// npmAnswer remembers what npm said, for npm takes half a second to say it.
type npmAnswer struct {
	Version  int               `json:"version"`
	Files    map[string]string `json:"files"` // configuration file to its size and time
	Registry string            `json:"registry"`
}

// askNpm asks npm for its registry, again only when a file that could change
// the answer has changed.
func (s *Set) askNpm(ctx context.Context) string {
	program := s.env.LookPath("npm")
	if program == "" {
		return ""
	}
	now := npmAnswer{Version: 1, Files: map[string]string{}}
	for _, f := range append([]string{program}, s.npm.Files...) {
		now.Files[f] = "none"
		if st, err := os.Stat(f); err == nil {
			now.Files[f] = st.ModTime().UTC().Format(time.RFC3339Nano)
		}
	}
	file := s.dir + "/npm.json"
	var old npmAnswer
	if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &old) == nil && old.Version == 1 && equal(old.Files, now.Files) {
		return old.Registry
	}
	if now.Registry = clientconf.AskNpm(ctx, s.env); now.Registry != "" {
		if b, err := json.Marshal(now); err == nil {
			_ = store.WriteFile(file, b) // only a memory
		}
	}
	return now.Registry
}

func equal(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}
