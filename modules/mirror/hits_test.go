package mirror

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"drydock/modules/mirror/lockfile"
)

// blobWorld is a mirror of blobs and a gateway to it.
func blobWorld(t *testing.T, blobs ...[]byte) (*world, *Gateway, string, []string) {
	t.Helper()
	w := newWorld(t)
	var paths []string
	for _, b := range blobs {
		p := "/v2/x/blobs/" + string(digest(b))
		w.files.set(p, b)
		paths = append(paths, p)
	}
	g, sock := testGateway(t, w.discover(Config{OCI: Setting{URLs: []string{w.url}}}), t.TempDir())
	return w, g, sock, paths
}

// remembered counts what the gateway remembers answers to.
func remembered(g *Gateway) int {
	g.hits.mu.RLock()
	defer g.hits.mu.RUnlock()
	n := 0
	for _, by := range g.hits.known {
		n += len(by)
	}
	return n
}

// raw sends bytes on a connection of a step and reads n answers.
func raw(t *testing.T, sock, step, text string, n int) []string {
	t.Helper()
	c, err := dialGreeting(sock, m{"kind": "conn", "proto": "http", "step": step})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	var out []string
	for range n {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("after %q: %v", out, err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("%v", err)
		}
		out = append(out, fmt.Sprint(resp.StatusCode, " ", string(b)))
	}
	return out
}

// TestAgain: what is answered from memory is the answer the server gives, header
// by header, and each of them is a material of its step.
func TestAgain(t *testing.T) {
	a, b := someBytes(t, 20_000), someBytes(t, 700_000)
	w, g, sock, paths := blobWorld(t, a, b)
	c := stepClient(t, sock, step1, false)
	first := map[string]http.Header{}
	for round := range 4 {
		for i, p := range paths {
			resp, body := get(t, c, gatewayAt+p)
			if resp.StatusCode != http.StatusOK || body != string([][]byte{a, b}[i]) {
				t.Fatalf("%s: %s, %d bytes", p, resp.Status, len(body))
			}
			resp.Header.Del("Date")
			if round == 1 { // the first came as it arrived
				first[p] = resp.Header
			} else if round > 1 && fmt.Sprint(first[p]) != fmt.Sprint(resp.Header) {
				t.Errorf("round %d: %v, the server said %v", round, resp.Header, first[p])
			}
		}
	}
	if n := remembered(g); n != 2 {
		t.Fatalf("%d answers are remembered", n)
	}
	// another step, asking for nothing that is new
	_, _, end := lockedStep(t, sock, stepID("2"), "")
	served := g.hits.served.Load()
	other := stepClient(t, sock, stepID("2"), false)
	get(t, other, gatewayAt+paths[0])
	get(t, other, gatewayAt+paths[1])
	if g.hits.served.Load() != served+2 {
		t.Errorf("%d answers were from memory", g.hits.served.Load()-served)
	}
	end(true)
	waitFor(t, "the step", func() bool { greetBuild(t, sock, "b", stepID("2")); return g.Fetched("b").Complete })
	if f := g.Fetched("b"); len(f.Materials) != 2 || f.Materials[0].Path == "" || !strings.HasPrefix(f.Materials[0].URL, w.url) {
		t.Errorf("%+v", f.Materials)
	}
}

// TestAgainOnOneConnection mixes requests the server answers with such as it need
// not see, sent without waiting for answers.
func TestAgainOnOneConnection(t *testing.T) {
	a, b, once := someBytes(t, 3000), someBytes(t, 200), someBytes(t, 300)
	_, g, sock, paths := blobWorld(t, a, b, once)
	for range 2 {
		get(t, stepClient(t, sock, step1, false), gatewayAt+paths[0])
	}
	req := func(method, path, more string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: " + GatewayHost + "\r\n" + more + "\r\n"
	}
	hit, miss, body := "200 "+string(a), "200 "+string(b), "POST /npm/-/x HTTP/1.1\r\nHost: "+GatewayHost+"\r\nContent-Length: 3\r\n\r\nabc"
	for name, c := range map[string]struct {
		sent   string
		want   []string // how answers begin
		served int64
	}{
		"hits":                {strings.Repeat(req("GET", paths[0], ""), 3), []string{hit, hit, hit}, 3},
		"a miss in between":   {req("GET", paths[0], "") + req("GET", paths[2], "") + req("GET", paths[0], ""), []string{hit, "200 " + string(once), hit}, 2},
		"a part":              {req("GET", paths[0], "Range: bytes=0-1\r\n") + req("GET", paths[0], ""), []string{"206 " + string(a[:2]), hit}, 1},
		"unchanged":           {req("GET", paths[0], "If-None-Match: \""+hexsum(a)+"\"\r\n") + req("GET", paths[0], ""), []string{"304", hit}, 1},
		"a body that is none": {req("GET", paths[0], "Content-Length: 0\r\n") + req("GET", paths[0], ""), []string{hit, hit}, 0},
		"a body":              {body + req("GET", paths[0], ""), []string{"403"}, 0}, // which closes the connection
		"a body with a head in it": {"GET " + paths[1] + " HTTP/1.1\r\nHost: " + GatewayHost + "\r\nContent-Length: " +
			fmt.Sprint(len(req("GET", paths[0], ""))) + "\r\n\r\n" + req("GET", paths[0], "") + req("GET", paths[1], ""), []string{miss, miss}, 0},
		"two hosts":    {req("GET", paths[0], "Host: x.test\r\n"), []string{"400"}, 0},
		"a folded one": {req("GET", paths[0], " X: y\r\n"), []string{"400"}, 0},
	} {
		served := g.hits.served.Load()
		got := raw(t, sock, step1, c.sent, len(c.want))
		for i := range got {
			if !strings.HasPrefix(got[i], c.want[i]) {
				t.Errorf("%s: answer %d is %.40q", name, i, got[i])
			}
		}
		if n := g.hits.served.Load() - served; n != c.served {
			t.Errorf("%s: %d answers were from memory, not %d", name, n, c.served)
		}
	}
}

