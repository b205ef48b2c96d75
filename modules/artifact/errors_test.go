package artifact

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func TestFullDisk(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "/cache/blob", Err: syscall.ENOSPC}
	for name, err := range map[string]error{
		"plain": fmt.Errorf("unpacking: %w", full), "internal": &Error{Op: "unpacking", Err: full},
		"quota": fmt.Errorf("unpacking: %w", &fs.PathError{Op: "write", Path: "/cache/blob", Err: syscall.EDQUOT}),
	} {
		if got := ExitCode(err); got != ExitFault {
			t.Errorf("%s: exit code %d, want %d", name, got, ExitFault)
		}
		if r := Remedies(err); len(r) != 1 || !strings.Contains(r[0], "make room on the disk of /cache/blob") {
			t.Errorf("%s: remedies %q", name, r)
		}
	}
	if got := ExitCode(&Error{Kind: KindGate, Err: full}); got != ExitGate {
		t.Errorf("a gate's word became exit code %d", got)
	}
}
