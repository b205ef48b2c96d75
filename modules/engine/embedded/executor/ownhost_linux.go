package executor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"drydock/modules/engine/embedded/initproc"
)

// request answers one connection to the gateway's port for plain HTTP. A request
// for one of the step's own hosts is taken there: not every client knows
// no_proxy (busybox's wget does not), and would be refused.
func (g *link) request(c closeWriter) {
	if len(g.hosts) == 0 {
		g.splice(c, "http")
		return
	}
	in := bufio.NewReader(c)
	line, err := in.ReadSlice('\n')
	begun := &begunConn{c, io.MultiReader(strings.NewReader(string(line)), in)}
	h, port, first := ownHost(g.hosts, string(line))
	if err != nil || h == nil {
		g.splice(begun, "http")
		return
	}
	defer g.drop(c)
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	out, err := h.Dial(ctx, port)
	cancel()
	if err != nil {
		fmt.Fprintf(g.stderr, "drydock: connecting to %s port %d: %v\n", h.Names[0], port.Number, err)
		return
	}
	defer out.Close()
	if _, err := io.WriteString(out, first); err != nil {
		return
	}
	Splice(&begunConn{c, in}, out)
}

// ownHost is the host a proxied request is for, and its first line as a server
// wants it. Only one request comes on the connection: the next may be for
// another host.
func ownHost(hosts []Host, line string) (*Host, Port, string) {
	words := strings.Fields(line)
	if len(words) != 3 {
		return nil, Port{}, ""
	}
	u, err := url.Parse(words[1])
	if err != nil || u.Scheme != "http" {
		return nil, Port{}, ""
	}
	port := Port{Number: 80}
	if text := u.Port(); text != "" {
		if port.Number, err = strconv.Atoi(text); err != nil {
			return nil, Port{}, ""
		}
	}
	for i, h := range hosts {
		named := slices.ContainsFunc(h.Names, func(n string) bool { return strings.EqualFold(n, u.Hostname()) })
		if named && slices.Contains(h.Ports, port) {
			return &hosts[i], port, words[0] + " " + u.RequestURI() + " " + words[2] + "\r\nConnection: close\r\n"
		}
	}
	return nil, Port{}, ""
}

// serves notes the ports that the step itself answers on.
func (s *step) serves(n Network) {
	for _, p := range n.Serves {
		s.spec.Serves = append(s.spec.Serves, initproc.Listen{Port: p.Number, UDP: p.UDP})
	}
}
