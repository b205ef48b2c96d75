//go:build linux

package front

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/opencontainers/go-digest"
)

func sampleRecipe() *recipe {
	dir := newRecipe(nil, "Query", "directory", args{})
	full := newRecipe(dir, "Directory", "withNewFile", args{"path": "a", "contents": "text\x00\"", "permissions": int64(420)})
	ctr := newRecipe(nil, "Query", "container", args{"platform": "linux/arm64"})
	return newRecipe(ctr, "Container", "withDirectory", args{
		"path": "/x", "source": full, "exclude": []any{"a", "b"}, "expand": true,
		"both": []any{full, dir}, "pairs": []any{map[string]any{"name": "n", "value": "v"}},
	})
}

func TestIDRoundTrip(t *testing.T) {
	r := sampleRecipe()
	id, err := r.id()
	if err != nil {
		t.Fatal(err)
	}
	back, err := parseID(id)
	if err != nil {
		t.Fatal(err)
	}
	if back.digest != r.digest || !reflect.DeepEqual(back.args["pairs"], r.args["pairs"]) {
		t.Errorf("got %+v, want %+v", back, r)
	}
	again, err := back.id()
	if err != nil || again != id {
		t.Errorf("the id of the parsed recipe differs: %v", err)
	}
}

func TestRecipeDigests(t *testing.T) {
	seen := map[string]string{}
	for name, a := range map[string]args{
		"empty": {}, "string": {"a": "1"}, "number": {"a": int64(1)}, "boolean": {"a": true}, "list": {"a": []any{"1"}},
		"split": {"a": []any{"1", "2"}}, "joined": {"a": []any{"12"}}, "other name": {"b": "1"},
		"object": {"a": newRecipe(nil, "Query", "x", nil)}, "map": {"a": map[string]any{"1": "2"}},
	} {
		d := newRecipe(nil, "Query", "f", a).digest
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[d] = name
	}
}

func FuzzParseID(f *testing.F) {
	id, err := sampleRecipe().id()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{id, id[:len(id)/2], idPrefix, "", "nonsense", idPrefix + "!!"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseID(text)
		if err != nil {
			return
		}
		again, err := r.id()
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseID(again)
		if err != nil || back.digest != r.digest {
			t.Fatalf("%q does not survive a round trip: %v", text, err)
		}
	})
}

// bare is a server without an engine: what needs none can be asked.
func bare(t *testing.T) *httptest.Server {
	t.Helper()
	s := &Server{schema: newSchema(), secrets: newSecretStore(), host: newHostTrees(), hub: newHub(), memo: newMemo(), failures: newFailures()}
	s.shared, s.sockets = &Shared{}, &sockets{}
	s.services = newServices(t.Context(), s)
	s.schema["Query"]["panic"] = on("", func(context.Context, *call, *query) (any, error) { panic("overboard") })
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	return server
}

