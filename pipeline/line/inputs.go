package line

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/engine"
	"drydock/modules/image"
	"drydock/modules/secret/vault"
)

// maxSecret is the most a secret holds; engines take no more.
const maxSecret = 500 << 10

// contexts makes the image's named contexts images the engine can copy from,
// under the references they are rewritten to. They are pushed among the bases.
func (l *Line) contexts(ctx context.Context, e *engine.Engine, img *catalog.Image, p artifact.Platform, refs map[string]string) error {
	if len(img.NamedContexts) == 0 {
		return nil
	}
	bases, err := l.basesReg.get()
	if err != nil {
		return err
	}
	for _, c := range img.NamedContexts {
		name := "contexts/" + img.Name + "/" + c.Name
		d, err := l.pushContext(ctx, bases, name, l.source(img), c, p)
		if err != nil {
			return err
		}
		refs[c.Name] = e.ImageRef(name, d)
	}
	return nil
}

func (l *Line) pushContext(ctx context.Context, bases *basesRegistry, name, source string, c catalog.Context, p artifact.Platform) (artifact.Digest, error) {
	keep, err := kept(c)
	if err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(l.cfg.Cache, ".context-")
	if err != nil {
		return "", fmt.Errorf("packing context %s: %w", c.Name, err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	d, err := image.Folder(tmp, filepath.Join(source, c.Dir), p, keep)
	if err != nil {
		return "", err
	}
	repo, err := bases.client.Repo(bases.where, name)
	if err != nil {
		return "", err
	}
	_, err = repo.PushLayout(ctx, tmp, d)
	return d, err
}

// secrets reads what the image's build may ask for, by id.
func (l *Line) secrets(ctx context.Context, img *catalog.Image) (map[string]string, error) {
	out := make(map[string]string, len(img.Secrets))
	for _, s := range img.Secrets {
		value, err := l.secretOf(ctx, s)
		if err != nil {
			return nil, err
		}
		if len(value) > maxSecret {
			return nil, secretError(s, fmt.Sprintf("it has %d bytes, at most %d can be given", len(value), maxSecret), "give a smaller one", nil)
		}
		out[s.ID] = value
	}
	return out, nil
}

// secretOf reads a secret from where it is; what was not known when the run
// began is hidden from every output from now on.
func (l *Line) secretOf(ctx context.Context, s catalog.Secret) (string, error) {
	if s.Vault == "" {
		return l.secret(s)
	}
	ref, err := vault.ParseRef(s.Vault)
	if err != nil {
		return "", secretError(s, err.Error(), "write PATH#FIELD", nil)
	}
	server, err := l.vault.get()
	if err != nil {
		return "", inSecret(s, err)
	}
	value, err := server.Read(ctx, ref)
	l.hide(server.Values()...)
	if err != nil {
		return "", inSecret(s, err)
	}
	l.hide(value)
	return value, nil
}

// inSecret says which secret of the catalog an error is about.
func inSecret(s catalog.Secret, err error) error {
	var e *artifact.Error
	if !errors.As(err, &e) {
		return err
	}
	out := *e
	out.Op = "reading secret " + s.ID + " from Vault"
	if out.Place != "" {
		out.Message = out.Place + ": " + out.Message
	}
	out.Place = s.Place
	return &out
}

func (l *Line) openVault() (*vault.Client, error) { return vault.New(l.getenv) }

// hide keeps values out of everything shown from now on.
func (l *Line) hide(values ...string) {
	if l.cfg.Hide != nil {
		l.cfg.Hide(values...)
	}
}

// secret reads what needs no server.
func (l *Line) secret(s catalog.Secret) (string, error) {
	if s.Env != "" {
		if value := l.getenv(s.Env); value != "" {
			return value, nil
		}
		return "", secretError(s, "variable "+s.Env+" is not set", "set it where drydock runs, in CI as a masked variable", nil)
	}
	path := os.Expand(s.File, l.getenv)
	if path == "" {
		return "", secretError(s, "file: "+s.File+" names nothing here", "set the variable in it where drydock runs", nil)
	}
	raw, err := os.ReadFile(path)
	var inPath *os.PathError
	if errors.As(err, &inPath) {
		err = inPath.Err
	}
	if err != nil {
		return "", secretError(s, "its file "+path+" cannot be read", "put it there, or name another with file:", err)
	}
	return string(raw), nil
}

// agent is the socket of the ssh agent that the image's build may ask, "" for
// none. What it holds stays with it: steps can have things signed.
func (l *Line) agent(img *catalog.Image) (string, error) {
	if img.SSH == "" {
		return "", nil
	}
	fault := artifact.Error{
		Kind: artifact.KindUsage, Op: "finding the ssh agent", Place: img.SSHPlace,
		Remedy: "start one where drydock runs (eval $(ssh-agent); ssh-add KEY), or take ssh: away",
	}
	path := os.Expand(img.SSH, l.getenv)
	if path == "" {
		fault.Message = "ssh: " + img.SSH + " names nothing here"
		return "", &fault
	}
	switch fi, err := os.Stat(path); {
	case err != nil:
		fault.Message, fault.Err = "its socket cannot be used", err
		return "", &fault
	case fi.Mode().Type() != os.ModeSocket:
		fault.Message = path + " is no socket"
		return "", &fault
	}
	return filepath.Abs(path)
}

// credentials are the variables whose values are nobody's to read in a log.
var credentials = []string{
	"COSIGN_PASSWORD", envSigningKey, "DRYDOCK_REGISTRY_PASSWORD", "DOCKER_AUTH_CONFIG",
	"CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD", "SYSTEM_ACCESSTOKEN", "VAULT_TOKEN", "VAULT_ID_TOKEN",
}

// Hidden lists the values that no output may show: the build secrets of the
// catalog's images, as far as they are there, and credentials. What a Vault
// server has is hidden once it is read.
func Hidden(c *catalog.Catalog, environ []string) []string {
	l := &Line{cfg: Config{Environ: environ}}
	var out []string
	for _, name := range credentials {
		if v := l.getenv(name); v != "" && !filepath.IsAbs(v) {
			out = append(out, v)
		}
	}
	for i := range c.Images {
		for _, s := range c.Images[i].Secrets {
			if v, err := l.secret(s); err == nil && s.Vault == "" {
				out = append(out, v)
			}
		}
	}
	return out
}

func secretError(s catalog.Secret, message, remedy string, err error) error {
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "reading secret " + s.ID, Place: strings.TrimSpace(s.Place),
		Message: message, Remedy: remedy, Err: err,
	}
}
