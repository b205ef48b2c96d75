package mirror

import (
	"bytes"
	"net"
	"os"
	"strings"
	"time"
)

// plainGet is a request for a whole file and nothing more: what of it an answer
// may depend on.
type plainGet struct{ host, target, accept string }

// read reads a request's head (RFC 9112, 2 to 5); false leaves whatever is not a
// plain GET, or not written as clients write it, to the HTTP server.
func (q *plainGet) read(head []byte) bool {
	line, rest, _ := strings.Cut(string(head), "\r\n")
	target, ok := strings.CutPrefix(line, "GET /")
	target, ok2 := strings.CutSuffix(target, " HTTP/1.1")
	if !ok || !ok2 || strings.IndexByte(target, ' ') >= 0 || !printable(target) {
		return false
	}
	q.target = line[len("GET ") : len("GET ")+1+len(target)]
	for rest != "\r\n" {
		if line, rest, ok = strings.Cut(rest, "\r\n"); !ok || !q.field(line) {
			return false
		}
	}
	return q.host != ""
}

// field reads a header; false: the answer may depend on it.
func (q *plainGet) field(line string) bool {
	i := strings.IndexByte(line, ':')
	if i <= 0 || !isToken(line[:i]) || !printable(line) {
		return false
	}
	name, value := line[:i], strings.Trim(line[i+1:], " \t")
	switch len(name) {
	case len("host"):
		if strings.EqualFold(name, "host") {
			ok := q.host == "" && value != ""
			q.host = value
			return ok
		}
	case len("accept"):
		if strings.EqualFold(name, "accept") {
			ok := q.accept == "" && value != ""
			q.accept = value
			return ok
		}
	case len("connection"):
		if strings.EqualFold(name, "connection") {
			return strings.EqualFold(value, "keep-alive")
		}
	}
	return !changesAnswers(name)
}

// changesAnswers says whether a header asks for something else than the file, or
// says how the request goes on.
func changesAnswers(name string) bool {
	switch name[0] | 0x20 {
	case 'i':
		return len(name) > 3 && strings.EqualFold(name[:3], "if-")
	case 'r':
		return strings.EqualFold(name, "range")
	case 'c':
		return strings.EqualFold(name, "content-length")
	case 't':
		return strings.EqualFold(name, "transfer-encoding") || strings.EqualFold(name, "te") || strings.EqualFold(name, "trailer")
	case 'u':
		return strings.EqualFold(name, "upgrade")
	case 'e':
		return strings.EqualFold(name, "expect")
	}
	return false
}

// printable says whether a text has no bytes but those a head is written with.
func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\t' || c >= 0x7f {
			return false
		}
	}
	return true
}

// isToken says whether a header's name has letters, digits, - and _ only; other
// names are rare and left to the server.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i] | 0x20; {
		case 'a' <= c && c <= 'z', '0' <= s[i] && s[i] <= '9', s[i] == '-', s[i] == '_':
		default:
			return false
		}
	}
	return true
}

// The HTTP server reads a request's head when it begins with it, and while the
// request is answered it waits for one byte more, to see whether the client is
// still there. So the connection gives it one head at a time and keeps what
// follows: between two requests it looks at the next one first and answers it, if
// it knows how. The server then waits a little longer for its next one. Once a
// request has a body, or makes the connection something else, all that follows is
// the server's.

// rearm is how often the time a connection may be idle begins anew while the
// server does not see its requests.
const rearm = time.Minute

// next says that the server waits for another request.
func (c *stepConn) next() { c.between = !c.beyond && c.left == 0 && c.again != nil }

// Read implements net.Conn.
func (c *stepConn) Read(p []byte) (int, error) {
	if c.between {
		if err := c.answer(); err != nil {
			return 0, err
		}
	}
	switch {
	case c.left > 0:
		n, err := c.r.Read(p[:min(len(p), c.left)])
		c.left -= n
		return n, err
	case c.again == nil || c.beyond:
		return c.r.Read(p)
	}
	// the server waits for the client to go away
	if _, err := c.r.Peek(1); err != nil {
		return 0, err
	}
	select { // it sent its next request instead
	case <-c.enough:
		return 0, os.ErrDeadlineExceeded
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

// answer answers requests as far as they need no server.
func (c *stepConn) answer() error {
	for {
		head, err := c.head()
		if err != nil {
			return err
		}
		answered := false
		if head != nil {
			answered, err = c.again(c, head)
		}
		if err != nil {
			return err
		}
		if !answered {
			c.between, c.left, c.beyond = false, len(head), goesOn(head)
			select {
			case <-c.enough: // of the request before
			default:
			}
			return nil
		}
		if _, err := c.r.Discard(len(head)); err != nil {
			return err
		}
		if now := time.Now(); now.Sub(c.armed) > rearm {
			c.armed = now
			if err := c.Conn.SetReadDeadline(now.Add(idleTime)); err != nil {
				return err
			}
		}
	}
}

// SetReadDeadline implements net.Conn. A time that is over is how the server ends
// its waiting.
func (c *stepConn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		select {
		case c.enough <- struct{}{}:
		default:
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// head is that of the next request, if it came at once; it stays in the buffer.
func (c *stepConn) head() ([]byte, error) {
	if _, err := c.r.Peek(1); err != nil {
		return nil, err
	}
	b, err := c.r.Peek(c.r.Buffered())
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return b[:i+4], err
	}
	return nil, err
}

// goesOn says whether more than its head may belong to a request.
func goesOn(head []byte) bool {
	if !bytes.HasPrefix(head, []byte("GET ")) && !bytes.HasPrefix(head, []byte("HEAD ")) {
		return true
	}
	lower := bytes.ToLower(head)
	for _, name := range []string{"\ncontent-length", "\ntransfer-encoding", "\nupgrade", "\nexpect"} {
		if bytes.Contains(lower, []byte(name)) {
			return true
		}
	}
	return false
}
