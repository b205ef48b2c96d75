package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// gitBackend serves the repositories of a folder as git itself does.
func gitBackend(dir string) http.Handler {
	program, err := exec.LookPath("git")
	if err != nil {
		return http.NotFoundHandler() // scripts that want it skip without git
	}
	return &cgi.Handler{
		Path: program, Args: []string{"http-backend"}, Dir: dir,
		Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null"},
	}
}

// wheel makes a Python package and its page in a simple index: wheel DIR NAME
// VERSION.
func wheel(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: wheel DIR NAME VERSION")
	}
	dir, name, version := ts.MkAbs(args[0]), args[1], args[2]
	info := name + "-" + version + ".dist-info/"
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range [][2]string{
		{name + ".py", "VERSION = '" + version + "'\n"},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", name + ".py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"},
	} {
		w, err := z.Create(f[0])
		ts.Check(err)
		_, err = w.Write([]byte(f[1]))
		ts.Check(err)
	}
	ts.Check(z.Close())
	file := name + "-" + version + "-py3-none-any.whl"
	page := fmt.Sprintf("<!DOCTYPE html><html><body><a href=\"../../files/%s#sha256=%x\">%s</a></body></html>", file, sha256.Sum256(b.Bytes()), file)
	for path, text := range map[string][]byte{"files/" + file: b.Bytes(), "simple/" + name + "/index.html": []byte(page)} {
		path = filepath.Join(dir, filepath.FromSlash(path))
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		ts.Check(os.WriteFile(path, text, 0o644))
	}
}
