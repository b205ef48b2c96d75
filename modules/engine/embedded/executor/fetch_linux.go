package executor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"drydock/modules/artifact"
)

type fetchKey struct{}

// WithFetch says for which build step the requests made under a context are.
func WithFetch(ctx context.Context, v Vertex) context.Context {
	return context.WithValue(ctx, fetchKey{}, v)
}

// FetchTransport sends a build's own requests (ADD of a URL) through the
// mirror gateway of the context, as a step's are: nothing but the mirrors
// answers, and what was fetched is a material of the step.
type FetchTransport struct {
	// Room is what one fetch under a context may bring. It is required.
	Room func(context.Context) Room
}

var _ http.RoundTripper = FetchTransport{}

// RoundTrip asks the gateway as a proxy is asked, also for https addresses: it
// speaks to the mirror in the mirror's own scheme.
func (t FetchTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	v, _ := ctx.Value(fetchKey{}).(Vertex)
	g := &link{socket: gatewayFrom(ctx), vertex: v}
	if g.socket == "" || v.Digest == "" {
		return nil, &artifact.Error{
			Kind: artifact.KindGate, Op: "fetching", Place: r.URL.Redacted(),
			Message: "refused by rule egress/mirror-only: this engine has no mirrors to fetch from",
			Remedy:  "put the file into the build context",
		}
	}
	control, err := g.dial(hello{Kind: "step", Step: v.Digest, Name: v.Name, Fetch: true})
	if err != nil {
		return nil, &gatewayFault{err}
	}
	f := &fetch{control: control, room: t.Room(ctx), place: r.URL.Redacted()}
	if f.conn, err = g.dial(hello{Kind: "conn", Proto: "http", Step: v.Digest}); err != nil {
		f.end(false)
		return nil, &gatewayFault{err}
	}
	f.stop = context.AfterFunc(ctx, func() { _ = f.conn.SetDeadline(time.Unix(1, 0)) })
	if err := r.WriteProxy(f.conn); err != nil {
		f.end(false)
		return nil, &gatewayFault{err}
	}
	resp, err := http.ReadResponse(bufio.NewReader(f.conn), r)
	if err != nil {
		f.end(false)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &gatewayFault{fmt.Errorf("reading the gateway's answer: %w", err)}
	}
	if resp.StatusCode == http.StatusForbidden {
		if refused := f.refusal(); refused != nil {
			resp.Body.Close()
			f.end(false)
			return nil, refused
		}
	}
	f.body = resp.Body
	resp.Body = f
	if r.Method == http.MethodGet && resp.StatusCode >= http.StatusBadRequest {
		return nil, unserved(r, resp)
	}
	if resp.ContentLength > f.room.Bytes {
		f.Close()
		return nil, f.exceeded()
	}
	return resp, nil
}

// mostSaid bounds what an answer that is no file may say, in bytes.
const mostSaid = 4 << 10

// unserved is an answer that is no file as an error. The source that asked would
// take it for one that has another checksum, or say its number alone.
func unserved(r *http.Request, resp *http.Response) error {
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, mostSaid)) // its status is enough
	reason, remedies, _ := strings.Cut(strings.TrimSpace(string(said)), "\n")
	reason, ours := strings.CutPrefix(reason, "drydock: ")
	if !ours { // a mirror's own words may be a page of HTML
		reason, remedies = "the mirror answered "+resp.Status, ""
	}
	if remedies != "" {
		reason += " (" + strings.ReplaceAll(remedies, "\n", "; ") + ")"
	}
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "fetching", Place: r.URL.Redacted(), Message: reason,
		Remedy: "mend the address, or see that a mirror serves it",
	}
}

// fetch is one request's connection to the gateway, as the body that is read.
type fetch struct {
	control, conn *net.UnixConn
	body          io.ReadCloser
	stop          func() bool
	whole         bool
	once          sync.Once
	room          Room   // is left
	place         string // the address
}

// Read notes whether the body was read to its end.
func (f *fetch) Read(p []byte) (int, error) {
	n, err := f.body.Read(p)
	if f.room.Bytes -= int64(n); f.room.Bytes < 0 {
		return 0, f.exceeded()
	}
	f.whole = f.whole || errors.Is(err, io.EOF)
	return n, err
}

func (f *fetch) exceeded() error {
	return &artifact.Error{
		Kind: artifact.KindUsage, Op: "fetching", Place: f.place, Message: f.room.Exceeded("it is larger than"),
		Remedy: "fetch what is needed of it in a RUN, or raise the limit",
	}
}

// Close has the gateway write down what was fetched.
func (f *fetch) Close() error {
	err := f.body.Close()
	f.end(f.whole)
	return err
}

func (f *fetch) end(ok bool) {
	f.once.Do(func() {
		if f.stop != nil {
			f.stop()
		}
		if f.conn != nil {
			f.conn.Close()
		}
		if json.NewEncoder(f.control).Encode(map[string]bool{"ok": ok}) == nil {
			_ = f.control.CloseWrite()
			_ = f.control.SetReadDeadline(time.Now().Add(persistTime))
			_, _ = io.Copy(io.Discard, f.control)
		}
		f.control.Close()
	})
}

// refusal is what the gateway said it refused, if it did.
func (f *fetch) refusal() error {
	_ = f.control.SetReadDeadline(time.Now().Add(time.Second))
	line, err := bufio.NewReader(f.control).ReadBytes('\n')
	var said struct{ Refused *refusal }
	if err != nil || json.Unmarshal(line, &said) != nil || said.Refused == nil {
		return nil
	}
	return said.Refused
}
