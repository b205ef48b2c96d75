package initproc

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// setupNetwork brings up loopback, the only interface a step has. For the
// gateway it also gives it the gateway's address and hands out the listeners:
// the executor answers on them from outside, nothing else leads out. It is
// done in ioctls (netdevice(7)): a netlink library would be most of this
// program.
func setupNetwork(c *control, gateway bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the loopback interface: %w", err)
	}
	defer unix.Close(fd)
	if err := setInterface(fd, "lo", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error {
		r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_LOOPBACK)
		return nil
	}); err != nil {
		return fmt.Errorf("bringing up the loopback interface: %w", err)
	}
	// as in other container engines: ports under 1024 without privilege
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	if !gateway {
		return nil
	}
	address := netip.MustParseAddr(GatewayIP).As4()
	for _, set := range []struct {
		request uint
		value   [4]byte
	}{{unix.SIOCSIFADDR, address}, {unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 255}}} {
		// a label makes it a further address
		err := setInterface(fd, "lo:0", set.request, func(r *unix.Ifreq) error { return r.SetInet4Addr(set.value[:]) })
		if err != nil {
			return fmt.Errorf("giving loopback the gateway's address: %w", err)
		}
	}
	return handOut(c, address)
}

func setInterface(fd int, name string, request uint, fill func(*unix.Ifreq) error) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := fill(r); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, request, r)
}

// handOut listens on the gateway's ports and sends the listeners.
func handOut(c *control, address [4]byte) error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, l := range []struct{ kind, port int }{
		{unix.SOCK_STREAM, 80}, {unix.SOCK_STREAM, 443}, {unix.SOCK_DGRAM, 53},
	} {
		fd, err := unix.Socket(unix.AF_INET, l.kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("listening for the gateway: %w", err)
		}
		fds = append(fds, fd)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: l.port, Addr: address}); err != nil {
			return fmt.Errorf("listening for the gateway: port %d: %w", l.port, err)
		}
		if l.kind != unix.SOCK_STREAM {
			continue
		}
		if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
			return fmt.Errorf("listening for the gateway: port %d: %w", l.port, err)
		}
	}
	return c.send(Report{Listeners: true}, fds...)
}
