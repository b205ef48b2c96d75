package line

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/engine"
	"drydock/modules/sandbox"
	"drydock/modules/sandbox/suite"
	"drydock/modules/sbom"
	"drydock/modules/scan"
	"drydock/pipeline/plan"
	"drydock/pipeline/run"
)

// inventory is the bill of materials of one platform.
type inventory struct {
	*sbom.Documents
	Platform artifact.Platform
	Manifest artifact.Digest
}

// sbom catalogues one platform of an image.
func (l *Line) sbom(ctx context.Context, n plan.Node, in run.Inputs) (any, error) {
	b := run.Input[*builtImage](in)
	e, step, err := l.worker()
	if err != nil {
		return nil, err
	}
	docs, err := sbom.Generate(ctx, e.Client, step, b.Tar, sbom.Options{
		Name: plan.Image{Image: n.Image, Variant: n.Variant}.ID(), Epoch: b.Epoch,
	})
	if err != nil {
		return nil, err
	}
	return &inventory{Documents: docs, Platform: b.Platform, Manifest: b.Manifest}, nil
}

// scanned is the scan of one platform.
type scanned struct {
	Report   *artifact.ScanReport
	Platform artifact.Platform
	Manifest artifact.Digest
}

// scan holds one platform's packages against a vulnerability database.
func (l *Line) scan(ctx context.Context, n plan.Node, in run.Inputs) (any, error) {
	inv := run.Input[*inventory](in)
	e, step, err := l.worker()
	if err != nil {
		return nil, err
	}
	db, err := l.database(ctx, n.Image, inv)
	if err != nil {
		return nil, err
	}
	report, err := scan.Run(ctx, e.Client, step, inv.Syft, db)
	if err != nil {
		return nil, err
	}
	return &scanned{Report: report, Platform: inv.Platform, Manifest: inv.Manifest}, nil
}

// tested is the black-box tests of one platform.
type tested struct {
	Report   *artifact.TestReport
	Platform artifact.Platform
	Manifest artifact.Digest
}

// test runs one platform's black-box tests.
func (l *Line) test(ctx context.Context, n plan.Node, in run.Inputs) (any, error) {
	b := run.Input[*builtImage](in)
	img, _, err := l.find(n)
	if err != nil {
		return nil, err
	}
	e, step, err := l.worker()
	if err != nil {
		return nil, err
	}
	spec, err := l.testSpec(img)
	if err != nil {
		return nil, err
	}
	// Where the engine gives steps a network, the init must leave it by itself.
	spec.UnsafePrivileged = !e.Hermetic
	native, err := e.Client.DefaultPlatform(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking what the engine can execute: %w", err)
	}
	if spec.StaticOnly, err = l.staticOnly(e, string(native), b.Platform); err != nil {
		return nil, err
	}
	report, err := sandbox.Test(ctx, e.Client, step, b.Tar, spec, b.Platform)
	if err != nil {
		return nil, err
	}
	report.Emulated = spec.StaticOnly == "" && e.Kind == engine.KindEmbedded && engine.Emulated(b.Platform) != ""
	return &tested{Report: report, Platform: b.Platform, Manifest: b.Manifest}, nil
}

// testSpec reads an image's structure tests and adds its service checks.
func (l *Line) testSpec(img *catalog.Image) (sandbox.Spec, error) {
	var suites []*suite.Suite
	for _, path := range img.StructurePaths {
		full := filepath.Join(l.source(img), path)
		raw, err := readFile(full)
		if err != nil {
			return sandbox.Spec{}, err
		}
		s, err := suite.Parse(raw, filepath.Join(filepath.Base(l.source(img)), path))
		if err != nil {
			return sandbox.Spec{}, err
		}
		suites = append(suites, s)
	}
	services := new(suite.Suite)
	for _, s := range img.Tests.Services {
		services.Services = append(services.Services, service(s))
	}
	return sandbox.Spec{
		Suite:   *suite.Merge(append(suites, services)...),
		NonRoot: img.Tests.NonRoot, ReadOnlyRoot: img.Tests.ReadOnlyRoot, Writable: img.Tests.Writable,
	}, nil
}

func service(s catalog.Service) suite.Service {
	out := suite.Service{Name: s.Name, Command: s.Command, Timeout: suite.Duration(time.Duration(s.Timeout))}
	if s.HTTP != nil {
		out.Port = s.HTTP.Port
		out.HTTP = &suite.HTTP{Path: s.HTTP.Path, Status: s.HTTP.Status, Body: s.HTTP.Contains}
	}
	if s.TCP != nil {
		out.Port, out.Send, out.Expect = s.TCP.Port, s.TCP.Send, s.TCP.Expect
	}
	return out
}

// evidenceOf turns what was found out into the evidence that is signed.
func evidenceOf(kind string, p artifact.Platform, manifest artifact.Digest, predicate any) (artifact.Evidence, error) {
	raw, ok := predicate.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(predicate); err != nil {
			return artifact.Evidence{}, fmt.Errorf("writing evidence: %w", err)
		}
	}
	return artifact.Evidence{Subject: manifest, Platform: &p, PredicateType: kind, Predicate: raw}, nil
}
