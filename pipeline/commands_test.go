package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/rogpeppe/go-internal/testscript"
)

// exits runs a program and asks for its very exit code, or one of several:
// exits CODE[|CODE] ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	want := args[0]
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if !slices.Contains(strings.Split(want, "|"), got) {
		ts.Fatalf("exit code %s, want %s", got, want)
	}
}

// within is exits that may take so long and no longer: within 3s CODE ARGS...
func within(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: within DURATION CODE COMMAND ARGS...")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	start := time.Now()
	exits(ts, false, args[1:])
	if took := time.Since(start); took > limit {
		ts.Fatalf("took %s, want at most %s", took, limit)
	}
}

// replaceIn changes a file: sed OLD NEW FILE; \n in them is a new line.
func replaceIn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: sed OLD NEW FILE")
	}
	old, replacement := strings.ReplaceAll(args[0], `\n`, "\n"), strings.ReplaceAll(args[1], `\n`, "\n")
	raw := ts.ReadFile(args[2])
	if !strings.Contains(raw, old) {
		ts.Fatalf("%s does not contain %q", args[2], old)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(strings.ReplaceAll(raw, old, replacement)), 0o644))
}

// fixture adds the shipped catalog to DIR, where DIR has no such file: without
// its images, or with them: fixture [-images] DIR.
func fixture(ts *testscript.TestScript, neg bool, args []string) {
	images := len(args) == 2 && args[0] == "-images"
	if neg || len(args) != 1 && !images {
		ts.Fatalf("usage: fixture [-images] DIR")
	}
	ts.Check(copyCatalog(ts.MkAbs(args[len(args)-1]), images))
}

// commit makes the current directory, or DIR, a repository with nothing
// uncommitted.
func commit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: commit [DIR]")
	}
	ts.Check(commitAll(ts.MkAbs(strings.Join(args, ""))))
}

// find follows PATH into a JSON file: keys and indexes joined by /; an element
// "key=value" chooses the member of a list that has it.
func find(ts *testscript.TestScript, file, path string) string {
	var v any
	dec := json.NewDecoder(bytes.NewReader([]byte(ts.ReadFile(file))))
	dec.UseNumber()
	ts.Check(dec.Decode(&v))
	for _, step := range strings.Split(path, "/") {
		v = member(v, step)
	}
	switch x := v.(type) {
	case nil:
		return "null"
	case string:
		return x
	case json.Number:
		return x.String()
	}
	raw, err := json.Marshal(v)
	ts.Check(err)
	return string(raw)
}

func member(v any, step string) any {
	switch x := v.(type) {
	case map[string]any:
		return x[step]
	case []any:
		key, want, chosen := strings.Cut(step, "=")
		for i, e := range x {
			if m, ok := e.(map[string]any); ok && chosen && fmt.Sprint(m[key]) == want || !chosen && strconv.Itoa(i) == step {
				return e
			}
		}
	}
	return nil
}

// jsonIs compares: json FILE PATH REGEXP, which matches the whole value.
func jsonIs(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: [!] json FILE PATH REGEXP")
	}
	got := find(ts, args[0], args[1])
	ok, err := regexp.MatchString("^(?s:"+args[2]+")$", got)
	ts.Check(err)
	if ok == neg {
		ts.Fatalf("%s: %s is %s, want (%v) %s", args[0], args[1], got, !neg, args[2])
	}
}

// setJSON sets a variable from a JSON file: setjson NAME FILE PATH.
func setJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: setjson NAME FILE PATH")
	}
	ts.Setenv(args[0], find(ts, args[1], args[2]))
}

// server starts a web server and puts its host:port into a variable: server
// 401|hang|down|git:DIR|DIR NAME.
func server(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: server 401|hang|down|git:DIR|DIR NAME")
	}
	release := make(chan struct{})
	var h http.Handler
	switch args[0] {
	case "401":
		h = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`, http.StatusUnauthorized)
		})
	case "hang":
		h = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
	case "down":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(args[1], l.Addr().String())
		ts.Check(l.Close())
		return
	default:
		h = http.FileServer(http.Dir(ts.MkAbs(args[0])))
		if dir, ok := strings.CutPrefix(args[0], "git:"); ok {
			h = gitBackend(ts.MkAbs(dir))
		}
	}
	s := httptest.NewServer(h)
	ts.Defer(func() { close(release); s.CloseClientConnections(); s.Close() })
	ts.Setenv(args[1], s.Listener.Addr().String())
}

// awaitFile waits until a file has a line that matches and sets a variable to
// its first group: awaitfile FILE REGEXP NAME.
func awaitFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: awaitfile FILE REGEXP NAME")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		raw, err := os.ReadFile(ts.MkAbs(args[0]))
		if m := re.FindSubmatch(raw); err == nil && m != nil {
			ts.Setenv(args[2], string(m[1]))
			return
		}
	}
	ts.Fatalf("%s has nothing that matches %s", args[0], args[1])
}

// pull reads an image as crane does: pull REFERENCE@DIGEST PLATFORMS.
func pull(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: pull REFERENCE@DIGEST COUNT")
	}
	_, want, _ := strings.Cut(args[0], "@")
	got, err := crane.Digest(args[0], crane.Insecure)
	ts.Check(err)
	if got != want {
		ts.Fatalf("digest %s, want %s", got, want)
	}
	raw, err := crane.Manifest(args[0], crane.Insecure)
	ts.Check(err)
	if n := strings.Count(string(raw), `"architecture"`); strconv.Itoa(n) != args[1] {
		ts.Fatalf("the index names %d platforms, want %s", n, args[1])
	}
	img, err := crane.Pull(args[0], crane.Insecure)
	ts.Check(err)
	layers, err := img.Layers()
	ts.Check(err)
	for _, l := range layers {
		r, err := l.Uncompressed()
		ts.Check(err)
		ts.Check(r.Close())
	}
}

// sameTree remembers what is in a directory under a name, and fails when it is
// not the same the next time: sametree NAME DIR.
func sameTree(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: sametree NAME DIR")
	}
	h := sha256.New()
	root := ts.MkAbs(args[1])
	ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "lock" || d.Name() == "serving.json" {
			return err
		}
		raw, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %x\n", strings.TrimPrefix(path, root), sha256.Sum256(raw))
		return err
	}))
	name, now := "SAMETREE_"+args[0], fmt.Sprintf("%x", h.Sum(nil))
	before := ts.Getenv(name)
	ts.Setenv(name, now)
	if before != "" && (before != now) != neg {
		ts.Fatalf("%s changed: %v", args[1], before != now)
	}
}

// cut truncates every file below a directory, or those of one name, to half
// its length, as a full disk would: cut DIR [NAME].
func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: cut DIR [NAME]")
	}
	done := 0
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || len(args) == 2 && d.Name() != args[1] {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		done++
		return os.Truncate(path, info.Size()/2)
	}))
	if done == 0 {
		ts.Fatalf("nothing to cut below %s", args[0])
	}
}
