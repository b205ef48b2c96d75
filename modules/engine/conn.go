package engine

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"time"

	"dagger.io/dagger/engineconn"

	"drydock/modules/artifact"
)

// workdirHeader tells the engine child what relative host paths are relative to.
const workdirHeader = "X-Drydock-Workdir"

// conn is an engineconn.EngineConn over any dialer.
type conn struct {
	host    string
	client  *http.Client
	prepare func(*http.Request)
	fault   func(error) error // says what a transport error means; nil leaves it
	lookup  func(string) (string, bool)
	close   func() error
}

var _ engineconn.EngineConn = (*conn)(nil)

// Do sends one query.
func (c *conn) Do(r *http.Request) (*http.Response, error) {
	if c.prepare != nil {
		c.prepare(r)
	}
	if err := c.lend(r); err != nil {
		return nil, err
	}
	resp, err := c.client.Do(r)
	if err != nil && c.fault != nil {
		return nil, c.fault(err)
	}
	return resp, err
}

// envHeader carries the variables of env:// secrets that a query names, each as
// NAME=value in base64: the engine child has no environment of its own.
const envHeader = "X-Drydock-Env"

var envSecret = regexp.MustCompile(`env://([A-Za-z_][A-Za-z0-9_]*)`)

// lend gives a query the variables it names.
func (c *conn) lend(r *http.Request) error {
	if c.lookup == nil || r.GetBody == nil {
		return nil
	}
	body, err := r.GetBody()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	r.Header.Del(envHeader)
	for _, m := range envSecret.FindAllSubmatch(text, -1) {
		if value, ok := c.lookup(string(m[1])); ok {
			r.Header.Add(envHeader, base64.StdEncoding.EncodeToString([]byte(string(m[1])+"="+value)))
		}
	}
	return nil
}

// Host is what stands in the URL of a query.
func (c *conn) Host() string { return c.host }

// Close ends idle connections and whatever is behind the connection.
func (c *conn) Close() error {
	c.client.CloseIdleConnections()
	if c.close != nil {
		return c.close()
	}
	return nil
}

// sessionConn reaches the session `dagger run` left in the environment.
func sessionConn(port, token string) *conn {
	address := net.JoinHostPort("127.0.0.1", port)
	return &conn{
		host:    "dagger",
		client:  &http.Client{Transport: dialTransport("tcp", address)},
		prepare: func(r *http.Request) { r.SetBasicAuth(token, "") },
	}
}

// clientHeader tells the engine child which of those who joined it asks.
const clientHeader = "X-Drydock-Client"

// childConn reaches the engine child on its private socket.
func childConn(socket, member, workdir string, done <-chan struct{}) *conn {
	return &conn{
		host:   "drydock",
		client: &http.Client{Transport: dialTransport("unix", socket)},
		prepare: func(r *http.Request) {
			r.Header.Set(workdirHeader, workdir)
			r.Header.Set(clientHeader, member)
		},
		fault: func(err error) error { return childFault(err, done) },
	}
}

func dialTransport(network, address string) *http.Transport {
	return &http.Transport{
		MaxIdleConnsPerHost: 32,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}
}

// childFault says that the child is gone when it is; a cancelled query stays one.
func childFault(err error, done <-chan struct{}) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	message := "the engine did not answer"
	select {
	case <-done:
		message = "the engine process ended while it was working"
	case <-time.After(2 * time.Second): // its connections end before it does
	}
	return &artifact.Error{
		Kind: artifact.KindFault, Op: "asking the embedded engine", Message: message,
		Remedy: "run again; what was finished is kept in the cache (the engine's log may say why it ended)",
		Err:    err,
	}
}

// workingDir is where relative host paths start.
func workingDir(cfg Config) (string, error) {
	if cfg.Workdir != "" {
		return cfg.Workdir, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the working directory: %w", err)
	}
	return dir, nil
}
