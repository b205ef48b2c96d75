package keeper

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"drydock/modules/jail"
)

// RunInside runs f on a thread of its own whose root is a directory, as far as
// files go: what f names is found there, and owners are recorded. Other threads
// of this process, which do it, keep the root there is. f must not start
// processes or change its working directory.
func RunInside(root *os.File, f func() error) error {
	in, err := NewInside(InsideOptions{Root: root})
	if err != nil {
		return err
	}
	var rules []jail.Rule
	for _, r := range in.Rules() {
		if r.Call != "capget" && r.Call != "capset" && r.Call != "prlimit64" {
			rules = append(rules, r)
		}
	}
	filter, err := jail.RuleFilter(rules...)
	if err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: it ends with this goroutine
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			done <- fmt.Errorf("setting no-new-privs: %w", err)
			return
		}
		listener, err := filter.InstallNotify()
		if err != nil {
			done <- err
			return
		}
		go in.serve(listener)
		done <- f()
	}()
	return <-done
}
