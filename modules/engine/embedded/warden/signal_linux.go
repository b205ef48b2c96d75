package warden

import (
	"bytes"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// sizeofSiginfo is the size of siginfo_t.
const sizeofSiginfo = 128

// signal handles what sends signals, where the kernel does not bound them: to
// the caller's own process the kernel goes on (the numbers are in registers,
// nobody changes them), to others of the step we send.
func (w *Warden) signal(r *notify.Request) notify.Response {
	caller, ok := idsOf(r.PID)
	if !ok {
		return notify.Errno(unix.ESRCH)
	}
	first := int(int32(r.Args[0]))
	switch r.Call {
	case unix.SYS_FCNTL: // F_SETOWN
		if int(int32(r.Args[2])) == caller.tgid || int32(r.Args[2]) == 0 {
			return notify.Continue()
		}
		return notify.Errno(unix.EPERM)
	case unix.SYS_TKILL, unix.SYS_TGKILL:
		return w.signalThread(r, caller)
	case unix.SYS_RT_TGSIGQUEUEINFO:
		if first == caller.tgid {
			return notify.Continue()
		}
		return notify.Errno(unix.EPERM)
	case unix.SYS_PIDFD_SEND_SIGNAL:
		if first = w.pidOf(r, first); first <= 0 {
			return notify.Errno(unix.EBADF)
		}
		return notify.Errno(w.send(caller, first, unix.Signal(r.Args[1]), w.siginfo(r, r.Args[2])))
	}
	if first == caller.tgid {
		return notify.Continue()
	}
	var info []byte
	if r.Call == unix.SYS_RT_SIGQUEUEINFO {
		if info = w.siginfo(r, r.Args[2]); info == nil {
			return notify.Errno(unix.EFAULT)
		}
	}
	return notify.Errno(w.send(caller, first, unix.Signal(r.Args[1]), info))
}

func (w *Warden) signalThread(r *notify.Request, caller ids) notify.Response {
	tid, s := int(int32(r.Args[0])), unix.Signal(r.Args[1])
	if r.Call == unix.SYS_TGKILL {
		tid, s = int(int32(r.Args[1])), unix.Signal(r.Args[2])
	}
	target, ok := idsOf(tid)
	switch {
	case !ok:
		return notify.Errno(unix.ESRCH)
	case target.tgid == caller.tgid:
		return notify.Continue()
	case r.Call == unix.SYS_TGKILL && target.tgid != int(int32(r.Args[0])), !member(tid):
		return notify.Errno(unix.ESRCH)
	case !maySignal(caller, target):
		return notify.Errno(unix.EPERM)
	}
	return notify.Errno(errnoOrNone(unix.Tgkill(target.tgid, tid, s)))
}

func errnoOrNone(err error) unix.Errno {
	if err == nil {
		return 0
	}
	return errnoOf(err)
}

// siginfo reads what a caller sends along; nil for none.
func (w *Warden) siginfo(r *notify.Request, addr uint64) []byte {
	b := make([]byte, sizeofSiginfo)
	if addr == 0 || w.read(r, addr, b) != nil {
		return nil
	}
	return b
}

// pidOf finds the process a pidfd of the caller is of.
func (w *Warden) pidOf(r *notify.Request, fd int) int {
	pid := 0
	w.as(r, func() {
		b, err := readSmall("/proc/" + strconv.Itoa(r.PID) + "/fdinfo/" + strconv.Itoa(fd))
		if err != nil {
			return
		}
		for line := range bytes.Lines(b) {
			if v, ok := strings.CutPrefix(string(line), "Pid:"); ok {
				pid, _ = strconv.Atoi(strings.TrimSpace(v))
			}
		}
	})
	return pid
}

// send sends a signal to the processes that to means in kill(2), those of the
// step among them; 0 when one got it.
func (w *Warden) send(caller ids, to int, s unix.Signal, info []byte) unix.Errno {
	var list []int
	switch {
	case to > 0:
		list = []int{to}
	default:
		self, _ := readProcess(caller.tgid)
		for _, p := range family() {
			if to == -1 && p.pid != caller.tgid || to == 0 && p.group == self.group || to < -1 && p.group == -to {
				list = append(list, p.pid)
			}
		}
	}
	result := unix.ESRCH
	for _, pid := range list {
		switch errno := sendOne(caller, pid, s, info); {
		case errno == 0:
			result = 0
		case result == unix.ESRCH:
			result = errno
		}
	}
	return result
}

// sendOne signals one process, held by a descriptor so that it stays the one
// that was looked at.
func sendOne(caller ids, pid int, s unix.Signal, info []byte) unix.Errno {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return unix.ESRCH
	}
	defer unix.Close(fd)
	target, ok := idsOf(pid)
	if !ok || !member(pid) {
		return unix.ESRCH
	}
	if !maySignal(caller, target) {
		return unix.EPERM
	}
	var p unsafe.Pointer
	if info != nil {
		p = unsafe.Pointer(&info[0])
	}
	_, _, errno := unix.Syscall6(unix.SYS_PIDFD_SEND_SIGNAL, uintptr(fd), uintptr(s), uintptr(p), 0, 0, 0)
	return errno
}

// maySignal is the rule of kill(2).
func maySignal(caller, target ids) bool {
	return caller.uid == 0 || caller.uid == target.realUID || caller.uid == target.savedUID ||
		caller.realUID == target.realUID || caller.realUID == target.savedUID
}
