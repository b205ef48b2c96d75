package warden

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// glibc's getaddrinfo sorts what it found by connecting, addresses of both
// versions on one socket.
func TestConnectDatagram(t *testing.T) {
	w := &Warden{config: Config{Own: "127.1.2.2"}}
	for _, tc := range []struct {
		socket, family int
		ip             string
		want           notify.Response
	}{
		{unix.AF_INET, unix.AF_INET, "127.0.0.1", notify.Return(0)},
		{unix.AF_INET6, unix.AF_INET6, "::1", notify.Return(0)},
		{unix.AF_INET6, unix.AF_INET, "127.0.0.1", notify.Errno(unix.EAFNOSUPPORT)},
		{unix.AF_INET6, unix.AF_UNSPEC, "::", notify.Return(0)},
		{unix.AF_INET, unix.AF_INET, "192.0.2.1", notify.Errno(unix.ENETUNREACH)},
	} {
		if got := w.connectDatagram(tc.socket, address{family: tc.family, ip: netip.MustParseAddr(tc.ip)}); got != tc.want {
			t.Errorf("%+v: %+v", tc, got)
		}
	}
}
