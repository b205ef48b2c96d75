//go:build linux

package front

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Build arguments that are not part of the build: they say to the engine what
// the API has no field for.
const (
	buildNameArg = "DRYDOCK_BUILD"    // names the build for the gateway
	frontendArg  = "DRYDOCK_FRONTEND" // the image of the frontend that reads the Dockerfile, "" the built-in one
)

// dockerRequest is one dockerBuild.
type dockerRequest struct {
	dir        *directory
	dockerfile string // within dir
	frontend   string // image of the one that reads it, "" the built-in one
	platform   ocispecs.Platform
	opts       map[string]string // of the Dockerfile frontend
	name       string            // of the build
	secrets    map[string][]byte
	ssh        string // path of the agent's socket
}

// built is what a dockerBuild made.
type built struct {
	state  llb.State
	config []byte
}

func dockerBuild(ctx context.Context, k *call, d *directory) (any, error) {
	req, err := k.dockerRequest(ctx, d)
	if err != nil {
		return nil, err
	}
	key, err := stateKey(ctx, d.state, d.platform)
	if err != nil {
		return nil, err
	}
	var ids []string
	for name := range req.secrets {
		ids = append(ids, name+"="+k.mac(string(req.secrets[name])))
	}
	slices.Sort(ids)
	b, err := remembered(ctx, k.memo, keyOf("dockerBuild", key, d.path, req.dockerfile, req.frontend, req.opts, req.name, ids), func() (built, error) {
		return k.buildDockerfile(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	c := k.newContainer(req.platform)
	if err := c.adopt(b.config); err != nil {
		return nil, fmt.Errorf("reading the built image's configuration: %w", err)
	}
	c.fs = b.state
	c.built, err = objectArgs[*secret](ctx, k, "secrets")
	return c, err
}

func (c *call) dockerRequest(ctx context.Context, d *directory) (*dockerRequest, error) {
	p, err := c.platformArg()
	if err != nil {
		return nil, err
	}
	req := &dockerRequest{
		dir: d, dockerfile: path.Join("/", c.str("dockerfile")), platform: p,
		secrets: map[string][]byte{},
		// the built-in frontend also where a Dockerfile's syntax line names
		// another: steps may not bring a frontend of their own
		opts: map[string]string{"cmdline": "drydock", "platform": platforms.Format(p)},
	}
	if req.dockerfile == "/" {
		req.dockerfile = "/Dockerfile"
	}
	req.opts["filename"] = strings.TrimPrefix(req.dockerfile, "/")
	if target := c.str("target"); target != "" {
		req.opts["target"] = target
	}
	argList, _ := c.args["buildArgs"].([]any)
	for _, e := range argList {
		m, _ := e.(map[string]any)
		name, _ := m["name"].(string)
		value, _ := m["value"].(string)
		switch {
		case name == "":
			return nil, usage("Directory.dockerBuild: a build argument has no name", "")
		case name == buildNameArg:
			req.name = value
		case name == frontendArg:
			req.frontend = value
		default:
			req.opts["build-arg:"+name] = value
		}
	}
	agent, err := objectArg[*socket](ctx, c, "ssh")
	if err != nil {
		return nil, err
	}
	if agent != nil {
		req.ssh = agent.path
	}
	secrets, err := objectArgs[*secret](ctx, c, "secrets")
	if err != nil {
		return nil, err
	}
	for _, s := range secrets {
		value, err := c.secrets.GetSecret(ctx, s.id)
		if err != nil {
			return nil, err
		}
		req.secrets[s.name] = value
		c.secrets.name(s.name, value)
	}
	return req, nil
}

// buildDockerfile solves the Dockerfile and tells the gateway which steps the
// build had.
func (s *Server) buildDockerfile(ctx context.Context, req *dockerRequest) (built, error) {
	if req.dir.state.Output() == nil {
		return built{}, notExist(strings.TrimPrefix(req.dockerfile, "/"))
	}
	exclude, err := s.dockerIgnore(ctx, req)
	if err != nil {
		return built{}, err
	}
	contextState := req.dir.rooted()
	if len(exclude) > 0 {
		contextState = copyDir(llb.Scratch(), "/", req.dir, put{exclude: exclude})
	}
	inputs := map[string]*pb.Definition{}
	for name, st := range map[string]llb.State{"context": contextState, "dockerfile": req.dir.rooted()} {
		def, err := st.Marshal(ctx, llb.Platform(s.platform))
		if err != nil {
			return built{}, err
		}
		inputs[name] = def.ToPB()
	}
	var out built
	steps := map[digest.Digest]string{}
	j := job{name: req.name, secrets: req.secrets, ssh: req.ssh, watch: func(st *client.SolveStatus) { noteSteps(steps, st) }}
	err = s.build(ctx, j, func(ctx context.Context, gw gateway.Client) (*gateway.Result, error) {
		var err error
		out, err = solveDockerfile(ctx, gw, req, inputs)
		return gateway.NewResult(), err
	})
	if err != nil {
		return built{}, err
	}
	return out, s.reportSteps(ctx, req, out.state, steps)
}

func solveDockerfile(ctx context.Context, gw gateway.Client, req *dockerRequest, inputs map[string]*pb.Definition) (built, error) {
	solve := gateway.SolveRequest{
		Frontend: "dockerfile.v0", FrontendOpt: maps.Clone(req.opts), FrontendInputs: inputs, Evaluate: true,
	}
	if req.frontend != "" {
		solve.Frontend, solve.FrontendOpt["source"] = "gateway.v0", req.frontend
	}
	res, err := gw.Solve(ctx, solve)
	if err != nil {
		return built{}, err
	}
	id := platforms.Format(req.platform)
	config := res.Metadata[exptypes.ExporterImageConfigKey]
	if config == nil {
		config = res.Metadata[exptypes.ExporterImageConfigKey+"/"+id]
	}
	if config == nil {
		return built{}, errors.New("the Dockerfile frontend gave no image configuration")
	}
	ref := res.Ref
	if ref == nil && len(res.Refs) > 0 {
		ref = res.Refs[id]
	}
	if ref == nil {
		return built{state: llb.Scratch(), config: config}, nil
	}
	st, err := ref.ToState()
	return built{state: st, config: config}, err
}

// dockerIgnore reads <Dockerfile>.dockerignore or .dockerignore.
func (s *Server) dockerIgnore(ctx context.Context, req *dockerRequest) ([]string, error) {
	var patterns []string
	err := s.withRef(ctx, req.dir.state, req.dir.platform, func(ctx context.Context, ref gateway.Reference) error {
		for _, name := range []string{req.dockerfile + ".dockerignore", "/.dockerignore"} {
			var buf bytes.Buffer
			_, err := copyFile(ctx, ref, path.Join(req.dir.path, name), &buf)
			var f *fault
			if errors.As(err, &f) {
				continue // not there
			}
			if err != nil {
				return err
			}
			patterns, err = ignorefile.ReadAll(&buf)
			if err != nil {
				return usage(fmt.Sprintf("%s: %v", strings.TrimPrefix(name, "/"), err), "")
			}
			return nil
		}
		return nil
	})
	return patterns, err
}

func noteSteps(steps map[digest.Digest]string, st *client.SolveStatus) {
	for _, v := range st.Vertexes {
		steps[v.Digest] = v.Name
	}
}

// buildMessage tells the gateway which RUN steps a build consists of.
type buildMessage struct {
	Kind  string      `json:"kind"`
	Build string      `json:"build"`
	Steps []buildStep `json:"steps"`
}

type buildStep struct {
	Step   string `json:"step"`
	Name   string `json:"name"`
	MadeBy string `json:"madeBy,omitempty"` // the step whose cached result it was given, where that has another digest
}

// isWeb: the source is fetched from an address, through the gateway.
func isWeb(identifier string) bool {
	return strings.HasPrefix(identifier, "http://") || strings.HasPrefix(identifier, "https://")
}

// runSteps are the commands and downloads a state was made by, in the order of
// the graph.
func (s *Server) runSteps(ctx context.Context, st llb.State, names map[digest.Digest]string) ([]buildStep, error) {
	steps := []buildStep{}
	if st.Output() == nil {
		return steps, nil
	}
	def, err := st.Marshal(ctx, llb.Platform(s.platform))
	if err != nil {
		return nil, err
	}
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, err
		}
		if op.GetExec() == nil && !isWeb(op.GetSource().GetIdentifier()) {
			continue
		}
		dgst := digest.FromBytes(dt)
		name := names[dgst]
		if name == "" {
			name = def.Metadata[dgst].Description["llb.customname"]
		}
		one := buildStep{Step: string(dgst), Name: name}
		if s.shared.MadeBy != nil {
			if made := s.shared.MadeBy(one.Step); made != one.Step {
				one.MadeBy = made
			}
		}
		steps = append(steps, one)
	}
	return steps, nil
}

// reportSteps sends the build's steps to the gateway and waits for its word.
func (s *Server) reportSteps(ctx context.Context, req *dockerRequest, st llb.State, names map[digest.Digest]string) error {
	if s.gateway == "" || req.name == "" {
		return nil
	}
	steps, err := s.runSteps(ctx, st, names)
	if err != nil {
		return fmt.Errorf("listing the steps of build %s: %w", req.name, err)
	}
	if err := s.tellGateway(ctx, buildMessage{Kind: "build", Build: req.name, Steps: steps}); err != nil {
		return &fault{
			message: fmt.Sprintf("telling the mirror gateway the steps of build %s: %v", req.name, err),
			ext:     map[string]any{"kind": "fault"}, err: err,
		}
	}
	return nil
}

func (s *Server) tellGateway(ctx context.Context, m buildMessage) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.gateway)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(m); err != nil {
		return err
	}
	var answer struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	if err := json.NewDecoder(conn).Decode(&answer); err != nil {
		return err
	}
	if !answer.OK {
		return fmt.Errorf("refused: %s", answer.Error)
	}
	return nil
}