// TestAgainNeverServesOtherBytes: what another process did to the content store
// is seen, whatever is remembered.
func TestAgainNeverServesOtherBytes(t *testing.T) {
	a := someBytes(t, 20_000)
	w, g, sock, paths := blobWorld(t, a)
	file := w.dir + "/cache/mirror/sha256/" + hexsum(a)[:2] + "/" + hexsum(a)
	c := stepClient(t, sock, step1, false)
	for name, change := range map[string]func(){
		"nothing": func() {},
		"removed": func() { _ = os.Remove(file) },
		"another file": func() {
			writeFile(t, file+".new", strings.Repeat("x", len(a)))
			if err := os.Rename(file+".new", file); err != nil {
				t.Fatal(err)
			}
		},
		"another length": func() { writeFile(t, file, "short") },
	} {
		get(t, c, gatewayAt+paths[0])
		get(t, c, gatewayAt+paths[0])
		if remembered(g) != 1 {
			t.Fatalf("%s: nothing is remembered", name)
		}
		change()
		if resp, body := get(t, c, gatewayAt+paths[0]); resp.StatusCode != http.StatusOK || body != string(a) {
			t.Errorf("%s: %s, %d bytes", name, resp.Status, len(body))
		}
	}
}

// TestAgainUnderLocks: an answer remembered is that of one lock. Another lock
// does not have the file, and where everything must be locked nobody gets it who
// is under none.
func TestAgainUnderLocks(t *testing.T) {
	a := someBytes(t, 2000)
	_, g, sock, paths := blobWorld(t, a)
	rel := strings.TrimPrefix(paths[0], "/")
	has := &lockfile.Lock{Materials: []lockfile.Material{{Ecosystem: OCI, Path: rel, Digest: digest(a), Size: int64(len(a))}}}
	hasNot := &lockfile.Lock{Absent: []lockfile.Absent{{Ecosystem: OCI, Path: "v2/y"}}}
	free := stepClient(t, sock, step1, false)
	for range 2 {
		get(t, free, gatewayAt+paths[0])
	}
	g.Enforce(has.Key(), has, "cat/locks/a.json", "drydock mirror lock")
	g.Enforce(hasNot.Key(), hasNot, "cat/locks/b.json", "drydock mirror lock")
	lockedStep(t, sock, stepID("2"), has.Key())
	lockedStep(t, sock, stepID("3"), hasNot.Key())
	lockedStep(t, sock, step1, "")
	one, two := stepClient(t, sock, stepID("2"), false), stepClient(t, sock, stepID("3"), false)
	for range 3 {
		if resp, body := get(t, one, gatewayAt+paths[0]); body != string(a) {
			t.Errorf("the lock has it: %s", resp.Status)
		}
		if resp, _ := get(t, two, gatewayAt+paths[0]); resp.Header.Get("X-Drydock-Rule") != RuleLocked {
			t.Errorf("the lock does not have it: %s", resp.Status)
		}
		if resp, body := get(t, free, gatewayAt+paths[0]); body != string(a) {
			t.Errorf("under no lock: %s", resp.Status)
		}
	}
	if g.hits.served.Load() == 0 {
		t.Error("nothing was answered from memory")
	}
	g.Strict()
	if resp, _ := get(t, free, gatewayAt+paths[0]); resp.Header.Get("X-Drydock-Rule") != RuleLocked {
		t.Errorf("strict: %s", resp.Status)
	}
}

// TestWhatIsNotRemembered: what may be another by the next request, and what is
// made for who asks.
func TestWhatIsNotRemembered(t *testing.T) {
	w := standard(t)
	g, sock := testGateway(t, w.discover(Config{}), t.TempDir())
	c := stepClient(t, sock, step1, false)
	for range 3 {
		get(t, c, gatewayAt+releasePath)
	}
	if n := remembered(g); n != 0 {
		t.Errorf("%d answers are remembered", n)
	}
	for range 2 {
		get(t, c, gatewayAt+"/debian"+helloPath)
	}
	if n := remembered(g); n != 1 {
		t.Errorf("%d answers are remembered of a package", n)
	}
}

// TestClientGone: the server still finds out that a client has gone while its
// request is being answered.
func TestClientGone(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan struct{})
	_, url := mirrorOf(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		select {
		case <-r.Context().Done():
			close(gone)
		case <-time.After(20 * time.Second):
		}
	})
	w := newWorld(t)
	_, sock := testGateway(t, w.discover(Config{OCI: Setting{URLs: []string{url}}}), t.TempDir())
	c, err := dialGreeting(sock, m{"kind": "conn", "proto": "http", "step": step1})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "GET /v2/x/blobs/1 HTTP/1.1\r\nHost: "+GatewayHost+"\r\n\r\n")
	<-asked
	_ = c.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the mirror is still asked for a client that has gone")
	}
}
