package main

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/crane"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"

	"drydock/modules/artifact"
	"drydock/modules/registry"
	"drydock/modules/sign"
	"drydock/modules/sign/signtest"
)

// upstream starts a registry with an image of somebody else, thing, and puts
// its host:port and the image's digest into variables: upstream HOST DIGEST.
func upstream(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: upstream HOST DIGEST")
	}
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	ts.Defer(func() { s.CloseClientConnections(); s.Close() })
	img, err := crane.Image(map[string][]byte{"etc/upstream": []byte("theirs\n")})
	ts.Check(err)
	cfg, err := img.ConfigFile()
	ts.Check(err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config.User = "linux", "amd64", "65532:65532"
	img, err = mutate.ConfigFile(img, cfg)
	ts.Check(err)
	host := s.Listener.Addr().String()
	ts.Check(crane.Push(img, host+"/their/thing:1", crane.Insecure))
	d, err := img.Digest()
	ts.Check(err)
	ts.Setenv(args[0], host)
	ts.Setenv(args[1], d.String())
}

// signer makes a key pair: signer KEYS.
func signer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: signer KEYS")
	}
	_, err := sign.LoadOrGenerate(ts.MkAbs(args[0]), nil, true)
	ts.Check(err)
}

// cosigned signs an image of a registry with the key pair of a folder: cosigned
// REPOSITORY@DIGEST KEYS.
func cosigned(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cosigned REPOSITORY@DIGEST KEYS")
	}
	name, digest, _ := strings.Cut(args[0], "@")
	host, name, _ := strings.Cut(name, "/")
	pair, err := sign.Load(filepath.Join(ts.MkAbs(args[1]), sign.PrivateKeyFile), nil)
	ts.Check(err)
	client, err := registry.NewClient(registry.Options{})
	ts.Check(err)
	repo, err := client.Repo(registry.Location{Name: "theirs", Base: host}, name)
	ts.Check(err)
	_, err = pair.Sign(context.Background(), repo, artifact.Digest(digest))
	ts.Check(err)
}

// keyless signs an image as somebody, with an authority and a log of its own,
// whose trusted root it writes: keyless REPOSITORY@DIGEST SUBJECT ISSUER ROOT.
func keyless(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: keyless REPOSITORY@DIGEST SUBJECT ISSUER ROOT")
	}
	name, digest, _ := strings.Cut(args[0], "@")
	theirs, err := signtest.New()
	ts.Check(err)
	root, err := theirs.Root(false)
	ts.Check(err)
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[3])), 0o755))
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), root, 0o644))
	one, err := theirs.Sign(args[1], args[2], signtest.Text(artifact.Digest(digest)))
	ts.Check(err)
	at := name + ":" + strings.Replace(digest, ":", "-", 1) + ".sig"
	on, err := crane.Pull(at, crane.Insecure)
	if err != nil {
		on = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	}
	on, err = mutate.Append(on, mutate.Addendum{
		Layer: static.NewLayer(one.Text, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{
			"dev.cosignproject.cosign/signature": one.Signature, "dev.sigstore.cosign/certificate": one.Certificate, "dev.sigstore.cosign/bundle": one.Bundle,
		},
	})
	ts.Check(err)
	ts.Check(crane.Push(on, at, crane.Insecure))
}
