//go:build linux

package front

import (
	"context"
	"strings"
)

// record is an object of plain values that belong together: an EnvVariable, a
// Port, a Stat. Its id is a field of Query that only ids use.
type record struct {
	node
	typ    string
	values args
}

// recordTypes are the values of each kind, in the form of a field's parameters.
func recordTypes() map[string]string {
	return map[string]string{
		"EnvVariable":       "name:s! value:s!",
		"Label":             "name:s! value:s!",
		"Port":              "port:i! protocol:s! description:s experimentalSkipHealthcheck:b",
		"Stat":              "name:s! size:i! permissions:i! fileType:s!",
		"HealthcheckConfig": "args:l! shell:b! interval:s timeout:s startPeriod:s startInterval:s retries:i",
		"SearchResult":      "filePath:s! lineNumber:i! absoluteOffset:i! matchedLines:s! submatches:O!",
		"SearchSubmatch":    "text:s! start:i! end:i!",
		"Error":             "message:s! values:O",
		"ErrorValue":        "name:s! value:s!",
	}
}

func newRecord(typ string, values args) *record {
	r := newRecipe(nil, "Query", "_"+typ, values)
	return &record{node: node{r}, typ: typ, values: values}
}

func (r *record) typeName() string { return r.typ }

func (r *record) withRecipe(made *recipe) object {
	c := *r
	c.recipe = made
	return &c
}

// recordFields are the fields by which the values are read.
func recordFields() schema {
	out := schema{}
	for typ, values := range recordTypes() {
		out[typ] = map[string]field{}
		for _, word := range strings.Fields(values) {
			name, kind, _ := strings.Cut(word, ":")
			out[typ][name] = on("", func(ctx context.Context, c *call, r *record) (any, error) {
				if kind[0] == 'O' {
					return c.records(ctx, r.values[name])
				}
				return r.values[name], nil
			})
		}
	}
	out["Error"]["withValue"] = on("name:s! value:s!", func(_ context.Context, c *call, r *record) (any, error) {
		list, _ := r.values["values"].([]any)
		more := newRecord("ErrorValue", args{"name": c.str("name"), "value": c.str("value")})
		return newRecord("Error", args{"message": r.values["message"], "values": append(list[:len(list):len(list)], more.made())}), nil
	})
	return out
}

// records loads a value that is a list of objects.
func (c *call) records(ctx context.Context, v any) (any, error) {
	list, _ := v.([]any)
	out := []object{}
	for _, e := range list {
		r, ok := e.(*recipe)
		if !ok {
			return nil, errBadID
		}
		o, err := c.load(ctx, r)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// recordLoaders are the fields of Query by which the ids of records load.
func recordLoaders() map[string]field {
	out := map[string]field{}
	for typ, values := range recordTypes() {
		out["_"+typ] = on(values, func(_ context.Context, c *call, _ *query) (any, error) {
			return newRecord(typ, c.args), nil
		})
	}
	return out
}
