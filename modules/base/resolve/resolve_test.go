package resolve

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"drydock/modules/mirror/debian"
)

// pool reads a tiny Packages notation: "name version field=value …", fields
// separated by " ; ".
func pool(t *testing.T, lines ...string) *Pool {
	t.Helper()
	var all []Candidate
	for _, line := range lines {
		parts := strings.Split(line, " ; ")
		head := strings.Fields(parts[0])
		c := Candidate{Package: debian.Package{Name: head[0], Version: head[1], Architecture: "amd64", Priority: "optional"}}
		if len(head) > 2 {
			c.Archive = head[2]
		}
		for _, f := range parts[1:] {
			k, v, _ := strings.Cut(f, "=")
			switch k {
			case "dep":
				c.Depends = v
			case "pre":
				c.PreDepends = v
			case "prov":
				c.Provides = v
			case "conf":
				c.Conflicts = v
			case "brk":
				c.Breaks = v
			case "prio":
				c.Priority = v
			case "arch":
				c.Architecture = v
			default:
				t.Fatalf("unknown field %q", k)
			}
		}
		all = append(all, c)
	}
	p, err := NewPool(all, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSolve(t *testing.T) {
	for _, c := range []struct {
		name  string
		pool  []string
		seeds string
		want  string // "name=version …", or "error: part of the message"
	}{
		{"closure", []string{"a 1 ; dep=b, c (>= 2) ; pre=d", "b 1", "c 3", "d 1", "e 1"}, "a", "a=1 b=1 c=3 d=1"},
		{"newest", []string{"a 1 debian", "a 1.1 debian-security", "a 1~rc1 debian"}, "a", "a=1.1"},
		{"older for an exact constraint", []string{"a 1 ; dep=b (= 1)", "b 1", "b 2"}, "a", "a=1 b=1"},
		{"cycle", []string{"a 1 ; dep=b", "b 1 ; dep=c", "c 1 ; dep=a"}, "a", "a=1 b=1 c=1"},
		{"first alternative", []string{"a 1 ; dep=b | c", "b 1", "c 1"}, "a", "a=1 b=1"},
		{"alternative already chosen", []string{"a 1 ; dep=b | c", "b 1", "c 1"}, "c a", "a=1 c=1"},
		{"second alternative when the first is missing", []string{"a 1 ; dep=x | c (>= 1)", "c 1"}, "a", "a=1 c=1"},
		{"virtual by priority", []string{"a 1 ; dep=mta", "m1 1 ; prov=mta", "m2 1 ; prov=mta ; prio=important"}, "a", "a=1 m2=1"},
		{"versioned provides", []string{"a 1 ; dep=v (>= 2)", "p 1 ; prov=v (= 2)"}, "a", "a=1 p=1"},
		{"unversioned provides do not satisfy a version", []string{"a 1 ; dep=v (>= 2)", "p 1 ; prov=v"}, "a", "error: base -> a: needs v (>= 2), which the mirror does not have"},
		{"real before virtual", []string{"a 1 ; dep=v", "v 1", "p 1 ; prov=v"}, "a", "a=1 v=1"},
		{"any architecture", []string{"a 1 ; dep=b:any", "b 1"}, "a", "a=1 b=1"},
		{"other architecture", []string{"a 1 ; dep=b:i386", "b 1"}, "a", "error: b:i386 is for another architecture"},
		{"foreign packages are not there", []string{"a 1 ; dep=b", "b 1 ; arch=arm64"}, "a", "error: base -> a: needs b, which"},
		{"all is for everybody", []string{"a 1 ; dep=b", "b 1 ; arch=all"}, "a", "a=1 b=1"},
		{"missing names its chain", []string{"a 1 ; dep=b", "b 1 ; dep=c (>= 2)", "c 1"}, "a", "error: base -> a -> b: needs c (>= 2), the mirror has 1"},
		{"unknown seed", []string{"a 1"}, "z", "error: base: needs z, which the mirror does not have"},
		{"conflict", []string{"a 1 ; dep=b, c", "b 1 ; conf=c", "c 1"}, "a", "error: base -> a -> b: conflicts with c, and c 1 was chosen by base -> a"},
		{"conflict with a provided name spares oneself", []string{"a 1 ; dep=m", "m 1 ; prov=mta ; conf=mta"}, "a", "a=1 m=1"},
		{"conflict with a provided name", []string{"m 1 ; prov=mta ; conf=mta", "n 1 ; prov=mta"}, "m n", "error: conflicts with mta"},
		{"breaks an older one only", []string{"a 1 ; brk=b (<< 2)", "b 2"}, "a b", "a=1 b=2"},
		{"breaks", []string{"a 1 ; brk=b (<< 2)", "b 1"}, "a b", "error: conflicts with b (<< 2)"},
		{"broken field", []string{"a 1 ; dep=b (?? 1)", "b 1"}, "a", "error: base -> a: dependency"},
		{"two versions wanted", []string{"a 1 ; dep=b (= 1), c", "b 1", "b 2", "c 1 ; dep=b (>= 2)"}, "a", "error: needs b (>= 2), but 1 was chosen for base -> a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := pool(t, c.pool...).Solve(Request{Root: "base", Architecture: "amd64", Seeds: strings.Fields(c.seeds)})
			if message, ok := strings.CutPrefix(c.want, "error: "); ok {
				var e *Error
				if !errors.As(err, &e) || !strings.Contains(err.Error(), message) {
					t.Fatalf("got error %v, want %q", err, message)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, g := range got {
				names = append(names, g.Name+"="+g.Version)
			}
			if s := strings.Join(names, " "); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
		})
	}
}

func TestSkip(t *testing.T) {
	p := pool(t, "a 1 ; dep=debconf (>= 0.5) | debconf-2.0, b", "b 1")
	got, err := p.Solve(Request{
		Root: "base", Architecture: "amd64", Seeds: []string{"a"},
		Skip: func(_, dep string) bool { return dep == "debconf-2.0" },
	})
	if err != nil || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
}

// The same version in two archives: the first archive by name, whatever the
// order they were read in.
func TestSameVersionTwice(t *testing.T) {
	for _, lines := range [][]string{{"a 1 debian-security", "a 1 debian"}, {"a 1 debian", "a 1 debian-security"}} {
		if c, ok := pool(t, lines...).Newest("a"); !ok || c.Archive != "debian" {
			t.Errorf("%v: got %v", lines, c.Archive)
		}
	}
}

func TestWhere(t *testing.T) {
	p := pool(t, "z 1 ; prio=required", "a 1 ; prio=required", "b 1")
	got := p.Where(func(c Candidate) bool { return c.Priority == "required" })
	if !slices.Equal(got, []string{"a", "z"}) {
		t.Errorf("got %v", got)
	}
}
