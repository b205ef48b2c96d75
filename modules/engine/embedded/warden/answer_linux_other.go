//go:build linux && !amd64

package warden

import "drydock/modules/jail/notify"

// oldHandler: there are no older calls here.
func (w *Warden) oldHandler(int) func(*notify.Request) notify.Response { return nil }
