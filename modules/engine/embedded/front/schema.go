//go:build linux

package front

import (
	"context"
	"fmt"
	"strings"
)

// schema is the part of the API there is: fields by type and name.
type schema map[string]map[string]field

// field is how one field is answered.
type field struct {
	params  []param
	prepare func(*call) error // makes the arguments self-contained before they become part of an id
	run     func(context.Context, *call, object) (any, error)
}

// param is one argument of a field. Its kind is one letter: s string, i
// integer, b boolean, l list of strings, o object, O list of objects, m list
// of input objects.
type param struct {
	name     string
	kind     byte
	required bool
}

// on makes a field of the type T. params is a list of name:kind, with ! after
// the required ones.
func on[T object](params string, run func(context.Context, *call, T) (any, error)) field {
	f := field{run: func(ctx context.Context, c *call, o object) (any, error) {
		self, ok := o.(T)
		if !ok {
			return nil, fmt.Errorf("%s.%s: called on a %s", c.typ, c.field, o.typeName())
		}
		return run(ctx, c, self)
	}}
	for _, word := range strings.Fields(params) {
		name, kind, _ := strings.Cut(word, ":")
		f.params = append(f.params, param{name: name, kind: kind[0], required: strings.HasSuffix(kind, "!")})
	}
	return f
}

// with adds the preparation of a field's arguments.
func (f field) with(prepare func(*call) error) field {
	f.prepare = prepare
	return f
}

func newSchema() schema {
	s := schema{
		"Query": queryFields(),
		"Host":  hostFields(),
		"Container": merged(containerFields(), containerConfigFields(), containerFileFields(), containerMountFields(), containerExecFields(), containerImageFields(), containerServiceFields(),
			containerStatFields(), publishFields()),
		"Directory":   merged(directoryFields(), directoryReadFields(), directoryStatFields()),
		"File":        merged(fileFields(), fileStatFields()),
		"CacheVolume": {},
		"Secret":      secretFields(),
		"Service":     serviceFields(),
		"Socket":      {},
	}
	for name, fields := range recordFields() {
		s[name] = fields
	}
	return s
}

func merged(parts ...map[string]field) map[string]field {
	out := map[string]field{}
	for _, part := range parts {
		for name, f := range part {
			out[name] = f
		}
	}
	return out
}

// lookup finds a field, or says that it is not here and what has it.
func (s schema) lookup(typ, name string) (field, error) {
	if f, ok := s[typ][name]; ok {
		return f, nil
	}
	return field{}, notHere(typ + "." + name)
}

// notHere is the error for a part of the Dagger API the embedded engine lacks.
func notHere(what string) error {
	return &fault{
		message: what + " is not in the embedded engine's part of the Dagger API; " + remedyDagger,
		ext:     map[string]any{"kind": "usage", "field": what, "remedy": remedyDagger},
	}
}

const remedyDagger = "to use it connect a Dagger Engine " + Version +
	": run under `dagger run`, or set _EXPERIMENTAL_DAGGER_RUNNER_HOST and _EXPERIMENTAL_DAGGER_CLI_BIN"

// call is one field being resolved.
type call struct {
	*request
	typ, field string
	args       args
}

// check validates the arguments and turns ids into recipes.
func (c *call) check(params []param) error {
	known := map[string]param{}
	for _, p := range params {
		known[p.name] = p
		if _, given := c.args[p.name]; p.required && !given {
			return usage(fmt.Sprintf("%s.%s: argument %q is missing", c.typ, c.field, p.name), "")
		}
	}
	for name, v := range c.args {
		p, ok := known[name]
		if !ok {
			return notHere(fmt.Sprintf("argument %q of %s.%s", name, c.typ, c.field))
		}
		checked, err := p.check(v)
		if err != nil {
			return usage(fmt.Sprintf("%s.%s: argument %q: %v", c.typ, c.field, name, err), "")
		}
		c.args[name] = checked
	}
	return nil
}

func (p param) check(v any) (any, error) {
	switch p.kind {
	case 's':
		if _, ok := v.(string); ok {
			return v, nil
		}
	case 'i':
		if _, ok := v.(int64); ok {
			return v, nil
		}
	case 'b':
		if _, ok := v.(bool); ok {
			return v, nil
		}
	case 'o':
		return checkObject(v)
	case 'l', 'O', 'm':
		return p.checkList(v)
	}
	return nil, fmt.Errorf("%v has the wrong type", v)
}

func checkObject(v any) (any, error) {
	switch v := v.(type) {
	case *recipe:
		return v, nil
	case string:
		return parseID(v)
	}
	return nil, errBadID
}

func (p param) checkList(v any) (any, error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v} // GraphQL: a single value is a list of one
	}
	out := make([]any, len(list))
	for i, e := range list {
		var err error
		switch p.kind {
		case 'l':
			_, ok = e.(string)
			out[i] = e
		case 'm':
			_, ok = e.(map[string]any)
			out[i] = e
		case 'O':
			out[i], err = checkObject(e)
		}
		if err != nil {
			return nil, err
		}
		if !ok && p.kind != 'O' {
			return nil, fmt.Errorf("%v has the wrong type", e)
		}
	}
	return out, nil
}

func (c *call) has(name string) bool { _, ok := c.args[name]; return ok }

func (c *call) str(name string) string { s, _ := c.args[name].(string); return s }

func (c *call) flag(name string) bool { b, _ := c.args[name].(bool); return b }

func (c *call) num(name string) int { n, _ := c.args[name].(int64); return int(n) }

func (c *call) strs(name string) []string {
	list, _ := c.args[name].([]any)
	var out []string
	for _, e := range list {
		s, _ := e.(string)
		out = append(out, s)
	}
	return out
}

// objectArg loads an argument that is an object; the zero T when not given.
func objectArg[T object](ctx context.Context, c *call, name string) (T, error) {
	var zero T
	r, ok := c.args[name].(*recipe)
	if !ok {
		return zero, nil
	}
	return loadAs[T](ctx, c, name, r)
}

// objectArgs loads an argument that is a list of objects.
func objectArgs[T object](ctx context.Context, c *call, name string) ([]T, error) {
	list, _ := c.args[name].([]any)
	var out []T
	for _, e := range list {
		r, _ := e.(*recipe)
		o, err := loadAs[T](ctx, c, name, r)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func loadAs[T object](ctx context.Context, c *call, name string, r *recipe) (T, error) {
	var zero T
	o, err := c.load(ctx, r)
	if err != nil {
		return zero, err
	}
	t, ok := o.(T)
	if !ok {
		return zero, usage(fmt.Sprintf("%s.%s: argument %q is a %s", c.typ, c.field, name, o.typeName()), "")
	}
	return t, nil
}
