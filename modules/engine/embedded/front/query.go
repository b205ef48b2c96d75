//go:build linux

package front

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
	"github.com/vektah/gqlparser/v2/parser"
	"golang.org/x/sync/errgroup"
)

// object is a value of one of the API's object types.
type object interface {
	typeName() string
	made() *recipe
	withRecipe(*recipe) object
}

// request is one query being answered.
type request struct {
	*Server
	workdir string

	mu      sync.Mutex
	objects map[string]object // by recipe digest

	behind errgroup.Group // what the answer waits for
}

type queryRequest struct {
	Query     string         `json:"query"`
	Variables map[string]any `json:"variables"`
	Operation string         `json:"operationName"`
}

type queryResponse struct {
	Data   any           `json:"data"`
	Errors gqlerror.List `json:"errors,omitempty"`
}

// maxQuery bounds a query; file contents travel in queries.
const maxQuery = 512 << 20

func (s *Server) serveQuery(w http.ResponseWriter, r *http.Request) {
	var q queryRequest
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuery))
	dec.UseNumber()
	if err := dec.Decode(&q); err != nil {
		http.Error(w, "not a GraphQL request: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.secrets.lend(r.Header.Values(EnvHeader))
	rq := &request{Server: s, workdir: r.Header.Get(WorkdirHeader), objects: map[string]object{}}
	data, err := rq.answer(r.Context(), q)
	if late := rq.behind.Wait(); err == nil {
		err = late
	}
	resp := queryResponse{Data: data}
	if err != nil {
		resp = queryResponse{Errors: gqlerror.List{asGraphQL(err, s.secrets.redactor())}}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(resp)
}

// answer executes one operation. A panic in a resolver is an error of that query.
func (rq *request) answer(ctx context.Context, q queryRequest) (data map[string]any, err error) {
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, &fault{message: fmt.Sprintf("internal error: %v", p), ext: map[string]any{
				"kind": "internal", "stack": string(debug.Stack()),
			}}
		}
	}()
	doc, perr := parser.ParseQuery(&ast.Source{Input: q.Query})
	if perr != nil {
		return nil, perr
	}
	op := doc.Operations.ForName(q.Operation)
	if op == nil && len(doc.Operations) == 1 {
		op = doc.Operations[0]
	}
	if op == nil || op.Operation != ast.Query {
		return nil, usage("the query has no query operation to answer", "")
	}
	out := map[string]any{}
	x := execution{request: rq, fragments: doc.Fragments, variables: q.Variables}
	if err := x.selection(ctx, &query{}, op.SelectionSet, nil, out); err != nil {
		return nil, err
	}
	return out, nil
}

// execution is one operation's walk.
type execution struct {
	*request
	fragments ast.FragmentDefinitionList
	variables map[string]any
}

