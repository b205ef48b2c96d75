//go:build linux

package front

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
)

// socket is a unix socket of the host that queries named.
type socket struct {
	node
	path string
}

func (*socket) typeName() string { return "Socket" }

func (s *socket) withRecipe(r *recipe) object {
	c := *s
	c.recipe = r
	return &c
}

// id is what steps ask for. It is in their cache keys: the path is, what
// answers there is not.
func (s *socket) id() string { return "socket-" + hexSum(s.path)[:32] }

// sockets are those that steps may ask for.
type sockets struct {
	mu    sync.Mutex
	paths []string
}

func (l *sockets) add(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.paths, path) {
		l.paths = append(l.paths, path)
	}
}

// provider passes connections on to the sockets that are there, and to ssh
// under the name a Dockerfile knows, "" for none.
func (l *sockets) provider(ssh string) ([]session.Attachable, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []sshprovider.AgentConfig
	for _, path := range l.paths {
		if st, err := os.Stat(path); err != nil || st.Mode()&os.ModeSocket == 0 {
			continue // who asks for it hears so
		}
		s := socket{path: path}
		list = append(list, sshprovider.AgentConfig{ID: s.id(), Paths: []string{path}, Raw: true})
	}
	if ssh != "" {
		list = append(list, sshprovider.AgentConfig{ID: "default", Paths: []string{ssh}, Raw: true})
	}
	if len(list) == 0 {
		return nil, nil
	}
	p, err := sshprovider.NewSSHAgentProvider(list)
	if err != nil {
		return nil, hostFault("passing sockets to steps", err)
	}
	return []session.Attachable{p}, nil
}

func hostSocket(_ context.Context, c *call, _ *hostObject) (any, error) {
	p := c.str("path")
	st, err := os.Stat(p)
	switch {
	case os.IsNotExist(err):
		return nil, usage(fmt.Sprintf("%s: no such file or directory", p), "")
	case err != nil:
		return nil, hostFault("reading "+p, err)
	case st.Mode()&os.ModeSocket == 0:
		return nil, usage(fmt.Sprintf("%s is not a socket", p), "")
	}
	c.sockets.add(p)
	return &socket{path: p}, nil
}
