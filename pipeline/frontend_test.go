package main

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"drydock/internal/frontendtest"
)

// frontend serves BuildKit's Dockerfile frontend, as an OCI mirror would, under
// REPOSITORY, and puts the mirror's host:port and the image's digest into
// variables: frontend REPOSITORY ADDRESS DIGEST.
func frontend(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: frontend REPOSITORY ADDRESS DIGEST")
	}
	dir, err := os.MkdirTemp("", "drydock-frontend-")
	ts.Check(err)
	defer os.RemoveAll(dir)
	img, err := frontendtest.BuildKit(context.Background(), dir, os.Environ())
	ts.Check(err)
	d, err := img.Digest()
	ts.Check(err)
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	ts.Defer(s.Close)
	ref, err := name.ParseReference(s.Listener.Addr().String() + "/" + args[0] + ":1")
	ts.Check(err)
	ts.Check(remote.Write(ref, img))
	ts.Setenv(args[1], s.Listener.Addr().String())
	ts.Setenv(args[2], d.String())
}
