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
func setupNetwork(c *control, s Spec) error {
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
	var addresses []string
	if s.Gateway {
		addresses = append(addresses, GatewayIP)
	}
	for i, text := range append(addresses, s.Addresses...) {
		if err := addAddress(fd, fmt.Sprintf("lo:%d", i), text); err != nil {
			return fmt.Errorf("giving loopback the address %s: %w", text, err)
		}
	}
	if !s.Gateway && len(s.Listen) == 0 {
		return nil
	}
	return handOut(c, s)
}

// addAddress gives an interface a further address: a label makes it one.
func addAddress(fd int, label, text string) error {
	address, err := netip.ParseAddr(text)
	if err != nil || !address.Is4() {
		return fmt.Errorf("not an IPv4 address: %w", err)
	}
	for _, set := range []struct {
		request uint
		value   [4]byte
	}{{unix.SIOCSIFADDR, address.As4()}, {unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 255}}} {
		err := setInterface(fd, label, set.request, func(r *unix.Ifreq) error { return r.SetInet4Addr(set.value[:]) })
		if err != nil {
			return err
		}
	}
	return nil
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

// handOut listens where the executor answers and sends the listeners.
func handOut(c *control, s Spec) error {
	var list []Listen
	if s.Gateway {
		list = s.gatewayPorts()
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, l := range append(list, s.Listen...) {
		fd, err := listen(l)
		if err != nil {
			return fmt.Errorf("listening on %s, port %d: %w", l.Address, l.Port, err)
		}
		fds = append(fds, fd)
	}
	return c.send(Report{Listeners: true}, fds...)
}

func socketKind(udp bool) int {
	if udp {
		return unix.SOCK_DGRAM
	}
	return unix.SOCK_STREAM
}

func listen(l Listen) (int, error) {
	address, err := netip.ParseAddr(l.Address)
	if err != nil || !address.Is4() {
		return 0, fmt.Errorf("%q is not an IPv4 address", l.Address)
	}
	fd, err := unix.Socket(unix.AF_INET, socketKind(l.UDP)|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = unix.Bind(fd, &unix.SockaddrInet4{Port: l.Port, Addr: address.As4()})
	if err == nil && !l.UDP {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// dial connects to a port of the step as its peers do.
func dial(d Dial) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, socketKind(d.UDP)|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	own, peer := netip.MustParseAddr(OwnIP).As4(), netip.MustParseAddr(PeerIP).As4()
	err = unix.Bind(fd, &unix.SockaddrInet4{Addr: peer})
	if err == nil {
		// a full queue of a server must not hold us up for minutes
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SYNCNT, 3)
		if d.UDP {
			err = nil
		}
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: d.Port, Addr: own})
	}
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}
