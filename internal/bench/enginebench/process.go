//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// process is a running engine.
type process int

// engineArg is in the command line of an engine's process (package core).
const engineArg = "__drydock-engine"

// engineBelow finds the engine that descends from a process.
func engineBelow(pid int) (process, error) {
	children := map[int][]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, name := range stats {
		f, err := statFields(name)
		if err != nil {
			continue // it has ended
		}
		parent, _ := strconv.Atoi(f[1])
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		children[parent] = append(children[parent], child)
	}
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", todo[0]))
		if err == nil && bytes.Contains(line, []byte(engineArg)) {
			return process(todo[0]), nil
		}
		todo = append(todo, children[todo[0]]...)
	}
	return 0, errors.New("the engine's process is not to be found")
}

// statFields are those of proc_pid_stat(5) after the name: state, parent, …
func statFields(name string) ([]string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 15 {
		return nil, fmt.Errorf("%s is not as expected", name)
	}
	return f, nil
}

// tick is the unit of times in /proc/PID/stat, USER_HZ everywhere.
const tick = 10 * time.Millisecond

// cpu is what the engine and its steps that have ended have used.
func (p process) cpu() (time.Duration, error) {
	f, err := statFields(fmt.Sprintf("/proc/%d/stat", int(p)))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, v := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.Atoi(v)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// peak tells the most memory the engine had resident, in bytes.
func (p process) peak(tell func(bytes int64)) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", int(p)))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			tell(n << 10)
			return err
		}
	}
	return errors.New("the engine's memory is not told")
}
