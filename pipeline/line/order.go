package line

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"drydock/catalog"
	"drydock/modules/artifact"
	"drydock/modules/engine"
	"drydock/modules/image"
	"drydock/pipeline/plan"
	"drydock/pipeline/run"
)

// order is one platform of an image to be built: everything its build follows
// from, whatever its steps are held to.
type order struct {
	node      plan.Node
	img       *catalog.Image
	variant   *catalog.Variant
	engine    *engine.Engine
	step      string // the step program
	text      []byte // the Dockerfile, every FROM a digest
	plain     []byte // the same as the embedded engine has it, where text has more for another; nil otherwise
	bases     []baseReady
	secrets   map[string]string
	agent     string   // socket of its ssh agent, "" for none
	private   []string // ids of those the image may not hold
	emulators []artifact.Material
	reader    reader              // what reads the Dockerfile
	labels    map[string]string   // that the image gets
	inherited map[string]string   // that it would get from its base, and does not
	fetched   []artifact.Material // by us, for an engine that does not ask the gateway
	free      bool                // its lock is not held to
	sealed    *underLock          // whose files are all its steps have, on an engine of others; nil otherwise
}

// build makes one platform of an image.
func (l *Line) build(ctx context.Context, n plan.Node, in run.Inputs) (any, error) {
	o, err := l.order(ctx, n, in)
	if err != nil {
		return nil, err
	}
	b, err := l.carryOut(ctx, o)
	if l.yields(o, err) {
		o.free = true
		b, err = l.carryOut(ctx, o)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// order finds what a build follows from.
func (l *Line) order(ctx context.Context, n plan.Node, in run.Inputs) (*order, error) {
	img, variant, err := l.find(n)
	if err != nil {
		return nil, err
	}
	o := &order{node: n, img: img, variant: variant}
	if o.engine, o.step, err = l.worker(); err != nil {
		return nil, err
	}
	refs, bases, err := l.references(ctx, o.engine, variant, in)
	if err != nil {
		return nil, err
	}
	o.bases = bases
	if err := l.contexts(ctx, o.engine, img, *n.Platform, refs); err != nil {
		return nil, err
	}
	o.text, err = img.Parsed.Rewrite(img.Target, img.FromArgs(*variant, *n.Platform), func(ref string) (string, error) {
		to, ok := refs[ref]
		if !ok {
			return "", fmt.Errorf("%s builds on %q, which the plan does not resolve", img.DockerfilePath, ref)
		}
		return to, nil
	})
	if err != nil {
		return nil, err
	}
	if a, ok := l.cfg.State.Absent[img.Name]; ok {
		return nil, &artifact.Error{Kind: artifact.KindUsage, Op: "building", Place: a.Path, Message: a.Why, Remedy: a.Remedy}
	}
	if o.secrets, err = l.secrets(ctx, img); err != nil {
		return nil, err
	}
	if o.agent, err = l.agent(img); err != nil {
		return nil, err
	}
	o.private = slices.Sorted(maps.Keys(o.secrets))
	if !o.engine.Hermetic {
		o.plain = o.text
		var addresses map[string]string
		if o.text, addresses, err = l.withMirrors(ctx, o, refs); err != nil {
			return nil, err
		}
		maps.Copy(o.secrets, addresses)
		if err := l.withFiles(ctx, o); err != nil {
			return nil, err
		}
	}
	if o.labels, o.inherited, err = l.labels(img, variant, *n.Platform, refs, bases); err != nil {
		return nil, err
	}
	if o.reader, err = l.reader(o.engine, img); err != nil {
		return nil, err
	}
	o.emulators, err = l.emulators(o.engine, img, variant, *n.Platform)
	return o, err
}

// carryOut has the engine build what was ordered.
func (l *Line) carryOut(ctx context.Context, o *order) (*builtImage, error) {
	b := &builtImage{Image: o.node.Image, Variant: o.variant, Platform: *o.node.Platform, Name: o.node.ID, Bases: o.bases, Emulators: o.emulators}
	layers := b.standOn()
	secrets := maps.Clone(o.secrets)
	text := o.text
	var under *underLock
	var err error
	if o.sealed != nil {
		if b.Lock, err = l.lockDigest(o.img.Name); err != nil {
			return nil, err
		}
	} else if !o.free {
		if under, text, err = l.underLock(o.engine, o.img, b, text, secrets); err != nil {
			return nil, err
		}
	}
	if text, err = withEpoch(o.img, b, text, secrets); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.builds[b.Name] = plan.Image{Image: b.Image, Variant: b.Variant.Name}.ID() + " " + b.Platform.String()
	l.mu.Unlock()
	keep, err := kept(catalog.Context{Dir: o.img.ContextDir, Ignore: o.img.Ignore})
	if err != nil {
		return nil, err
	}
	contextDir, done, err := image.Steady(filepath.Join(l.source(o.img), o.img.ContextDir), l.cfg.Cache, keep)
	if err != nil {
		return nil, err
	}
	// What is exported or tested later is asked for by what it was made of.
	l.onClose(func() error { done(); return nil })
	told, err := o.history(ctx, b.Epoch)
	if err != nil {
		return nil, err
	}
	b.Built, err = image.Build(ctx, o.engine.Client, o.step, image.Source{
		Name: b.Name, ContextDir: contextDir, Ignore: o.img.Ignore, Dockerfile: text, History: told, Frontend: o.reader.spelling, Target: o.img.Target, User: o.img.User, Args: o.variant.Args,
		Platform: b.Platform, Epoch: b.Epoch, BaseLayers: layers, Secrets: secrets, Private: o.private, SSH: o.agent,
		Labels: o.labels, Inherited: o.inherited, CacheMounts: under.cacheMounts(), KeepTraces: o.img.KeepTraces,
	})
	if err != nil {
		return nil, l.named(err, o.img, under)
	}
	err = l.takeFetched(b, under)
	b.Sealed = o.sealed != nil
	b.Complete = b.Complete || b.Sealed
	b.Materials = slices.Concat(b.Materials, o.fetched, o.emulators, o.reader.materials)
	l.mu.Lock()
	l.built = append(l.built, b)
	l.mu.Unlock()
	return b, err
}
