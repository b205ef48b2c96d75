package warden

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

func (w *Warden) signal(*notify.Request) notify.Response { return notify.Errno(unix.EPERM) }
