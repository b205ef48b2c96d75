//go:build linux

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// besides starts the program, given after the attacks and an empty argument,
// beside a process that no step may signal. Before, it runs the attacks where
// nothing holds them.
const besides = `sleep 600 & victim=$!
while [ -n "$1" ]; do /builds/hostile $1; shift; done >/builds/out-unheld
shift
"$@"; code=$?
kill -0 $victim && echo the victim lives >/builds/out-victim
kill -9 $victim
exit $code`

// TestContainerHostile builds the hostile catalog where people build: as root of
// an ordinary unprivileged container, and as an ordinary user with one id.
func TestContainerHostile(t *testing.T) {
	d := openDock(t)
	y := openYard(t, d)
	for _, b := range berths() {
		switch {
		case b.name == "root, default", b.name == "uid 1000, default", strings.Contains(b.name, "without subordinate ids"):
		default:
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			job := newJob(t, d, y, b, "bases", "bases-registry", "facts.json", "materials")
			h := newHostile(t, d, b.tier, job.dir, "/builds", "state/keys")
			if b.mode == "single-id" {
				// the kernel bounds processes by user, and the step's init is the
				// same one: either the watch ends the step or that does, at the
				// init or at the attack itself, whose runtime is refused a thread
				h.also = []string{"the step's init ended early", "did not complete successfully: exit code: 1"}
			}
			job.env = append(job.env, h.environ("")...)
			images := slices.Concat(bounds(), escapees(), []string{"fork", "memory", "disk", "output"})
			args := append([]string{"/bin/sh", "-c", besides, "sh"}, h.unheld()...)
			args = append(append(args, "", "/opt/drydock/drydock"), arguments(images)...)
			res := job.exec(t, y.runtimes[0], args...)
			t.Logf("exit code %d", res.Code)
			h.alive = func() error {
				_, err := readText(job.dir, "out-victim")
				return err
			}
			h.judge(t, images, res.Stdout, res.Stderr)
			printed, err := readText(job.dir, "out-unheld")
			if err != nil {
				t.Fatal(err)
			}
			h.escaped(t, printed)
		})
	}
}

func readText(dir, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	return string(b), err
}