func (x execution) selection(ctx context.Context, o object, set ast.SelectionSet, path ast.Path, out map[string]any) error {
	for _, sel := range set {
		switch sel := sel.(type) {
		case *ast.Field:
			p := append(path[:len(path):len(path)], ast.PathName(sel.Alias))
			v, err := x.field(ctx, o, sel, p)
			if err != nil {
				return located(err, p)
			}
			merge(out, sel.Alias, v)
		case *ast.InlineFragment:
			if !implements(o.typeName(), sel.TypeCondition) {
				continue
			}
			if err := x.selection(ctx, o, sel.SelectionSet, path, out); err != nil {
				return err
			}
		case *ast.FragmentSpread:
			def := x.fragments.ForName(sel.Name)
			if def == nil {
				return usage(fmt.Sprintf("the query has no fragment %q", sel.Name), "")
			}
			if !implements(o.typeName(), def.TypeCondition) {
				continue
			}
			if err := x.selection(ctx, o, def.SelectionSet, path, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// merge puts a value under its key; the same object selected twice is one.
func merge(out map[string]any, key string, v any) {
	have, ok1 := out[key].(map[string]any)
	more, ok2 := v.(map[string]any)
	if !ok1 || !ok2 {
		out[key] = v
		return
	}
	for k, e := range more {
		merge(have, k, e)
	}
}

// implements says whether a type satisfies a fragment's type condition.
func implements(typ, condition string) bool {
	switch condition {
	case "", typ, "Node":
		return true
	case "Syncer":
		return typ == "Container" || typ == "Directory" || typ == "File" || typ == "Service"
	case "Exportable":
		return typ == "Container" || typ == "Directory" || typ == "File"
	}
	return false
}

func (x execution) field(ctx context.Context, o object, f *ast.Field, path ast.Path) (any, error) {
	switch f.Name {
	case "__typename":
		return o.typeName(), nil
	case "id":
		if o.made() != nil {
			return o.made().id()
		}
	}
	a := args{}
	for _, arg := range f.Arguments {
		v, err := arg.Value.Value(x.variables)
		if err != nil {
			return nil, err
		}
		if v != nil {
			a[arg.Name] = plainNumbers(v)
		}
	}
	v, err := x.resolve(ctx, o, f.Name, a)
	if err != nil {
		return nil, err
	}
	return x.complete(ctx, v, f, path)
}

// complete turns a resolved value into what goes into the response.
func (x execution) complete(ctx context.Context, v any, f *ast.Field, path ast.Path) (any, error) {
	switch v := v.(type) {
	case object:
		if len(f.SelectionSet) == 0 {
			return nil, usage(fmt.Sprintf("%s is a %s: select fields of it", f.Name, v.typeName()), "")
		}
		out := map[string]any{}
		return out, x.selection(ctx, v, f.SelectionSet, path, out)
	case []object:
		list := make([]any, len(v))
		for i, o := range v {
			p := append(path[:len(path):len(path)], ast.PathIndex(i))
			out := map[string]any{}
			if err := x.selection(ctx, o, f.SelectionSet, p, out); err != nil {
				return nil, err
			}
			list[i] = out
		}
		return list, nil
	}
	return v, nil
}

// resolve calls one field. Objects it returns get the call as their recipe,
// and are remembered for the rest of the request.
func (rq *request) resolve(ctx context.Context, o object, name string, a args) (any, error) {
	f, err := rq.schema.lookup(o.typeName(), name)
	if err != nil {
		return nil, err
	}
	c := &call{request: rq, typ: o.typeName(), field: name, args: a}
	if err := c.check(f.params); err != nil {
		return nil, err
	}
	if f.prepare != nil {
		if err := f.prepare(c); err != nil {
			return nil, err
		}
	}
	r := newRecipe(o.made(), c.typ, c.field, c.args)
	rq.mu.Lock()
	known := rq.objects[r.digest]
	rq.mu.Unlock()
	if known != nil {
		return known, nil
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	v, err := f.run(ctx, c, o)
	if err != nil {
		return nil, err
	}
	made, ok := v.(object)
	if !ok {
		return v, nil
	}
	if made.made() == nil {
		made = made.withRecipe(r)
	}
	rq.mu.Lock()
	rq.objects[r.digest] = made
	rq.mu.Unlock()
	return made, nil
}

// load makes the object a recipe describes.
func (rq *request) load(ctx context.Context, r *recipe) (object, error) {
	if r == nil {
		return &query{}, nil
	}
	rq.mu.Lock()
	known := rq.objects[r.digest]
	rq.mu.Unlock()
	if known != nil {
		return known, nil
	}
	parent, err := rq.load(ctx, r.parent)
	if err != nil {
		return nil, err
	}
	if parent.typeName() != r.typ {
		return nil, errBadID
	}
	a := make(args, len(r.args))
	for k, v := range r.args {
		a[k] = v
	}
	v, err := rq.resolve(ctx, parent, r.field, a)
	if err != nil {
		return nil, err
	}
	o, ok := v.(object)
	if !ok {
		return nil, errBadID
	}
	return o, nil
}

// loadID is load for an id as text, of any type when want is "".
func (rq *request) loadID(ctx context.Context, id, want string) (object, error) {
	r, err := parseID(id)
	if err != nil {
		return nil, usage(fmt.Sprintf("loading %s: %v", strconv.Quote(shorten(id, 40)), err), "ids are made by this engine; one of another engine cannot be loaded")
	}
	o, err := rq.load(ctx, r)
	if err != nil {
		return nil, err
	}
	if want != "" && o.typeName() != want {
		return nil, usage(fmt.Sprintf("the id is one of a %s, not of a %s", o.typeName(), want), "")
	}
	return o, nil
}

func shorten(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
