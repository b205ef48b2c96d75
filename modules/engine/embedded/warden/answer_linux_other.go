//go:build linux && !amd64

package warden

import "drydock/modules/jail/notify"

// oldHandler: there are no older calls here.
func (w *Warden) oldHandler(int) func(*notify.Request) notify.Response { return nil }

// quickOld answers nothing either.
func (w *Warden) quickOld(*notify.Request) (p notify.Response, ok bool) { return p, false }

func fixedCallsOld() map[string]fixedCall { return nil }

func fixedNumbersOld() map[int]string { return nil }

func isReadlink(int) bool { return false }

func linkedCallsOld() map[int]linkedCall { return nil }

func linkedOld() []string { return nil }
