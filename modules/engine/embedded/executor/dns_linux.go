package executor

import (
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// answerNames answers every name with the gateway's address, so that whatever
// a step wants to reach, the gateway sees it and can say what was refused. It
// returns when the socket is closed.
func answerNames(p net.PacketConn, gateway netip.Addr, asked func(name string)) {
	buf := make([]byte, 1500)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		reply, name := answer(buf[:n], gateway)
		if reply == nil {
			continue
		}
		asked(name)
		_, _ = p.WriteTo(reply, from)
	}
}

// answer builds the reply to one query; nil when it is not one. Other types
// than A exist for no name (no data), which makes clients use A at once.
func answer(query []byte, gateway netip.Addr) (reply []byte, name string) {
	var parser dnsmessage.Parser
	h, err := parser.Start(query)
	if err != nil || h.Response {
		return nil, ""
	}
	q, err := parser.Question()
	if err != nil {
		return nil, ""
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: h.ID, Response: true, Authoritative: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
	})
	if b.StartQuestions() != nil || b.Question(q) != nil || b.StartAnswers() != nil {
		return nil, ""
	}
	if q.Type == dnsmessage.TypeA && q.Class == dnsmessage.ClassINET {
		a := dnsmessage.AResource{A: gateway.As4()}
		if b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, a) != nil {
			return nil, ""
		}
	}
	msg, err := b.Finish()
	if err != nil {
		return nil, ""
	}
	return msg, strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
}
