package keeper

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// peer is getsockopt(SO_PEERCRED), by which servers on unix sockets let people
// in. It tells who the other end is now; the kernel would remember who it was
// when it connected.
func (c call) peer() notify.Response {
	var size uint32
	if c.ReadMemory(c.Args[4], bytesOf(&size)) != nil || size < unix.SizeofUcred {
		return notify.Continue()
	}
	group, _, err := c.status(c.PID)
	if err != nil {
		return notify.Continue()
	}
	pidfd, err := unix.PidfdOpen(group, 0)
	if err != nil {
		return notify.Continue()
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, int(c.fd(0)), 0)
	if err != nil {
		return notify.Continue()
	}
	defer unix.Close(fd)
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Pid == 0 {
		return notify.Continue()
	}
	who := c.ids.of(int(cred.Pid))
	_, inner, err := c.status(int(cred.Pid))
	if err != nil || who.euid == 0 && who.egid == 0 {
		return notify.Continue()
	}
	size = unix.SizeofUcred
	if c.WriteMemory(c.Args[4], bytesOf(&size)) != nil {
		return notify.Errno(unix.EFAULT)
	}
	return c.result(c.Args[3], bytesOf(&unix.Ucred{Pid: int32(inner), Uid: who.euid, Gid: who.egid}))
}

// status reads a process's number here and in its own process namespace.
func (c call) status(pid int) (here, inner int, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(string(line), ":")
		fields := strings.Fields(value)
		if key == "NStgid" && len(fields) > 0 {
			if here, err = strconv.Atoi(fields[0]); err != nil {
				return 0, 0, err
			}
			inner, err = strconv.Atoi(fields[len(fields)-1])
			return here, inner, err
		}
	}
	return 0, 0, unix.ESRCH
}
