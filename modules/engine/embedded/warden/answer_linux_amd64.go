package warden

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// oldHandler handles calls that newer architectures do not have.
func (w *Warden) oldHandler(call int) func(*notify.Request) notify.Response {
	switch call {
	case unix.SYS_FORK, unix.SYS_VFORK:
		return w.start
	case unix.SYS_OPEN:
		return w.open
	case unix.SYS_READLINK:
		return w.readlink
	}
	return nil
}
