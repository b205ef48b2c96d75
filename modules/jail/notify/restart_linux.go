package notify

import "encoding/binary"

const (
	saFlags   = 8          // where they are in the kernel's struct sigaction, behind the handler
	saRestart = 0x10000000 // SA_RESTART
)

// RestartAfter has the handler that the caller of rt_sigaction(2) is about to
// install restart what it interrupts; act is the call's second argument, read
// and write move the caller's memory.
//
// A signal that comes after a call was handed over and before a supervisor
// took it ends the call: the kernel waits for that as for anything that may
// block. Without SA_RESTART it is then EINTR, which nobody expects of fork(2)
// or of opening a file, and shells do not try again. The signal that comes all
// the time is SIGCHLD, and libraries hand over a copy of what a program says, so
// that it does not see the flag.
func RestartAfter(read, write func(addr uint64, b []byte) error, act uint64) {
	var b [saFlags + 8]byte
	if act == 0 || read(act, b[:]) != nil {
		return // it only asks, or the kernel says what is wrong
	}
	handler, flags := binary.NativeEndian.Uint64(b[:]), binary.NativeEndian.Uint64(b[saFlags:])
	if handler <= 1 || flags&saRestart != 0 { // SIG_DFL and SIG_IGN interrupt nothing
		return
	}
	binary.NativeEndian.PutUint64(b[saFlags:], flags|saRestart)
	_ = write(act+saFlags, b[saFlags:]) // as it was, then
}
