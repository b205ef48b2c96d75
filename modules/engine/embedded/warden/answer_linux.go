package warden

import (
	"os"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// answer handles one call.
func (w *Warden) answer(r *notify.Request) notify.Response {
	if handle := w.handler(r.Call); handle != nil {
		return handle(r)
	}
	p, known := w.changeFixed(r)
	if known && p != notify.Continue() {
		return p
	}
	if p, ok := w.linked(r); ok {
		return p
	}
	if _, ok := linkedCalls()[r.Call]; known || ok || isLinkedOld(r.Call) {
		return notify.Continue()
	}
	return w.otherProcess(r)
}

func (w *Warden) handler(call int) func(*notify.Request) notify.Response {
	switch call {
	case unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_READLINKAT, unix.SYS_FCHMODAT:
		return w.fileHandler(call)
	case unix.SYS_CLONE:
		return w.start
	case unix.SYS_EXECVE:
		return w.execve
	case unix.SYS_RT_SIGACTION:
		return w.sigaction
	case unix.SYS_SOCKET:
		return w.socket
	case unix.SYS_CONNECT:
		return w.connect
	case unix.SYS_BIND:
		return w.bind
	case unix.SYS_GETSOCKNAME:
		return w.getsockname
	case unix.SYS_GETSOCKOPT:
		return w.peerOf
	case unix.SYS_GETPEERNAME:
		return func(r *notify.Request) notify.Response { return w.portName(r, true) }
	case unix.SYS_UNAME:
		return w.uname
	case unix.SYS_PRCTL:
		// it would hide its memory from us; it is hidden from others anyhow
		return func(*notify.Request) notify.Response { return notify.Return(0) }
	case unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID,
		unix.SYS_SETRESGID, unix.SYS_SETFSUID, unix.SYS_SETFSGID:
		return w.changeID
	case unix.SYS_KILL, unix.SYS_TKILL, unix.SYS_TGKILL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO,
		unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_FCNTL:
		return w.signal
	}
	return w.oldHandler(call)
}

// fileHandler handles the calls whose path may be one of /proc.
func (w *Warden) fileHandler(call int) func(*notify.Request) notify.Response {
	switch call {
	case unix.SYS_OPENAT:
		return w.openat
	case unix.SYS_OPENAT2:
		return w.openat2
	case unix.SYS_READLINKAT:
		return w.readlinkat
	}
	return w.fchmodat
}

func isLinkedOld(call int) bool {
	_, ok := linkedCallsOld()[call]
	return ok
}

// start decides on fork and clone.
func (w *Warden) start(*notify.Request) notify.Response {
	if !w.mayStart() {
		return notify.Errno(unix.EAGAIN)
	}
	return notify.Continue()
}

// sigaction has handlers of SIGCHLD restart the calls that are handed to us.
func (w *Warden) sigaction(r *notify.Request) notify.Response {
	move := func(write bool) func(uint64, []byte) error {
		return func(addr uint64, b []byte) error {
			n, err := w.transfer(r, write, addr, b)
			if err == nil && n != len(b) {
				err = unix.EFAULT
			}
			return err
		}
	}
	notify.RestartAfter(move(false), move(true), r.Args[1])
	return notify.Continue()
}

// changeID keeps the memory of a process that is about to hide it.
func (w *Warden) changeID(r *notify.Request) notify.Response {
	if w.pid.Load() != 0 { // before, it shares its memory with us
		tgid := tgidOf(r.PID)
		w.memory.keep(tgid)
		// one that was made to execute something shares its parent's memory
		// until it does, and hides that too
		if p, ok := readProcess(tgid); ok && p.parent != os.Getpid() {
			w.memory.keep(p.parent)
		}
	}
	return notify.Continue()
}

// otherProcess lets calls that change a process go on for those of the step.
// The number is in a register: nobody changes it any more.
func (w *Warden) otherProcess(r *notify.Request) notify.Response {
	who := int(int32(r.Args[0]))
	switch r.Call {
	case unix.SYS_SETPRIORITY:
		if uint32(r.Args[0]) == unix.PRIO_USER || uint32(r.Args[0]) == unix.PRIO_PGRP {
			return notify.Errno(unix.EPERM)
		}
		who = int(int32(r.Args[1]))
	case unix.SYS_IOPRIO_SET:
		if uint32(r.Args[0]) != 1 { // IOPRIO_WHO_PROCESS
			return notify.Errno(unix.EPERM)
		}
		who = int(int32(r.Args[1]))
	}
	if who == 0 || who == r.PID || who > 0 && member(who) {
		return notify.Continue()
	}
	return notify.Errno(unix.ESRCH)
}

// uname tells the step's host name and not the container's.
func (w *Warden) uname(r *notify.Request) notify.Response {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return notify.Errno(errnoOf(err))
	}
	if w.config.Hostname == "" {
		return notify.Continue()
	}
	clear(u.Nodename[:])
	copy(u.Nodename[:len(u.Nodename)-1], w.config.Hostname)
	b := append(append(append(append(append(append([]byte{}, u.Sysname[:]...), u.Nodename[:]...), u.Release[:]...),
		u.Version[:]...), u.Machine[:]...), u.Domainname[:]...)
	if w.write(r, r.Args[0], b) != nil {
		return notify.Continue()
	}
	return notify.Return(0)
}
