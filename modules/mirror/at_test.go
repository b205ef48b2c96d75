package mirror

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"drydock/modules/artifact"
)

func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestSnapshots takes Debian as of a date: from the template's address, under the
// archive's own name.
func TestSnapshots(t *testing.T) {
	w := standard(t)
	now := time.Now().UTC()
	w.publish(suite{root: "/snap/debian/20240102T235959Z", name: "bookworm", packages: helloStanza("2.10-1"), valid: now.Add(-time.Hour)})
	w.publish(suite{root: "/snap/debian-security/20240102T235959Z", name: "bookworm-security", packages: ""})
	template := w.url + "/snap/{archive}/{timestamp}"
	at := time.Date(2024, 1, 2, 23, 59, 59, 0, time.UTC)
	// what is served was signed an hour ago: no snapshot of 2024
	_, err := w.discover(Config{At: at, Snapshot: template}).Debian(context.Background())
	if err == nil || !strings.Contains(err.Error(), "what is served is of") || artifact.ExitCode(err) != artifact.ExitFault {
		t.Errorf("younger than the date: %v", err)
	}
	at = now.Add(-30 * time.Minute) // after it was signed, before it expires in two hours
	stamp := at.Format("20060102T150405Z")
	w.publish(suite{root: "/snap/debian/" + stamp, name: "bookworm", packages: helloStanza("2.10-1"), valid: at.Add(time.Minute)})
	w.publish(suite{root: "/snap/debian-security/" + stamp, name: "bookworm-security", packages: ""})
	w.files.set("/snap/debian/"+stamp+"/pool/main/h/hello/hello_2.10-1_amd64.deb", []byte(helloDeb))
	s := w.discover(Config{At: at, Snapshot: template})
	sources, err := s.Debian(context.Background())
	if err != nil || len(sources) != 2 || sources[0].Archive != "debian" {
		t.Fatalf("%+v, %v", sources, err)
	}
	list, err := s.Packages(context.Background(), sources[0], "bookworm", "main", "amd64")
	if err != nil || len(list) != 1 || list[0].Version != "2.10-1" {
		t.Errorf("%+v, %v", list, err)
	}
	_, sock := testGateway(t, s, t.TempDir())
	for _, base := range []string{"http://mirror.drydock.internal/debian/debian", w.url + "/debian"} {
		if resp, body := get(t, stepClient(t, sock, step1, false), base+"/pool/main/h/hello/hello_2.10-1_amd64.deb"); body != helloDeb {
			t.Errorf("%s: %s %q", base, resp.Status, body)
		}
	}
	if _, err := Discover(context.Background(), Config{At: at, Place: "mirrors.yaml"}, w.host, t.TempDir()); err == nil || !strings.Contains(err.Error(), "nothing older") {
		t.Errorf("without snapshots: %v", err)
	}
}

