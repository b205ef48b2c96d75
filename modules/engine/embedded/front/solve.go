//go:build linux

package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// contentStore names the store imported images lie in.
const contentStore = "drydock"

// job is one build with BuildKit.
type job struct {
	name    string // of the image build, for events
	exports []client.ExportEntry
	secrets map[string][]byte // beside the session's own
	ssh     string            // path of the agent's socket, "" for none
	watch   func(*client.SolveStatus)

	cacheExports []client.CacheOptionsEntry
	response     *client.SolveResponse // nil-able; what exporters said
}

// build runs fn against BuildKit within one session and explains its errors.
func (s *Server) build(ctx context.Context, j job, fn gateway.BuildFunc) error {
	forward, err := s.sockets.provider(j.ssh)
	if err != nil {
		return err
	}
	status := make(chan *client.SolveStatus, 64)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		s.hub.feed(j.name).run(status, j.watch)
	}()
	opt := client.SolveOpt{
		Exports: j.exports, CacheExports: j.cacheExports,
		SharedKey: "drydock",
		OCIStores: map[string]content.Store{contentStore: s.content},
		Session: append([]session.Attachable{
			filesync.NewFSSyncProvider(s.host),
			secretsprovider.NewSecretProvider(layeredSecrets{s.secrets, j.secrets}),
		}, forward...),
	}
	unbind := func() {}
	resp, err := s.client.Build(ctx, opt, "drydock", func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
		if s.bind != nil {
			unbind = s.bind(gw.BuildOpts().SessionID)
		}
		return fn(ctx, &cachingClient{Client: gw, server: s, job: j})
	}, status)
	unbind()
	if resp != nil && j.response != nil {
		*j.response = *resp
	}
	wg.Wait()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return s.solveError(err)
}

// withRef solves a state and hands the result over; ref is nil when the state
// is empty.
func (s *Server) withRef(ctx context.Context, st llb.State, p ocispecs.Platform, fn func(context.Context, gateway.Reference) error) error {
	if st.Output() == nil {
		return fn(ctx, nil)
	}
	return s.build(ctx, job{}, func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
		ref, err := solveState(ctx, gw, st, p)
		if err != nil {
			return nil, err
		}
		if err := fn(ctx, ref); err != nil {
			return nil, err
		}
		return gateway.NewResult(), nil
	})
}

// solveState evaluates a state.
func solveState(ctx context.Context, gw gateway.Client, st llb.State, p ocispecs.Platform) (gateway.Reference, error) {
	def, err := st.Marshal(ctx, llb.Platform(p))
	if err != nil {
		return nil, err
	}
	res, err := gw.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	if err != nil {
		return nil, err
	}
	return res.SingleRef()
}

// stat looks at one path, following symbolic links.
func (s *Server) stat(ctx context.Context, d *directory, path string) (*fstypes.Stat, error) {
	var out *fstypes.Stat
	err := s.withRef(ctx, d.state, d.platform, func(ctx context.Context, ref gateway.Reference) error {
		if ref == nil {
			if path == "/" || path == "." {
				out = &fstypes.Stat{Path: "/", Mode: uint32(os.ModeDir | 0o755)}
				return nil
			}
			return notExist(path)
		}
		var err error
		out, err = ref.StatFile(ctx, gateway.StatRequest{Path: path})
		return missing(path, err)
	})
	return out, err
}

// readChunk is how much of a file one call to the engine brings.
const readChunk = 4 << 20

// copyFile writes a file of a solved state to w.
func copyFile(ctx context.Context, ref gateway.Reference, path string, w io.Writer) (int64, error) {
	if ref == nil {
		return 0, notExist(path)
	}
	st, err := ref.StatFile(ctx, gateway.StatRequest{Path: path})
	if err != nil {
		return 0, missing(path, err)
	}
	if os.FileMode(st.Mode).IsDir() {
		return 0, usage(fmt.Sprintf("%s is a directory, not a file", path), "")
	}
	var n int64
	for n < st.Size {
		dt, err := ref.ReadFile(ctx, gateway.ReadRequest{Filename: path, Range: &gateway.FileRange{Offset: int(n), Length: readChunk}})
		if err != nil {
			return n, missing(path, err)
		}
		if len(dt) == 0 {
			return n, io.ErrUnexpectedEOF
		}
		m, err := w.Write(dt)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// layeredSecrets are the session's secrets and those of one build.
type layeredSecrets struct {
	store *secretStore
	extra map[string][]byte
}

// GetSecret finds a secret by its id.
func (l layeredSecrets) GetSecret(ctx context.Context, id string) ([]byte, error) {
	if v, ok := l.extra[id]; ok {
		return v, nil
	}
	return l.store.GetSecret(ctx, id)
}

func notExist(path string) error {
	return usage(fmt.Sprintf("%s: no such file or directory", path), "")
}

// missing says in short that a path is not there, or why it leads nowhere.
func missing(path string, err error) error {
	if err == nil {
		return nil
	}
	for _, why := range []string{"not a directory", "too many levels of symbolic links", "too many links"} {
		if strings.Contains(err.Error(), why) {
			return usage(path+": "+why, "")
		}
	}
	if errors.Is(err, os.ErrNotExist) || containsAny(err.Error(), "no such file or directory", "not found") {
		return notExist(path)
	}
	return err
}
