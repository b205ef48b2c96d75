package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"drydock/modules/artifact"
	"drydock/modules/sandbox/suite"
	"drydock/modules/steprun/wire"
	"drydock/pipeline/step/internal/blackbox"
	"drydock/pipeline/step/internal/confine"
)

// runTest is the init of an image's container. It starts as root if it can,
// takes privileges away, becomes the image's user and begins anew; only then
// does it read the image's files or run anything of it.
func runTest(ctx context.Context, args []string, std streams) error {
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	spec := fs.String("spec", "", "the tests, as JSON")
	in := fs.String("in", "", "OCI archive of the image")
	out := fs.String("out", "-", "file for the report; - is stdout")
	confined := fs.String("confined", "", "what the first stage did, as JSON (not for people)")
	if err := parse(fs, args, std, "spec", "in"); err != nil {
		return err
	}
	req, err := readRequest(*spec)
	if err != nil {
		return err
	}
	img, err := blackbox.Open(*in)
	if err != nil {
		return &artifact.Error{Kind: artifact.KindFault, Op: "testing image", Err: err, Remedy: "rebuild the image: its archive is broken"}
	}
	defer func() { _ = img.Close() }()
	executes := len(req.Suite.Commands)+len(req.Suite.Services) > 0 && req.StaticOnly == ""
	if executes && *confined == "" {
		return confineAndBegin(img, req, args)
	}
	results, err := blackbox.Static(img, req)
	if err != nil {
		return &artifact.Error{Kind: artifact.KindFault, Op: "testing image", Err: err, Remedy: "rebuild the image: its archive is broken"}
	}
	report := unexecuted(req, results)
	if executes {
		if report, err = runConfined(ctx, img, req, results, *confined); err != nil {
			return err
		}
	}
	if *out != "-" {
		return writeJSON(*out, report)
	}
	raw, err := json.Marshal(report)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.out, "%s\n", raw)
	return err
}

// unexecuted is the report where nothing of the image ran.
func unexecuted(req *suite.Request, results []artifact.TestResult) *artifact.TestReport {
	static := req.StaticOnly != ""
	c := artifact.Confinement{Capabilities: []string{}, NotExecutable: static}
	return blackbox.Report(append(results, blackbox.Unrun(req, false, req.StaticOnly)...), c, static)
}

func readRequest(path string) (*suite.Request, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	req := new(suite.Request)
	if err := json.Unmarshal(raw, req); err != nil {
		return nil, fmt.Errorf("reading tests: %w", err)
	}
	if req.Version != wire.Version {
		return nil, fmt.Errorf("reading tests: version %d, want %d: the step program is of another release", req.Version, wire.Version)
	}
	return req, nil
}

// stage is what the first stage hands to the second.
type stage struct {
	Done confine.Done  `json:"done"`
	User blackbox.User `json:"user"`
	Err  string        `json:"err,omitempty"` // why the image's user is not known
}

// confineAndBegin confines this process and replaces it by the second stage.
func confineAndBegin(img *blackbox.Image, req *suite.Request, args []string) error {
	var s stage
	var err error
	program := confine.Program()
	if s.User, err = blackbox.LookupUser(img.Config.User, small("/etc/passwd"), small("/etc/group")); err != nil {
		// Nothing of the image will run, but its files are still looked at: as nobody.
		s.Err, s.User = err.Error(), blackbox.User{UID: 65534, GID: 65534, Home: "/"}
	}
	s.Done = confine.Apply(confine.Options{
		UID: s.User.UID, GID: s.User.GID, Groups: s.User.Groups,
		ReadOnlyRoot: req.ReadOnlyRoot, Writable: req.Writable,
	})
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	argv := append([]string{"drydock-step", "test", "--confined", string(raw)}, args...)
	return fmt.Errorf("beginning anew, confined: %w", confine.Become(program, argv, []string{"TMPDIR=/tmp"}))
}

// small reads a small file of the image; what is not there is empty.
func small(path string) string {
	const most = 1 << 20
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > most {
		return ""
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(raw)
}

// runConfined is the second stage: it says what holds, and runs the tests.
func runConfined(ctx context.Context, img *blackbox.Image, req *suite.Request, results []artifact.TestResult, confined string) (*artifact.TestReport, error) {
	var s stage
	if err := json.Unmarshal([]byte(confined), &s); err != nil {
		return nil, usage("--confined: %v", err)
	}
	c, err := confine.Observe(s.Done)
	if err != nil {
		return nil, fmt.Errorf("reading back the confinement: %w", err)
	}
	if s.Err != "" {
		results = append(results, blackbox.Unrun(req, true, s.Err)...)
		return blackbox.Report(results, c, false), nil
	}
	if want := fmt.Sprintf("%d:%d", s.User.UID, s.User.GID); c.User != want {
		// Root without any capability in place of the image's user would test
		// something else than what is shipped; another user would as well.
		results = append(results, blackbox.Unrun(req, false, fmt.Sprintf("the container cannot run as the image's user %s: %s", want, strings.Join(s.Done.Notes, "; ")))...)
		return blackbox.Report(results, c, false), nil
	}
	r := &blackbox.Runner{Image: img, Request: req, User: s.User}
	results = append(results, r.Run(ctx)...)
	if cause := context.Cause(ctx); cause != nil {
		return nil, errors.Join(artifact.ErrInterrupted, cause)
	}
	for _, n := range s.Done.Notes {
		_, _ = fmt.Fprintln(os.Stderr, "test: not confined fully:", n)
	}
	return blackbox.Report(results, c, false), nil
}
