package executor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	bkexec "github.com/moby/buildkit/executor"

	"drydock/modules/engine/embedded/initproc"
)

// runningSteps are the steps that have started, by id.
type runningSteps struct {
	mu    sync.Mutex
	steps map[string]*step
}

func (r *runningSteps) add(id string, s *step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.steps == nil {
		r.steps = map[string]*step{}
	}
	r.steps[id] = s
}

func (r *runningSteps) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.steps, id)
}

func (r *runningSteps) get(id string) (*step, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.steps[id]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("no step %s is running", id)
}

// errStepEnded is why an order of a step has no answer.
var errStepEnded = errors.New("the step has ended")

// orders are what was asked of a step's init and not answered for good.
type orders struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]chan answered
	over bool
}

// answered is one report and what came with it.
type answered struct {
	report initproc.Report
	files  []*os.File
}

func (o *orders) begin() (uint64, <-chan answered, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return 0, nil, errStepEnded
	}
	if o.open == nil {
		o.open = map[uint64]chan answered{}
	}
	o.last++
	ch := make(chan answered, 4) // a process has two reports, a connection one
	o.open[o.last] = ch
	return o.last, ch, nil
}

func (o *orders) end(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.open, id)
}

// deliver gives a report to whoever waits for it; false when nobody does.
func (o *orders) deliver(a answered) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	ch := o.open[a.report.ID]
	if ch == nil {
		return false
	}
	select {
	case ch <- a:
		return true
	default:
		return false
	}
}

// stop tells everybody that the step has ended.
func (o *orders) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	for id, ch := range o.open {
		close(ch)
		delete(o.open, id)
	}
}

// ask waits for the next report about an order.
func ask(ctx context.Context, ch <-chan answered) (answered, error) {
	select {
	case a, ok := <-ch:
		if !ok {
			return a, errStepEnded
		}
		if a.report.Error != "" {
			return a, errors.New(a.report.Error)
		}
		return a, nil
	case <-ctx.Done():
		return answered{}, context.Cause(ctx)
	}
}

// Dial connects to a port of a running step that was given a Network with
// Reachable, as from another host.
func (e *Executor) Dial(ctx context.Context, id string, p Port) (net.Conn, error) {
	s, err := e.running.get(id)
	if err != nil {
		return nil, err
	}
	if !s.network.Reachable {
		return nil, fmt.Errorf("step %s is not to be reached", id)
	}
	order, ch, err := s.orders.begin()
	if err != nil {
		return nil, err
	}
	defer s.orders.end(order)
	if err := s.control.send(initproc.Order{ID: order, Dial: &initproc.Dial{Port: p.Number, UDP: p.UDP}}); err != nil {
		return nil, err
	}
	a, err := ask(ctx, ch)
	if err != nil {
		return nil, err
	}
	defer closeFiles(a.files)
	if len(a.files) != 1 {
		return nil, errors.New("the step's init sent no connection")
	}
	return net.FileConn(a.files[0])
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Exec runs a further process in a running step, with the privileges of the
// step's command, and waits for it. It ends with the step.
func (e *Executor) Exec(ctx context.Context, id string, p bkexec.ProcessInfo) error {
	if p.Meta.Tty {
		return errors.New("the embedded engine gives processes no terminal")
	}
	s, err := e.running.get(id)
	if err != nil {
		return err
	}
	who, err := lookupUser(s.spec.Root, p.Meta.User)
	if err != nil {
		return fmt.Errorf("finding user %q in the image: %w", p.Meta.User, err)
	}
	env := p.Meta.Env
	if c := s.spec.Contained; s.spec.Gateway || c != nil && c.Gateway != "" {
		env = bkexec.ReplaceEnv(env, gatewayEnv(s.network))
		s.ownAddress(env)
		if s.authority != "" {
			env = trustEnv(env)
		}
	}
	process := &initproc.Process{
		Args: p.Meta.Args, Env: withHome(env, who.Home), Cwd: filepath.Clean("/" + p.Meta.Cwd),
		UID: uint32(who.Uid), GID: uint32(who.Gid), Groups: groupsOf(who),
		NoCapabilities: e.opt.SingleID && who.Uid != 0,
	}
	order, ch, err := s.orders.begin()
	if err != nil {
		return err
	}
	defer s.orders.end(order)
	std, err := openStreams(p.Stdin, p.Stdout, p.Stderr)
	if err != nil {
		return err
	}
	defer std.wait()
	err = s.control.send(initproc.Order{ID: order, Exec: process, Files: 3}, std.ends...)
	std.handedOver()
	if err != nil {
		return err
	}
	if _, err := ask(ctx, ch); err != nil {
		return err
	}
	return s.attend(ctx, order, ch, p)
}

// attend waits for a further process, passing signals on.
func (s *step) attend(ctx context.Context, order uint64, ch <-chan answered, p bkexec.ProcessInfo) error {
	signal := func(sig syscall.Signal) { _ = s.control.send(initproc.Order{ID: order, Signal: int(sig)}) }
	stop := context.AfterFunc(ctx, func() { signal(syscall.SIGKILL) })
	defer stop()
	for {
		select {
		case sig, ok := <-p.Signal:
			if !ok {
				p.Signal = nil
				continue
			}
			signal(sig)
		case a, ok := <-ch:
			if !ok {
				return errStepEnded
			}
			if a.report.Error != "" {
				return errors.New(a.report.Error)
			}
			return exitError(ctx, a.report, p.Meta.ValidExitCodes, "")
		}
	}
}
