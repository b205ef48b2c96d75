package line

import (
	"fmt"
	"strings"
	"testing"

	"drydock/modules/artifact"
	"drydock/modules/engine"
)

func TestParseCaches(t *testing.T) {
	got, err := ParseCaches("cache-from", "/a type=local,dest=/b  type=local,src=/c,mode=max type=registry,ref=r.example/x:t")
	want := []engine.Cache{{Dir: "/a"}, {Dir: "/b"}, {Dir: "/c"}, {Registry: "r.example/x:t"}}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if got, err := ParseCaches("cache-from", "rel/dir"); err != nil || !strings.HasPrefix(got[0].Dir, "/") {
		t.Errorf("relative: %v, %v", got, err)
	}
	for _, text := range []string{
		"type=gha", "type=local", "type=registry", "dest=/x", "type=local,ref=a/b", "type=registry,dest=/x",
		"type=local,dest=", "type=registry,ref=nothing", "type=local,dest=/x,mode=min", "type=", "type=registry,ref=a/b,token=x",
	} {
		if got, err := ParseCaches("cache-to", text); artifact.ExitCode(err) != artifact.ExitUsage || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

// What a change request writes is read by no run whose results are promoted.
func TestCacheTrust(t *testing.T) {
	caches := []engine.Cache{{Dir: "/d"}, {Registry: "r.example:5000/x"}, {Registry: "r.example/x:main"}}
	use := func(trigger string) (read, write string) {
		l := &Line{cfg: Config{Trigger: trigger, CacheFrom: caches, CacheTo: caches}}
		return fmt.Sprint(l.readCaches()), fmt.Sprint(l.writeCaches())
	}
	const clean = "[/d/trusted r.example:5000/x:latest r.example/x:main]"
	const dirty = "[/d/untrusted r.example:5000/x:latest-untrusted r.example/x:main-untrusted]"
	for _, trigger := range []string{"branch", "tag", "schedule"} {
		if read, write := use(trigger); read != clean || write != clean {
			t.Errorf("%s reads %s and writes %s", trigger, read, write)
		}
	}
	for _, trigger := range []string{"change-request", "local", "", "nonsense"} {
		read, write := use(trigger)
		if write != dirty || !strings.HasPrefix(read, strings.TrimSuffix(clean, "]")) {
			t.Errorf("%s reads %s and writes %s", trigger, read, write)
		}
	}
}
