//go:build linux

package front

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// login is who publishes to a registry. Steps never see it.
type login struct {
	registry, user string
	secret         *secret
}

// publishFields are the fields by which images go to registries.
func publishFields() map[string]field {
	return map[string]field{
		"withRegistryAuth": on("address:s! username:s! secret:o!", func(ctx context.Context, k *call, c *container) (any, error) {
			s, err := objectArg[*secret](ctx, k, "secret")
			if err != nil {
				return nil, err
			}
			d, host := c.clone(), registryOf(k.str("address"))
			d.dropLogin(host)
			d.logins = append(d.logins, login{registry: host, user: k.str("username"), secret: s})
			return d, nil
		}),
		"withoutRegistryAuth": edit("address:s!", func(k *call, c *container) error {
			c.dropLogin(registryOf(k.str("address")))
			return nil
		}),
		"publish": on("address:s! platformVariants:O forcedCompression:s mediaTypes:s", publish),
	}
}

func (c *container) dropLogin(registry string) {
	c.logins = slices.DeleteFunc(c.logins, func(l login) bool { return l.registry == registry })
}

// registryOf is the host of a registry's or an image's address.
func registryOf(address string) string {
	address = strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ := strings.Cut(address, "/")
	return host
}

// publish makes the image and pushes it, over plain HTTP on loopback only.
func publish(ctx context.Context, k *call, c *container) (any, error) {
	address := k.str("address")
	opts := []name.Option{name.WithDefaultRegistry("")}
	if loopbackPattern.MatchString(registryOf(address)) {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.ParseReference(address, opts...)
	if err != nil || !strings.ContainsAny(registryOf(address), ".:") && registryOf(address) != "localhost" {
		return nil, usage(fmt.Sprintf("Container.publish: %q is not registry/repository:tag", address), "name the registry too")
	}
	variants, attrs, err := exportArgs(ctx, k, c)
	if err != nil {
		return nil, err
	}
	path, err := k.tarball(ctx, variants, attrs)
	if err != nil {
		return nil, err
	}
	auth := authn.Anonymous
	for _, l := range c.logins {
		if l.registry == registryOf(address) {
			password, err := k.secrets.GetSecret(ctx, l.secret.id)
			if err != nil {
				return nil, err
			}
			auth = authn.FromConfig(authn.AuthConfig{Username: l.user, Password: string(password)})
		}
	}
	digest, err := k.push(ctx, path, ref, auth)
	if err != nil {
		return nil, pushFault(address, err)
	}
	return ref.Name() + "@" + digest.String(), nil
}

func pushFault(address string, err error) error {
	f := &fault{message: fmt.Sprintf("publishing %s: %v", address, err), ext: map[string]any{"kind": "fault"}, err: err}
	var refused *transport.Error
	if errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden) {
		f.ext = map[string]any{"kind": "usage", "remedy": "give the registry's user and password with withRegistryAuth"}
	}
	return f
}

// push writes the one image or index of an archive.
func (s *Server) push(ctx context.Context, archive string, ref name.Reference, auth authn.Authenticator) (v1.Hash, error) {
	dir, err := os.MkdirTemp(s.scratch(), "publish-*")
	if err != nil {
		return v1.Hash{}, err
	}
	defer os.RemoveAll(dir)
	if err := unpack(archive, dir); err != nil {
		return v1.Hash{}, err
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return v1.Hash{}, err
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		return v1.Hash{}, fmt.Errorf("the image archive has not exactly one image: %w", err)
	}
	desc := manifest.Manifests[0]
	opts := []remote.Option{remote.WithContext(ctx), remote.WithAuth(auth), remote.WithUserAgent("drydock")}
	if desc.MediaType.IsIndex() {
		inner, err := index.ImageIndex(desc.Digest)
		if err != nil {
			return v1.Hash{}, err
		}
		return desc.Digest, remote.WriteIndex(ref, inner, opts...)
	}
	image, err := index.Image(desc.Digest)
	if err != nil {
		return v1.Hash{}, err
	}
	return desc.Digest, remote.Write(ref, image, opts...)
}

// unpack lays an OCI archive of our own out in a directory.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(h.Name), 0o700); err != nil {
			return err
		}
		out, err := root.Create(h.Name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, t) //nolint:gosec // we wrote it
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}
