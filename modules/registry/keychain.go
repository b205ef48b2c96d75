package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"drydock/modules/artifact"
)

// keychain finds credentials where clients and CI systems leave them. In order:
// DOCKER_AUTH_CONFIG (GitLab), the docker configuration and its credential
// helpers, REGISTRY_AUTH_FILE (podman, skopeo), CI_REGISTRY with its job token
// (GitLab), DRYDOCK_REGISTRY_USER and _PASSWORD (anything else) for
// DRYDOCK_REGISTRY or, without that, for every registry asked.
type keychain struct {
	environ []string
	home    string
}

func newKeychain(environ []string, home string) authn.Keychain {
	if home == "" {
		home = lookup(environ, "HOME")
	}
	return keychain{environ, home}
}

// dockerConfig is the part of docker's config.json that holds credentials.
type dockerConfig struct {
	Auths map[string]struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
	CredsStore  string            `json:"credsStore"`
	CredHelpers map[string]string `json:"credHelpers"`
}

// Resolve implements authn.Keychain.
func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain.
func (k keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	for _, src := range k.sources() {
		raw, place, err := src()
		if err != nil {
			return nil, err
		}
		if raw == nil {
			continue
		}
		a, err := k.fromConfig(ctx, raw, place, r)
		if err != nil || a != nil {
			return a, err
		}
	}
	return k.fromVariables(r), nil
}

func (k keychain) sources() []func() ([]byte, string, error) {
	file := func(path string) func() ([]byte, string, error) {
		return func() ([]byte, string, error) {
			if path == "" {
				return nil, "", nil
			}
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, "", nil
			}
			if err != nil {
				return nil, "", &artifact.Error{
					Kind: artifact.KindUsage, Op: "reading registry credentials", Place: path,
					Remedy: "make the file readable or point DOCKER_CONFIG elsewhere", Err: err,
				}
			}
			return b, path, nil
		}
	}
	dir := lookup(k.environ, "DOCKER_CONFIG")
	if dir == "" && k.home != "" {
		dir = filepath.Join(k.home, ".docker")
	}
	docker := ""
	if dir != "" {
		docker = filepath.Join(dir, "config.json")
	}
	return []func() ([]byte, string, error){
		func() ([]byte, string, error) {
			if v := lookup(k.environ, "DOCKER_AUTH_CONFIG"); v != "" {
				return []byte(v), "DOCKER_AUTH_CONFIG", nil
			}
			return nil, "", nil
		},
		file(docker),
		file(lookup(k.environ, "REGISTRY_AUTH_FILE")),
	}
}

func (k keychain) fromVariables(r authn.Resource) authn.Authenticator {
	host := r.RegistryStr()
	if reg := lookup(k.environ, "CI_REGISTRY"); reg != "" && hostOf(reg) == host {
		user, pass := lookup(k.environ, "CI_REGISTRY_USER"), lookup(k.environ, "CI_REGISTRY_PASSWORD")
		if token := lookup(k.environ, "CI_JOB_TOKEN"); pass == "" && token != "" {
			user, pass = "gitlab-ci-token", token
		}
		if pass != "" {
			return &authn.Basic{Username: user, Password: pass}
		}
	}
	reg := lookup(k.environ, "DRYDOCK_REGISTRY")
	pass := lookup(k.environ, "DRYDOCK_REGISTRY_PASSWORD")
	if pass != "" && (reg == "" || hostOf(reg) == host) {
		return &authn.Basic{Username: lookup(k.environ, "DRYDOCK_REGISTRY_USER"), Password: pass}
	}
	return authn.Anonymous
}

