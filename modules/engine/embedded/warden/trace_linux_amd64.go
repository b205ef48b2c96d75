package warden

import "golang.org/x/sys/unix"

// traceable: the registers of this architecture are known here.
const traceable = true

// registers are a stopped thread's.
type registers struct{ unix.PtraceRegs }

func getRegisters(tid int) (r registers, err error) {
	err = unix.PtraceGetRegs(tid, &r.PtraceRegs)
	return r, err
}

func (r registers) set(tid int) error { return unix.PtraceSetRegs(tid, &r.PtraceRegs) }

func (r registers) call() int { return int(int32(r.Orig_rax)) }

func (r *registers) setCall(n int) { r.Orig_rax = uint64(int64(n)) }

func (r *registers) setResult(v int64) { r.Rax = uint64(v) }

func (r registers) stack() uint64 { return r.Rsp }

func (r registers) arg(n int) uint64 {
	return [...]uint64{r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9}[n]
}

func (r *registers) setArg(n int, v uint64) {
	*[...]*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9}[n] = v
}
