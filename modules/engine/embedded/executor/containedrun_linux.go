package executor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
)

// executeContained starts the init and sees the step through. The init is no
// namespace's: it ends its step when the socket to it closes.
func (s *step) executeContained(ctx context.Context) error {
	sock, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer sock.conn.Close()
	cmd := &exec.Cmd{
		Path: s.e.init, Args: []string{"drydock-init"}, Env: []string{}, Dir: "/",
		ExtraFiles: []*os.File{theirs}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	stderr := &writer{w: s.process.Stderr}
	kill := func() { _ = sock.conn.CloseWrite() }
	std, err := openStreams(s.process.Stdin, s.counted(s.process.Stdout, kill), s.counted(stderr, kill))
	if err != nil {
		theirs.Close()
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = std.ends[0], std.ends[1], std.ends[2]
	done, err := s.e.container.start(cmd, kill)
	theirs.Close()
	if err != nil {
		std.wait()
		return fmt.Errorf("starting the step's init: %w", err)
	}
	defer done()
	defer s.e.watch.begin(s, cmd.Process.Pid, kill)()
	stopKill := context.AfterFunc(ctx, func() {
		kill()
		time.AfterFunc(endTime, func() { _ = cmd.Process.Kill() }) // harmless once it was waited for
	})
	defer stopKill()

	g := &link{vertex: s.vertex, socket: s.socket, stderr: stderr, kill: kill, hosts: s.network.Hosts}
	if s.spec.Contained.Gateway != "" {
		if err := g.openContained(s.addresses); err != nil {
			kill()
			_ = s.e.container.await(cmd)
			std.wait()
			return s.verdict(ctx, g, initproc.Report{}, err)
		}
	}
	board := &switchboard{stderr: stderr}
	defer board.close()
	board.contained(ctx, s)
	s.control = sock
	report, err := s.converse(ctx, g, board)
	sock.conn.Close()
	if err != nil {
		_ = cmd.Process.Kill()
	}
	_ = s.e.container.await(cmd) // how the init ended says nothing: its report does
	if err != nil {
		s.e.container.sweep() // it may have left the step's processes
	}
	std.wait()
	return s.verdict(ctx, g, report, err)
}

// start starts an init. done is called when it was waited for.
func (c *container) start(cmd *exec.Cmd, end func()) (done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("the engine is closing")
	}
	start := cmd.Start
	if c.launcher != nil {
		start = func() error { return c.launch(cmd) }
	}
	if err := start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	c.running[pid] = end
	c.steps.Add(1)
	return func() {
		c.mu.Lock()
		delete(c.running, pid)
		c.mu.Unlock()
		c.steps.Done()
	}, nil
}

// close ends all steps.
func (c *container) close() {
	c.mu.Lock()
	c.closed = true
	for _, end := range c.running {
		end()
	}
	c.mu.Unlock()
	ended := make(chan struct{})
	go func() { c.steps.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(endTime):
	}
}

// sweep ends processes that a killed init left to us: children we did not
// start, under a filter we are not under.
func (c *container) sweep() {
	for range 100 {
		left := c.orphans()
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, 0, nil)
		}
	}
}

func (c *container) orphans() []int {
	self := os.Getpid()
	mine := filters(self)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || c.running[pid] != nil || parentOf(pid) != self || filters(pid) <= mine {
			continue
		}
		out = append(out, pid)
	}
	return out
}

// filters is how many seccomp filters a process is under; -1: not told.
func filters(pid int) int { return statusNumber(pid, "Seccomp_filters") }

func parentOf(pid int) int { return statusNumber(pid, "PPid") }

func statusNumber(pid int, key string) int {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return -1
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), key+":"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				return -1
			}
			return n
		}
	}
	return -1
}
