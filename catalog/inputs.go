package catalog

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"

	"drydock/modules/artifact"
	"drydock/modules/dockerfile"
	"drydock/modules/secret/vault"
)

// Secret is a value a build may read with RUN --mount=type=secret,id=ID. It is
// part of no layer, no cache key and no evidence. Exactly one source is given.
type Secret struct {
	ID   string `yaml:"id"`
	Env  string `yaml:"env,omitempty"`  // the variable that holds it
	File string `yaml:"file,omitempty"` // the file that holds it; $NAME is put in from the environment

	// Vault is where a Vault server has it: PATH#FIELD, the path as its HTTP API
	// has it below /v1/ (secret/data/npm#token). It is read where the build
	// needs it, from the server VAULT_ADDR names.
	Vault string `yaml:"vault,omitempty"`

	Place string `yaml:"-"` // file:line
}

// Context is a further folder an image may copy from by name, as with
// COPY --from=NAME and RUN --mount=type=bind,from=NAME.
type Context struct {
	Name   string
	Dir    string   // relative to the catalog
	Ignore []string // patterns of its .dockerignore
}

var secretPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// checkSecrets checks where the build's secrets come from.
func (l *loader) checkSecrets(s source, img *Image) {
	img.SSHPlace = s.at("ssh")
	seen := map[string]bool{}
	for i := range img.Secrets {
		secret, n := &img.Secrets[i], strconv.Itoa(i)
		secret.Place = s.at("secrets", n)
		switch {
		case !secretPattern.MatchString(secret.ID):
			l.fail(secret.Place, "%q is not the id of a secret", secret.ID).Remedy = "write letters, digits, dots, dashes and underscores"
		case seen[secret.ID]:
			l.fail(secret.Place, "secret %s is there twice", secret.ID).Remedy = "remove one of them"
		case secret.sources() != 1:
			l.fail(secret.Place, "secret %s has no single source", secret.ID).Remedy = "give one of env: VARIABLE, file: PATH and vault: PATH#FIELD"
		case secret.Env != "" && !argPattern.MatchString(secret.Env):
			l.fail(s.at("secrets", n, "env"), "%q is not the name of a variable", secret.Env).Remedy = "write the variable's name, not its value"
		}
		if secret.Vault != "" {
			if _, err := vault.ParseRef(secret.Vault); err != nil {
				l.fail(s.at("secrets", n, "vault"), "%v", err).Remedy = "write the path of Vault's HTTP API below /v1/ and a field, as secret/data/npm#token"
			}
		}
		seen[secret.ID] = true
	}
}

// sources counts what says where the secret comes from.
func (s *Secret) sources() int {
	n := 0
	for _, from := range []string{s.Env, s.File, s.Vault} {
		if from != "" {
			n++
		}
	}
	return n
}

// findContexts finds the named contexts, folders of the catalog like the main
// context, relative to the image's file.
func (l *loader) findContexts(s source, img *Image) {
	for _, name := range slices.Sorted(maps.Keys(img.Contexts)) {
		written, at := img.Contexts[name], s.at("contexts", name)
		c := Context{Name: name, Dir: path.Join(l.dir, written)}
		if !namePattern.MatchString(name) {
			l.fail(at, "%q is not the name of a context", name).Remedy = "write lower-case letters, digits, dots, dashes and underscores"
			continue
		}
		if path.IsAbs(written) || !fs.ValidPath(c.Dir) {
			l.fail(at, "context %s is outside the %s", written, l.what).Remedy = "move it into the " + l.what + ", beside the image's file"
			continue
		}
		if info, err := fs.Stat(l.fsys, c.Dir); err != nil || !info.IsDir() {
			l.fail(at, "there is no directory %s", path.Join(l.name, c.Dir)).Remedy = "create it, or name another, relative to this file"
			continue
		}
		c.Ignore = l.ignoreFile(path.Join(c.Dir, ".dockerignore"))
		img.NamedContexts = append(img.NamedContexts, c)
	}
}

// namedContext says whether a reference is one of the image's named contexts.
// They can be copied from and mounted, not built on: a folder is no base.
func (l *loader) namedContext(img *Image, b dockerfile.BaseRef) (bool, error) {
	if !slices.ContainsFunc(img.NamedContexts, func(c Context) bool { return c.Name == b.Ref }) {
		return false, nil
	}
	if b.Instruction != "FROM" {
		return true, nil
	}
	return true, &artifact.Error{
		Kind: artifact.KindUsage, Op: "reading catalog", Place: fmt.Sprintf("%s:%d", img.Parsed.Name, b.Line),
		Message: fmt.Sprintf("FROM %s builds on a named context, which is a folder", b.Ref),
		Remedy:  "write FROM scratch and COPY --from=" + b.Ref + " . /",
	}
}