func ask(t *testing.T, server *httptest.Server, query string) (data map[string]any, message string, ext map[string]any) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"query": query})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(server.URL+"/query", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct {
		Data   map[string]any
		Errors []struct {
			Message    string
			Extensions map[string]any
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	if len(out.Errors) > 0 {
		return nil, out.Errors[0].Message, out.Errors[0].Extensions
	}
	return out.Data, "", nil
}

func TestErrorsOfQueries(t *testing.T) {
	server := bare(t)
	tests := []struct {
		query, kind string
		want        []string
	}{
		{`{container{terminal{id}}}`, "usage", []string{"Container.terminal", "Dagger Engine", "_EXPERIMENTAL_DAGGER_CLI_BIN"}},
		{`{container{from(address:"a",registryService:"x"){id}}}`, "usage", []string{`"registryService" of Container.from`}},
		{`{container{from(address:"busybox"){id}}}`, "usage", []string{"repository@sha256:"}},
		{`{container{withExec(args:["x"],insecureRootCapabilities:true){id}}}`, "usage", []string{"insecureRootCapabilities"}},
		{`{container{withExec(args:["x"],stdin:"a",redirectStdin:"/b"){id}}}`, "usage", []string{"both stdin and redirectStdin"}},
		{`{container{publish(address:"x/y")}}`, "usage", []string{"Container.publish", "registry"}},
		{`{container{withMountedTemp(path:"/"){id}}}`, "usage", []string{"over /"}},
		{`{container(platform:"a/b/c/d/e"){id}}`, "usage", []string{"not a platform"}},
		{`{host{directory(path:"relative"){id}}}`, "usage", []string{"relative"}},
		{`{secret(uri:"env://HOME"){id}}`, "usage", []string{"not found", "HOME"}},
		{`{secret(uri:"op://x"){id}}`, "usage", []string{"file://"}},
		{`{file(name:"a/b",contents:""){id}}`, "usage", []string{"not a file name"}},
		{`{file(name:"a",contents:"",permissions:"x"){id}}`, "usage", []string{"permissions", "wrong type"}},
		{`{container{import(source:"drydock1.x"){id}}}`, "usage", []string{"source", "not an id"}},
		{`{panic}`, "internal", []string{"internal error: overboard"}},
		{`mutation{x}`, "usage", []string{"no query operation"}},
		{`{directory{...Nope}}`, "usage", []string{"Nope"}},
	}
	for _, tc := range tests {
		_, message, ext := ask(t, server, tc.query)
		if ext["kind"] != tc.kind {
			t.Errorf("%s: kind %v, message %q", tc.query, ext["kind"], message)
		}
		for _, w := range tc.want {
			if !strings.Contains(message, w) {
				t.Errorf("%s: %q does not say %q", tc.query, message, w)
			}
		}
	}
	if resp, err := http.Post(server.URL+"/query", "application/json", strings.NewReader("{")); err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("not JSON: %v, %v", resp.Status, err)
	}
}

// Ids never tell a secret.
func TestSecretIDs(t *testing.T) {
	server := bare(t)
	data, message, _ := ask(t, server, `{setSecret(name:"n",plaintext:"very hush"){id plaintext}}`)
	if message != "" {
		t.Fatal(message)
	}
	got := data["setSecret"].(map[string]any)
	if got["plaintext"] != "very hush" {
		t.Errorf("got %v", got)
	}
	r, err := parseID(got["id"].(string))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range r.args {
		if strings.Contains(v.(string), "hush") {
			t.Errorf("argument %s of the id has the plaintext", name)
		}
	}
	if data, message, _ = ask(t, server, `{loadSecretFromID(id:"`+got["id"].(string)+`"){plaintext}}`); message != "" ||
		data["loadSecretFromID"].(map[string]any)["plaintext"] != "very hush" {
		t.Errorf("loaded: %v, %s", data, message)
	}
	if _, message, _ = ask(t, bare(t), `{loadSecretFromID(id:"`+got["id"].(string)+`"){plaintext}}`); !strings.Contains(message, "not known in this session") {
		t.Errorf("in another session: %q", message)
	}
}

// fakeExecutor prints and exits.
type fakeExecutor struct {
	executor.Executor
	out, err string
	code     uint32
}

func (f fakeExecutor) Run(_ context.Context, _ string, _ executor.Mount, _ []executor.Mount, p executor.ProcessInfo, _ chan<- struct{}) (resourcestypes.Recorder, error) {
	_, _ = io.WriteString(p.Stdout, f.out)
	_, _ = io.WriteString(p.Stderr, f.err)
	if f.code != 0 {
		return nil, &gatewaypb.ExitError{ExitCode: f.code}
	}
	return nil, nil
}

func TestCaptureOfFailures(t *testing.T) {
	shared := &Shared{failures: newFailures()}
	kept := shared.failures
	run := func(f fakeExecutor, valid []int) error {
		c := &capture{Executor: f, shared: shared}
		_, err := c.Run(context.Background(), "", executor.Mount{}, nil, executor.ProcessInfo{
			Meta: executor.Meta{Args: []string{"cmd"}, ValidExitCodes: valid},
		}, nil)
		return err
	}
	long := strings.Repeat("x", 5*tailSize)
	err := run(fakeExecutor{out: long + "end", err: "why", code: 3}, nil)
	var exit *gatewaypb.ExitError
	if !errors.As(err, &exit) || exit.ExitCode != 3 {
		t.Fatalf("got %v", err)
	}
	got := kept.get("some prefix: " + err.Error())
	if got.stderr != "why" || !strings.HasPrefix(got.stdout, fmt.Sprintf("[omitting %d bytes]...", len(long)+3-tailSize)) || !strings.HasSuffix(got.stdout, "end") || len(got.stdout) != tailSize {
		t.Errorf("kept %d bytes of stdout, stderr %q", len(got.stdout), got.stderr)
	}
	if text := stripTokens(err.Error()); text != "exit code: 3" {
		t.Errorf("without its token: %q", text)
	}
	if err := run(fakeExecutor{code: 3}, []int{3}); err != nil {
		t.Errorf("an allowed code: %v", err)
	}
	if err := run(fakeExecutor{}, []int{3}); !errors.As(err, &exit) || exit.ExitCode != 0 {
		t.Errorf("success where failure was expected: %v", err)
	}
	for range 2 * keptFailures {
		_ = run(fakeExecutor{code: 1}, nil)
	}
	if len(kept.byID) > keptFailures {
		t.Errorf("%d failures are kept", len(kept.byID))
	}
}

func TestValidExitCodes(t *testing.T) {
	for expect, want := range map[string][2]int{"SUCCESS": {0, 0}, "FAILURE": {1, 191}, "ANY": {0, 192}} {
		codes, err := validExitCodes(expect)
		if err != nil || expect != "SUCCESS" && (codes[0] != want[0] || len(codes) != want[1]) {
			t.Errorf("%s: %v, %v", expect, codes, err)
		}
	}
	if _, err := validExitCodes("MAYBE"); err == nil {
		t.Error("an unknown expectation: no error")
	}
}

func TestHostTreeDigests(t *testing.T) {
	ctx, h := context.Background(), newHostTrees()
	name := func(dir string, exclude ...string) string {
		t.Helper()
		st, err := h.directory(ctx, dir, nil, exclude, nil)
		if err != nil {
			t.Fatal(err)
		}
		def, err := st.state.Marshal(ctx)
		if err != nil {
			t.Fatal(err)
		}
		head, err := def.Head()
		if err != nil {
			t.Fatal(err)
		}
		return string(head)
	}
	fill := func() string {
		dir := t.TempDir()
		for path, text := range map[string]string{"a": "A", "sub/b": "B"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	one, two := fill(), fill()
	if name(one) != name(two) {
		t.Error("two places, the same content, two vertices")
	}
	first := name(one)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(one, "a"), old, old); err != nil {
		t.Fatal(err)
	}
	if name(one) != first {
		t.Error("another time made another vertex")
	}
	if name(one, "sub") == first {
		t.Error("an exclusion made no other vertex")
	}
	if err := os.Chmod(filepath.Join(one, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if name(one) == first {
		t.Error("another mode made no other vertex")
	}
	if err := os.WriteFile(filepath.Join(two, "a"), []byte("C"), 0o644); err != nil {
		t.Fatal(err)
	}
	if name(two) == first {
		t.Error("other content made no other vertex")
	}
}

func TestGitIgnore(t *testing.T) {
	rules := append(parseGitIgnore(".", "*.log\n# comment\n\n/build\n!keep.log\ndir/\n"), parseGitIgnore("sub", "local\n")...)
	for name, want := range map[string]bool{
		"a.log": true, "x/a.log": true, "keep.log": false, "build": true, "x/build": false, "build/in/it": true,
		"dir/x": true, "sub/local": true, "local": false, "main.go": false,
	} {
		if got := gitIgnored(rules, name, false); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A step is told once, however often it is looked up; its lines are whole.
func TestFeed(t *testing.T) {
	h := newHub()
	l := &listener{signal: make(chan struct{}, 1)}
	h.listeners[l] = true
	now := time.Now()
	step := digest.FromString("step")
	vertex := func(done, cached bool) *client.Vertex {
		v := &client.Vertex{Digest: step, Name: "RUN x", Started: &now}
		if done {
			end := now.Add(time.Second)
			v.Completed, v.Cached = &end, cached
		}
		return v
	}
	kinds := func() string {
		var out []string
		for _, e := range l.take() {
			out = append(out, e.Kind+" "+e.Build+" "+e.Text)
		}
		return strings.Join(out, "|")
	}
	feed := func(build string, statuses ...*client.SolveStatus) string {
		ch := make(chan *client.SolveStatus, len(statuses))
		for _, st := range statuses {
			ch <- st
		}
		close(ch)
		h.feed(build).run(ch, nil)
		return kinds()
	}
	log := func(text string) *client.SolveStatus {
		return &client.SolveStatus{Logs: []*client.VertexLog{{Vertex: step, Stream: 1, Data: []byte(text), Timestamp: now}}}
	}
	got := feed("web", &client.SolveStatus{Vertexes: []*client.Vertex{vertex(false, false)}}, log("one\ntw"), log("o\nlast"),
		&client.SolveStatus{Vertexes: []*client.Vertex{vertex(true, false)}})
	if want := "started web |log web one|log web two|log web last|done web "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := feed("", &client.SolveStatus{Vertexes: []*client.Vertex{vertex(true, true)}}); got != "" {
		t.Errorf("looked up again: %q", got)
	}
	if got := feed("", &client.SolveStatus{Vertexes: []*client.Vertex{vertex(false, false)}}, log("more\n")); got != "started web |log web more" {
		t.Errorf("run again: %q", got)
	}
}

// A caller that gives up does not fail the others that wait for the same.
func TestRememberedCancel(t *testing.T) {
	m := newMemo()
	ctx, cancel := context.WithCancel(context.Background())
	began := make(chan struct{})
	go func() {
		_, _ = remembered(ctx, m, "k", func() (int, error) { close(began); <-ctx.Done(); return 0, ctx.Err() })
	}()
	<-began
	result := make(chan int)
	go func() {
		v, _ := remembered(context.Background(), m, "k", func() (int, error) { return 7, nil })
		result <- v
	}()
	cancel()
	select {
	case v := <-result:
		if v != 7 {
			t.Errorf("got %d", v)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the second caller still waits")
	}
	if v, err := remembered(context.Background(), m, "k", func() (int, error) { return 0, errors.New("made again") }); v != 7 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
}
