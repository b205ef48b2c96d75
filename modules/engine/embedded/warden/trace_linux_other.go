//go:build linux && !amd64

package warden

import "golang.org/x/sys/unix"

const traceable = false

// registers are not known on this architecture: nothing is traced.
type registers struct{ args [6]uint64 }

func getRegisters(int) (registers, error) { return registers{}, unix.ENOSYS }

func (r registers) set(int) error { return unix.ENOSYS }

func (r registers) call() int { return -1 }

func (r *registers) setCall(int) {}

func (r *registers) setResult(int64) {}

func (r registers) stack() uint64 { return 0 }

func (r registers) arg(n int) uint64 { return r.args[n] }

func (r *registers) setArg(n int, v uint64) { r.args[n] = v }
