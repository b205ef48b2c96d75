//go:build linux

package front

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/solver/pb"
)

// secret is a value by name; the value stays in the store.
type secret struct {
	node
	name string // what the user calls it
	uri  string // where it came from, "" for setSecret
	id   string // in the store; changes with the value, does not tell it
}

func (*secret) typeName() string { return "Secret" }

func (s *secret) withRecipe(r *recipe) object {
	c := *s
	c.recipe = r
	return &c
}

type secretVariable struct {
	name   string
	secret *secret
}

// secretStore keeps the plaintexts of a session, in memory only.
type secretStore struct {
	mu     sync.Mutex
	values map[string][]byte
	env    map[string]string   // variables of the client
	named  map[string][][]byte // values of builds' secrets, by the name a Dockerfile knows
	hide   *redactor           // of all values, nil when it must be made anew
}

var _ secrets.SecretStore = (*secretStore)(nil)

func newSecretStore() *secretStore {
	return &secretStore{values: map[string][]byte{}, named: map[string][][]byte{}, env: map[string]string{}}
}

func (s *secretStore) put(id string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[id] = value
	s.hide = nil
}

// name notes that Dockerfiles know a value by name.
func (s *secretStore) name(name string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.named[name], func(v []byte) bool { return bytes.Equal(v, value) }) {
		s.named[name] = append(s.named[name], value)
	}
}

// of are the values a step may print: those of its secrets. A step of a
// Dockerfile names a secret as several builds may, so it may be all of theirs.
func (s *secretStore) of(step *pb.ExecOp) [][]byte {
	var ids []string
	for _, e := range step.GetSecretenv() {
		ids = append(ids, e.GetID())
	}
	for _, m := range step.GetMounts() {
		if m.GetSecretOpt() != nil {
			ids = append(ids, m.GetSecretOpt().GetID())
		}
	}
	return s.byIDs(ids)
}

func (s *secretStore) byIDs(ids []string) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out [][]byte
	for _, id := range ids {
		if v, ok := s.values[id]; ok {
			out = append(out, v)
		}
		out = append(out, s.named[id]...)
	}
	return out
}

// redactor finds every secret of the session that is not too short to be
// told from other text.
func (s *secretStore) redactor() *redactor {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hide == nil {
		var values [][]byte
		for _, v := range s.values {
			if len(bytes.TrimSpace(v)) >= minSession {
				values = append(values, v)
			}
		}
		s.hide = newRedactor(values)
	}
	return s.hide
}

// GetSecret gives a step its secret.
func (s *secretStore) GetSecret(_ context.Context, id string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[id]
	if !ok {
		return nil, fmt.Errorf("secret %s: %w", id, secrets.ErrNotFound)
	}
	return v, nil
}

// maxSecret is Dagger's limit for setSecret.
const maxSecret = 128000

// keepPlaintext takes the plaintext out of the arguments of setSecret, so that
// no id ever has it.
func keepPlaintext(c *call) error {
	plaintext, given := c.args["plaintext"].(string)
	if !given {
		return nil // loaded from an id
	}
	if len(plaintext) > maxSecret {
		return usage(fmt.Sprintf("setSecret: the plaintext is longer than %d bytes", maxSecret), "")
	}
	id := c.mac(c.str("name") + "\x00" + plaintext)
	c.secrets.put(id, []byte(plaintext))
	delete(c.args, "plaintext")
	c.args["key"] = id
	return nil
}

func setSecret(_ context.Context, c *call, _ *query) (any, error) {
	id := c.str("key")
	if _, err := c.secrets.GetSecret(context.Background(), id); err != nil {
		return nil, usage(fmt.Sprintf("secret %q is not known in this session", c.str("name")), "call setSecret in the session that uses it")
	}
	return &secret{name: c.str("name"), id: id}, nil
}

// secretFromURI reads a secret the client has: a file, or a variable. The
// engine process has no environment, so the client sends what a query names.
func secretFromURI(_ context.Context, c *call, _ *query) (any, error) {
	uri := c.str("uri")
	value, err := c.secretValue(uri)
	if err != nil {
		return nil, err
	}
	if len(value) > secretsprovider.MaxSecretSize {
		return nil, usage(fmt.Sprintf("secret %q is longer than %d bytes", uri, secretsprovider.MaxSecretSize), "")
	}
	id := c.mac(uri + "\x00" + string(value))
	if key := c.str("cacheKey"); key != "" {
		id = c.mac("key\x00" + key)
	}
	c.secrets.put(id, value)
	return &secret{name: uri, uri: uri, id: id}, nil
}

func (c *call) secretValue(uri string) ([]byte, error) {
	switch scheme, rest, _ := strings.Cut(uri, "://"); scheme {
	case "file":
		p := rest
		if !filepath.IsAbs(p) {
			p = filepath.Join(c.workdir, p)
		}
		value, err := os.ReadFile(p)
		if err != nil {
			return nil, usage(fmt.Sprintf("secret %q: %v", uri, err), "")
		}
		return value, nil
	case "env":
		if value, ok := c.secrets.lent(rest); ok {
			return []byte(value), nil
		}
		return nil, usage(fmt.Sprintf("secret %q: secret env var not found: %q", uri, rest), "set the variable, or give the value with setSecret")
	}
	return nil, &fault{
		message: fmt.Sprintf("secret %q: the embedded engine reads file:// and env:// secrets only", uri),
		ext: map[string]any{"kind": "usage", "field": "Query.secret",
			"remedy": "give the value with setSecret, or a file with file://"},
	}
}

// lend takes over the variables that came with a query.
func (s *secretStore) lend(values []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range values {
		pair, err := base64.StdEncoding.DecodeString(text)
		name, value, ok := strings.Cut(string(pair), "=")
		if err == nil && ok {
			s.env[name] = value
		}
	}
}

func (s *secretStore) lent(name string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.env[name]
	return v, ok
}

func secretFields() map[string]field {
	return map[string]field{
		"name": on("", func(_ context.Context, _ *call, s *secret) (any, error) { return s.name, nil }),
		"uri":  on("", func(_ context.Context, _ *call, s *secret) (any, error) { return s.uri, nil }),
		"plaintext": on("", func(ctx context.Context, c *call, s *secret) (any, error) {
			v, err := c.secrets.GetSecret(ctx, s.id)
			return string(v), err
		}),
	}
}
