package core

import (
	"strings"
	"testing"
)

func TestStepOutputAndExit(t *testing.T) {
	needT1(t)
	root := busyboxRoot(t)
	c := startChild(t, ChildConfig{})
	t.Logf("mode %s", c.Mode)
	out := do(t, c.Socket, task{Dir: root, Steps: []stepSpec{sh("echo hello; id; pwd; env")}})
	t.Log(out)
	if out.Err != "" || !strings.Contains(out.Logs, "hello\n") || !strings.Contains(out.Logs, "uid=0(root)") {
		t.Fatalf("got %+v", out)
	}
}
