//go:build linux

package front

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"dagger.io/dagger"
)

var update = flag.Bool("update", false, "write README's table instead of comparing it")

// sdkTypes are the types of the Dagger SDK that README tells of.
func sdkTypes() []reflect.Type {
	return []reflect.Type{
		reflect.TypeFor[*dagger.Query](), reflect.TypeFor[*dagger.Container](), reflect.TypeFor[*dagger.Directory](),
		reflect.TypeFor[*dagger.File](), reflect.TypeFor[*dagger.Host](), reflect.TypeFor[*dagger.Secret](),
		reflect.TypeFor[*dagger.Service](), reflect.TypeFor[*dagger.Stat](), reflect.TypeFor[*dagger.Port](),
		reflect.TypeFor[*dagger.HealthcheckConfig](), reflect.TypeFor[*dagger.Error](),
	}
}

// graphName is the name of a field or an argument as GraphQL has it.
func graphName(name string) string {
	if strings.ToUpper(name) == name {
		return strings.ToLower(name)
	}
	return strings.ToLower(name[:1]) + name[1:]
}

// sdkFields are the fields of a type, each with its optional arguments.
func sdkFields(t reflect.Type) map[string][]string {
	out := map[string][]string{}
	for i := range t.NumMethod() {
		m := t.Method(i)
		if m.Name == "With" || m.Name == "WithGraphQLQuery" || strings.HasPrefix(m.Name, "XXX_") || strings.HasSuffix(m.Name, "JSON") && m.Type.NumIn() < 2 && m.Type.NumOut() == 2 {
			continue
		}
		if m.Name == "UnmarshalJSON" || strings.HasPrefix(m.Name, "As") && t.String() == "*dagger.Node" {
			continue
		}
		options := []string{}
		if m.Type.IsVariadic() {
			if o := m.Type.In(m.Type.NumIn() - 1).Elem(); o.Kind() == reflect.Struct {
				for j := range o.NumField() {
					options = append(options, graphName(o.Field(j).Name))
				}
			}
		}
		out[graphName(m.Name)] = options
	}
	return out
}

// tableOf is README's table of one type.
func tableOf(s schema, t reflect.Type) string {
	name := t.Elem().Name()
	var in, out []string
	fields := sdkFields(t)
	for _, f := range sortedKeys(fields) {
		if strings.HasPrefix(f, "load") || f == "asSyncer" || f == "asExportable" || f == "asNode" {
			continue
		}
		have, ok := s[name][f]
		if !ok && f != "id" {
			out = append(out, "`"+f+"`")
			continue
		}
		var lacks []string
		for _, arg := range fields[f] {
			if !slices.ContainsFunc(have.params, func(p param) bool { return p.name == arg }) {
				lacks = append(lacks, arg)
			}
		}
		if len(lacks) > 0 {
			in = append(in, fmt.Sprintf("`%s` (not %s)", f, strings.Join(lacks, ", ")))
		} else {
			in = append(in, "`"+f+"`")
		}
	}
	return fmt.Sprintf("| %s | %s | %s |\n", name, strings.Join(in, " "), strings.Join(out, " "))
}

const tableBegin, tableEnd = "<!-- dagger api: begin -->\n", "<!-- dagger api: end -->\n"

// README says what of the Dagger API there is, and says so truly.
func TestTableOfTheAPI(t *testing.T) {
	const readme = "../../../../README.md"
	want := "\n| type | in | answers \"not here\" |\n| --- | --- | --- |\n"
	for _, typ := range sdkTypes() {
		want += tableOf(newSchema(), typ)
	}
	want += "\n"
	raw, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), tableBegin)
	have, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("README.md has no place for the table: %s", tableBegin)
	}
	if *update {
		if err := os.WriteFile(readme, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != want {
		t.Errorf("README's table of the Dagger API is not true any more: go test ./modules/engine/embedded/front -run Table -update")
	}
}

// Every type that a query can give can be loaded again by its id.
func TestLoaders(t *testing.T) {
	s := newSchema()
	for typ := range s {
		if typ == "Query" {
			continue
		}
		if _, ok := s["Query"]["load"+typ+"FromID"]; !ok {
			t.Errorf("there is no load%sFromID", typ)
		}
	}
	fields := sdkFields(reflect.TypeFor[*dagger.Query]())
	for name := range s["Query"] {
		if strings.HasPrefix(name, "load") && fields[name] == nil {
			t.Errorf("%s is no field of the Dagger API", name)
		}
	}
}
