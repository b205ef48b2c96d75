package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const log = `=== RUN   TestA
--- PASS: TestA (0.00s)
=== RUN   TestB
    b_test.go:7: needs user namespaces:
        set kernel.x=1
--- SKIP: TestB (0.00s)
=== RUN   TestC
=== RUN   TestC/one
=== PAUSE TestC/one
=== RUN   TestC/two
=== CONT  TestC/one
    c_test.go:9: working
=== NAME  TestC/two
    c_test.go:12: no docker-registry on this machine
--- PASS: TestC (0.10s)
    --- PASS: TestC/one (0.05s)
    --- SKIP: TestC/two (0.00s)
PASS
ok  	drydock/x	0.1s
`

func check(t *testing.T, input, rules string) (int, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "allowed")
	if err := os.WriteFile(path, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := run(strings.NewReader(input), &out, &errs, path)
	return code, out.String() + errs.String()
}

func TestAllowedSkips(t *testing.T) {
	code, out := check(t, log, "# a comment\n\nTestB  ^needs user namespaces: set kernel\nTestC/.* no docker-registry\n")
	if code != 0 || !strings.HasSuffix(out, "\n3 passed, 0 failed, 2 skipped\n") {
		t.Errorf("%d\n%s", code, out)
	}
}

func TestAnySkipElseFails(t *testing.T) {
	for name, rules := range map[string]string{
		"none": "", "another reason": "TestB .*\nTestC/two no network\n", "part of a name": "TestB .*\nTestC .*\n",
	} {
		code, out := check(t, log, rules)
		if code != 1 || !strings.Contains(out, "skipped without leave: TestC/two: no docker-registry on this machine") {
			t.Errorf("%s: %d\n%s", name, code, out)
		}
	}
}

func TestFailuresAreCounted(t *testing.T) {
	code, out := check(t, "=== RUN   TestA\n--- FAIL: TestA (0.00s)\nFAIL\ndrydock/y\nFAIL\tdrydock/z [build failed]\npanic: test timed out after 1s\n", "")
	if code != 1 || !strings.HasSuffix(out, "0 passed, 3 failed, 0 skipped\n") || !strings.Contains(out, "failed: TestA") {
		t.Errorf("%d\n%s", code, out)
	}
}

func TestFailedTestsAreHeard(t *testing.T) {
	var b strings.Builder
	b.WriteString("=== RUN   TestA\n    a_test.go:1: line 0\n")
	for n := 1; n < 200; n++ {
		fmt.Fprintf(&b, "        line %d\n", n)
	}
	b.WriteString("    a_test.go:9: " + strings.Repeat("x", 2*lineBytes) + "\n--- FAIL: TestA (0.00s)\n")
	_, out := check(t, b.String(), "")
	for text, want := range map[string]bool{
		"failed: TestA\n    line 0\n": true, " line 19\n    … (121 lines)\n": true, " line 20\n": false, " line 140\n": false, " line 141\n": true,
		" " + strings.Repeat("x", lineBytes) + "…\n": true,
	} {
		if strings.Contains(out, text) != want {
			t.Errorf("%q: %v\n%s", text, !want, out)
		}
	}
}

func TestBadRulesAreRefused(t *testing.T) {
	for _, rules := range []string{"TestA", "Test( x", "TestA ("} {
		if code, out := check(t, log, rules); code != 2 || !strings.Contains(out, "allowed:1: ") {
			t.Errorf("%q: %d\n%s", rules, code, out)
		}
	}
	var out, errs bytes.Buffer
	if code := run(strings.NewReader(log), &out, &errs, "none"); code != 2 {
		t.Errorf("missing file: %d", code)
	}
}
