package blackbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"drydock/modules/sandbox/suite"
)

const (
	pollEvery   = 50 * time.Millisecond
	oneAttempt  = 3 * time.Second  // to connect, and for an answer
	stopGrace   = 10 * time.Second // between SIGTERM and SIGKILL
	serviceTail = 8 << 10          // output shown in a failure
	maxAnswer   = 1 << 20
)

// service starts the image, waits until it answers and stops it.
func (r *Runner) service(ctx context.Context, t suite.Service) problems {
	var p problems
	argv := t.Command
	if len(argv) == 0 {
		argv = append(append([]string{}, r.Image.Config.Entrypoint...), r.Image.Config.Cmd...)
	}
	out := &tail{keep: serviceTail}
	pr, err := start(argv, r.environ(t.EnvVars), r.workdir(), out, out)
	if err != nil {
		p.add("%v", err)
		return p
	}
	limit := t.Timeout.Or(suite.DefaultTimeout)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := await(ctx, pr, t, limit); err != nil {
		p.add("%v\noutput of the service: %s", err, excerpt(out.String()))
	}
	select {
	case <-pr.done: // it ended by itself, which await has said
		return p
	default:
	}
	pr.terminate()
	select {
	case <-pr.done:
		if t.ExitCode != nil && pr.code != *t.ExitCode {
			p.add("after SIGTERM the service ended with exit code %d, want %d", pr.code, *t.ExitCode)
		}
	case <-time.After(stopGrace):
		pr.kill()
		<-pr.done
		p.add("the service did not end within %s of SIGTERM\noutput of the service: %s", stopGrace, excerpt(out.String()))
	}
	return p
}

// await asks until the answer is right, the process ends or time is up. The
// error is what was wrong with the last answer.
func await(ctx context.Context, pr *process, t suite.Service, limit time.Duration) error {
	last := errors.New("it was not asked yet")
	for {
		select {
		case <-pr.done:
			return fmt.Errorf("the service ended before it answered: %s", pr.how)
		default:
		}
		attempt, cancel := context.WithTimeout(ctx, oneAttempt)
		err := ask(attempt, t)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || strings.HasPrefix(last.Error(), "it was") {
			last = err
		}
		select {
		case <-pr.done:
		case <-ctx.Done():
			return fmt.Errorf("no right answer on port %d within %s: %w", t.Port, limit, last)
		case <-time.After(pollEvery):
		}
	}
}

// ask tries the service once.
func ask(ctx context.Context, t suite.Service) error {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(t.Port))
	if t.HTTP != nil {
		return askHTTP(ctx, address, t.HTTP)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if t.Expect == "" {
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, t.Send); err != nil {
		return err
	}
	return expect(conn, t.Expect)
}

// expect reads until the pattern matches what came.
func expect(r io.Reader, pattern string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	var got []byte
	buf := make([]byte, 4096)
	for len(got) < maxAnswer {
		n, err := r.Read(buf)
		got = append(got, buf[:n]...)
		if re.Match(got) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the answer %q does not match %q (%w)", cut(got), pattern, err)
		}
	}
	return fmt.Errorf("the answer does not match %q in %d bytes", pattern, maxAnswer)
}

func cut(b []byte) []byte { return b[:min(len(b), 500)] }

func askHTTP(ctx context.Context, address string, h *suite.HTTP) error {
	target := "http://" + address + "/" + strings.TrimPrefix(h.Path, "/")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	want := h.Status
	if want == 0 {
		want = http.StatusOK
	}
	if resp.StatusCode != want {
		return fmt.Errorf("GET /%s answered %d, want %d: %q", strings.TrimPrefix(h.Path, "/"), resp.StatusCode, want, cut(body))
	}
	if !strings.Contains(string(body), h.Body) {
		return fmt.Errorf("the body %q does not contain %q", cut(body), h.Body)
	}
	for _, kv := range h.Header {
		got := resp.Header.Get(kv.Key)
		re, err := regexp.Compile(kv.Value)
		if (kv.IsRegex && (err != nil || !re.MatchString(got))) || (!kv.IsRegex && got != kv.Value) {
			return fmt.Errorf("header %s is %q, want %q", kv.Key, got, kv.Value)
		}
	}
	return nil
}
