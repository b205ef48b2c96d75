package warden

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

func (w *Warden) connectUnix(*notify.Request, *endpoint, address) notify.Response {
	return notify.Errno(unix.EPERM)
}

func (w *Warden) bindUnix(*notify.Request, *endpoint, address) notify.Response {
	return notify.Errno(unix.EPERM)
}
