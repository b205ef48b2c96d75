//go:build linux

package front

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// recipe is how an object came to be: one call on another object. It is what
// an id says, so an id can be loaded in any request, and it is content
// addressed: equal recipes have equal digests.
type recipe struct {
	parent *recipe // nil: a field of Query
	typ    string  // type the field belongs to
	field  string
	args   args
	digest string
}

// args are the arguments of a call: strings, int64, bool, []any of those,
// map[string]any, and *recipe for objects.
type args map[string]any

func newRecipe(parent *recipe, typ, field string, a args) *recipe {
	r := &recipe{parent: parent, typ: typ, field: field, args: a}
	h := sha256.New()
	if parent != nil {
		h.Write([]byte(parent.digest))
	}
	fmt.Fprintf(h, "|%s.%s", typ, field)
	names := make([]string, 0, len(a))
	for name := range a {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(h, "|%s=", name)
		hashValue(h, a[name])
	}
	r.digest = string(h.Sum(nil))
	return r
}

func hashValue(w interface{ Write([]byte) (int, error) }, v any) {
	switch v := v.(type) {
	case *recipe:
		fmt.Fprintf(w, "@%x", v.digest)
	case []any:
		fmt.Fprintf(w, "[%d", len(v))
		for _, e := range v {
			hashValue(w, e)
		}
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintf(w, "{%d", len(v))
		for _, name := range names {
			fmt.Fprintf(w, "%q:", name)
			hashValue(w, v[name])
		}
	default:
		fmt.Fprintf(w, "%T%q", v, fmt.Sprint(v))
	}
}

// The form of an id: a list of calls, each after the ones it refers to.
type idForm struct {
	Version int      `json:"v"`
	Calls   []idCall `json:"c"`
}

type idCall struct {
	Type   string                     `json:"t"`
	Field  string                     `json:"f"`
	Parent int                        `json:"p"` // index, -1: Query
	Args   map[string]json.RawMessage `json:"a,omitempty"`
}

// reference is an object among the arguments.
type reference struct {
	Index *int `json:"@"`
}

const idPrefix = "drydock1."

// maxID bounds what an id may unpack to.
const maxID = 256 << 20

// id is the recipe as text.
func (r *recipe) id() (string, error) {
	var form idForm
	form.Version = 1
	index := map[string]int{}
	var add func(*recipe) (int, error)
	add = func(r *recipe) (int, error) {
		if r == nil {
			return -1, nil
		}
		if i, ok := index[r.digest]; ok {
			return i, nil
		}
		parent, err := add(r.parent)
		if err != nil {
			return 0, err
		}
		call := idCall{Type: r.typ, Field: r.field, Parent: parent, Args: map[string]json.RawMessage{}}
		for name, v := range r.args {
			if call.Args[name], err = encodeValue(v, add); err != nil {
				return 0, err
			}
		}
		form.Calls = append(form.Calls, call)
		index[r.digest] = len(form.Calls) - 1
		return index[r.digest], nil
	}
	if _, err := add(r); err != nil {
		return "", fmt.Errorf("encoding an id: %w", err)
	}
	plain, err := json.Marshal(form)
	if err != nil {
		return "", fmt.Errorf("encoding an id: %w", err)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return "", fmt.Errorf("encoding an id: %w", err)
	}
	defer enc.Close()
	return idPrefix + base64.RawURLEncoding.EncodeToString(enc.EncodeAll(plain, nil)), nil
}

func encodeValue(v any, add func(*recipe) (int, error)) (json.RawMessage, error) {
	switch v := v.(type) {
	case *recipe:
		i, err := add(v)
		if err != nil {
			return nil, err
		}
		return json.Marshal(reference{Index: &i})
	case []any:
		out := make([]json.RawMessage, len(v))
		for i, e := range v {
			var err error
			if out[i], err = encodeValue(e, add); err != nil {
				return nil, err
			}
		}
		return json.Marshal(out)
	}
	return json.Marshal(v)
}

var errBadID = errors.New("not an id of this engine")

// parseID is the inverse of id. It only rebuilds the recipe; whether its
// fields exist shows when it is loaded.
func parseID(text string) (*recipe, error) {
	packed, ok := strings.CutPrefix(text, idPrefix)
	if !ok {
		return nil, errBadID
	}
	raw, err := base64.RawURLEncoding.DecodeString(packed)
	if err != nil {
		return nil, errBadID
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxID))
	if err != nil {
		return nil, fmt.Errorf("decoding an id: %w", err)
	}
	defer dec.Close()
	plain, err := dec.DecodeAll(raw, nil)
	if err != nil {
		return nil, errBadID
	}
	var form idForm
	if err := json.Unmarshal(plain, &form); err != nil || form.Version != 1 || len(form.Calls) == 0 {
		return nil, errBadID
	}
	return form.recipe()
}

func (form idForm) recipe() (*recipe, error) {
	done := make([]*recipe, 0, len(form.Calls))
	at := func(i int) (*recipe, error) {
		if i < 0 || i >= len(done) {
			return nil, errBadID
		}
		return done[i], nil
	}
	for _, call := range form.Calls {
		var parent *recipe
		if call.Parent != -1 {
			var err error
			if parent, err = at(call.Parent); err != nil {
				return nil, err
			}
		}
		a := args{}
		for name, raw := range call.Args {
			v, err := decodeValue(raw, at)
			if err != nil {
				return nil, err
			}
			a[name] = v
		}
		done = append(done, newRecipe(parent, call.Type, call.Field, a))
	}
	return done[len(done)-1], nil
}

func decodeValue(raw json.RawMessage, at func(int) (*recipe, error)) (any, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return nil, errBadID
	}
	switch raw[0] {
	case '[':
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, errBadID
		}
		out := make([]any, len(list))
		for i := range list {
			var err error
			if out[i], err = decodeValue(list[i], at); err != nil {
				return nil, err
			}
		}
		return out, nil
	case '{':
		var ref reference
		if err := json.Unmarshal(raw, &ref); err == nil && ref.Index != nil {
			return at(*ref.Index)
		}
	}
	return decodeScalar(raw)
}

// decodeScalar keeps whole numbers whole.
func decodeScalar(raw []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, errBadID
	}
	return plainNumbers(v), nil
}

func plainNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
		return v
	case map[string]any:
		for k := range v {
			v[k] = plainNumbers(v[k])
		}
		return v
	}
	return v
}
