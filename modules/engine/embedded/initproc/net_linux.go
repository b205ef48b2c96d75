package initproc

import (
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
)

// setupNetwork brings up loopback, the only interface a step has. For the
// gateway it also gives it the gateway's address and hands out the listeners:
// the executor answers on them from outside, nothing else leads out.
func setupNetwork(c *control, gateway bool) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bringing up the loopback interface: %w", err)
	}
	// as in other container engines: ports under 1024 without privilege
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	if !gateway {
		return nil
	}
	addr := &net.IPNet{IP: net.ParseIP(GatewayIP).To4(), Mask: net.CIDRMask(32, 32)}
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: addr}); err != nil {
		return fmt.Errorf("giving loopback the gateway's address: %w", err)
	}
	var fds []int
	for _, port := range []string{"80", "443"} {
		l, err := net.Listen("tcp4", net.JoinHostPort(GatewayIP, port))
		if err != nil {
			return fmt.Errorf("listening for the gateway: %w", err)
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			return fmt.Errorf("listening for the gateway: %w", err)
		}
		defer l.Close()
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	p, err := net.ListenPacket("udp4", net.JoinHostPort(GatewayIP, "53"))
	if err != nil {
		return fmt.Errorf("listening for name lookups: %w", err)
	}
	defer p.Close()
	f, err := p.(*net.UDPConn).File()
	if err != nil {
		return fmt.Errorf("listening for name lookups: %w", err)
	}
	defer f.Close()
	return c.send(Report{Listeners: true}, append(fds, int(f.Fd()))...)
}