func (k keychain) fromConfig(ctx context.Context, raw []byte, place string, r authn.Resource) (authn.Authenticator, error) {
	var c dockerConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, &artifact.Error{
			Kind: artifact.KindUsage, Op: "reading registry credentials", Place: place,
			Message: "not the JSON of a docker configuration", Remedy: "mend or remove it", Err: err,
		}
	}
	host := r.RegistryStr()
	for h, helper := range c.CredHelpers {
		if hostOf(h) == host {
			return k.helper(ctx, helper, h)
		}
	}
	best, bestKey := authn.Authenticator(nil), ""
	for key, a := range c.Auths {
		if !covers(key, r) || len(normalKey(key)) < len(bestKey) {
			continue
		}
		cfg := authn.AuthConfig{
			Username: a.Username, Password: a.Password, Auth: a.Auth,
			IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
		}
		if err := decodeAuth(&cfg); err != nil {
			return nil, &artifact.Error{
				Kind: artifact.KindUsage, Op: "reading registry credentials", Place: place + ": " + key,
				Message: "its auth is not base64 of user:password", Remedy: "log in again", Err: err,
			}
		}
		if cfg != (authn.AuthConfig{}) {
			best, bestKey = authn.FromConfig(cfg), normalKey(key)
		}
	}
	if best == nil && c.CredsStore != "" {
		key := host
		if host == name.DefaultRegistry {
			key = authn.DefaultAuthKey
		}
		return k.helper(ctx, c.CredsStore, key)
	}
	return best, nil
}

func decodeAuth(c *authn.AuthConfig) error {
	if c.Auth == "" {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(c.Auth))
	if err != nil {
		b, err = base64.RawStdEncoding.DecodeString(strings.TrimSpace(c.Auth))
	}
	if err != nil {
		return err
	}
	user, pass, ok := strings.Cut(string(b), ":")
	if !ok {
		return errors.New("no colon in it")
	}
	c.Username, c.Password, c.Auth = user, strings.TrimRight(pass, "\x00"), ""
	return nil
}

// helper asks docker-credential-NAME; without an entry the answer is nil.
func (k keychain) helper(ctx context.Context, helper, server string) (authn.Authenticator, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	program := "docker-credential-" + helper
	fail := func(err error) error {
		return &artifact.Error{
			Kind: artifact.KindFault, Op: "asking credential helper", Place: program + " for " + server,
			Remedy: "log in again, or install " + program + " or take it out of the docker configuration", Err: err,
		}
	}
	path, err := findProgram(k.environ, program)
	if err != nil {
		return nil, fail(err)
	}
	cmd := exec.CommandContext(ctx, path, "get")
	cmd.Env = k.environ
	cmd.Stdin = strings.NewReader(server)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(out.String() + " " + errs.String())
		if strings.Contains(said, "credentials not found") {
			return nil, nil
		}
		return nil, fail(fmt.Errorf("%w: %s", err, said))
	}
	var got struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return nil, fail(errors.New("its answer is not the JSON of credentials"))
	}
	if got.Username == "<token>" {
		return authn.FromConfig(authn.AuthConfig{IdentityToken: got.Secret}), nil
	}
	return &authn.Basic{Username: got.Username, Password: got.Secret}, nil
}

// findProgram looks a program up in the PATH of the environment handed in.
func findProgram(environ []string, program string) (string, error) {
	for _, dir := range filepath.SplitList(lookup(environ, "PATH")) {
		for _, ext := range []string{"", ".exe"} {
			p := filepath.Join(dir, program+ext)
			if fi, err := os.Stat(p); err == nil && !fi.IsDir() && (ext != "" || fi.Mode()&0o111 != 0) {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("%s is not in PATH", program)
}

// covers says whether an entry of auths is for r: its host, or its host and the
// head of its path (containers-auth.json).
func covers(key string, r authn.Resource) bool {
	if hostOf(key) != r.RegistryStr() {
		return false
	}
	n := normalKey(key)
	_, path, ok := strings.Cut(n, "/")
	full := r.String()
	return !ok || path == "" || strings.HasPrefix(full+"/", n+"/")
}

func normalKey(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	return strings.TrimSuffix(strings.TrimSuffix(key, "/v1"), "/v2")
}

func hostOf(key string) string {
	h, _, _ := strings.Cut(normalKey(key), "/")
	return h
}