// TestGoAt cuts the lists of a proxy to what was there then.
func TestGoAt(t *testing.T) {
	w := newWorld(t)
	const mod = "/go/example.test/m"
	w.files.set(mod+"/@v/list", []byte("v1.0.0\nv1.1.0\nv1.2.0\nv1.2.0-rc.1\nv1.9.0\n"))
	for v, day := range map[string]string{"v1.0.0": "2023-01-01", "v1.1.0": "2023-05-01", "v1.2.0": "2024-01-01", "v1.2.0-rc.1": "2023-05-02"} {
		w.files.set(mod+"/@v/"+v+".info", []byte(fmt.Sprintf(`{"Version":%q,"Time":"%sT00:00:00Z"}`, v, day)))
	}
	w.files.set(mod+"/@latest", []byte(`{"Version":"v1.2.0","Time":"2024-01-01T00:00:00Z"}`))
	w.files.set(mod+"/@v/main.info", []byte(`{"Version":"v1.2.1-0.20240101000000-abcdefabcdef","Time":"2024-01-01T00:00:00Z"}`))
	w.files.set("/go/example.test/bare/@v/list", nil)
	w.files.set("/go/example.test/bare/@latest", []byte(`{"Version":"v0.0.0-20230101000000-abcdefabcdef","Time":"2023-01-01T00:00:00Z"}`))
	cfg := Config{Go: Setting{URLs: []string{w.url + "/go"}}, At: time.Date(2023, 6, 1, 0, 0, 0, 0, time.UTC)}
	s := w.discover(cfg)
	_, sock := testGateway(t, s, t.TempDir())
	c := stepClient(t, sock, step1, false)
	for path, want := range map[string]string{
		mod + "/@v/list": "v1.0.0\nv1.1.0\nv1.2.0-rc.1\n", mod + "/@latest": `"v1.1.0"`, mod + "/@v/v1.2.0.info": `"v1.2.0"`,
		"/go/example.test/bare/@latest": "v0.0.0-2023",
	} {
		if resp, body := get(t, c, "http://mirror.drydock.internal"+path); !strings.Contains(body, want) || strings.HasSuffix(path, "list") && body != want {
			t.Errorf("%s: %s %q, want %q", path, resp.Status, body, want)
		}
	}
	if resp, body := get(t, c, "http://mirror.drydock.internal"+mod+"/@v/main.info"); resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "is of 2024-01-01") {
		t.Errorf("a branch: %s %q", resp.Status, body)
	}
	if when, err := s.GoTime(context.Background(), "example.test/m", "v1.2.0"); err != nil || when.Year() != 2024 {
		t.Errorf("%v, %v", when, err)
	}
	cfg.At = time.Time{}
	_, sock = testGateway(t, w.discover(cfg), t.TempDir())
	if _, body := get(t, stepClient(t, sock, step1, false), "http://mirror.drydock.internal"+mod+"/@v/list"); !strings.Contains(body, "v1.9.0") {
		t.Errorf("today: %q", body)
	}
}

func TestNpmAt(t *testing.T) {
	at := time.Date(2023, 6, 1, 0, 0, 0, 0, time.UTC)
	const doc = `{"name":"pad","dist-tags":{"latest":"2.0.0","next":"3.0.0-1","old":"1.0.0"},
"time":{"created":"2020-01-01T00:00:00Z","modified":"2024-01-01T00:00:00Z","1.0.0":"2020-01-01T00:00:00Z","1.1.0":"2023-01-01T00:00:00Z","2.0.0":"2024-01-01T00:00:00Z","3.0.0-1":"2024-01-01T00:00:00Z"},
"versions":{"1.0.0":{"version":"1.0.0"},"1.1.0":{"version":"1.1.0"},"2.0.0":{"version":"2.0.0"},"3.0.0-1":{"version":"3.0.0-1"}}}`
	w := newWorld(t)
	w.files.set("/npm/pad", []byte(doc))
	w.files.set("/npm/timeless", []byte(`{"name":"timeless","dist-tags":{},"versions":{}}`))
	_, sock := testGateway(t, w.discover(Config{Npm: Setting{URLs: []string{w.url + "/npm"}}, At: at}), t.TempDir())
	c := stepClient(t, sock, step1, false)
	_, body := getAs(t, c, "http://mirror.drydock.internal/npm/pad", npmShort)
	for _, want := range []string{`"latest":"1.1.0"`, `"old":"1.0.0"`, `"1.0.0":{`} {
		contains1(t, "metadata", body, want)
	}
	if strings.Contains(body, "2.0.0") || strings.Contains(body, "3.0.0") {
		t.Errorf("later versions are there: %s", body)
	}
	if _, body = get(t, c, "http://mirror.drydock.internal/npm/pad/latest"); !strings.Contains(body, `"version":"1.1.0"`) {
		t.Errorf("by tag: %q", body)
	}
	if resp, body := get(t, c, "http://mirror.drydock.internal/npm/timeless"); resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "does not state when") {
		t.Errorf("%s %q", resp.Status, body)
	}
}
