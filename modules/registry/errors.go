package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"drydock/modules/artifact"
)

// ErrNotFound is in the chain of an error about something a registry does not have.
var ErrNotFound = errors.New("not found in the registry")

// worthRetry says which failures are tried again at once. A silent registry is
// not: it had its time.
func worthRetry(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false
	}
	// an upload that the registry has forgotten begins anew: the process that
	// held the embedded one may have ended meanwhile
	var answer *transport.Error
	if errors.As(err, &answer) {
		return slices.ContainsFunc(answer.Errors, func(d transport.Diagnostic) bool { return d.Code == transport.BlobUploadUnknownErrorCode })
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// sourceError marks a failure of reading inside a write.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// Fail turns err, met while doing op on the repository, into an error that says
// what to do. Errors that say so already, and cancellation, pass unchanged.
func (r *Repo) Fail(op string, err error) error {
	if err == nil {
		return nil
	}
	var known *artifact.Error
	if errors.As(err, &known) || errors.Is(err, context.Canceled) {
		return err
	}
	e := &artifact.Error{Kind: artifact.KindFault, Op: op, Place: r.String(), Err: err}
	e.Message, e.Remedy = r.explain(err)
	var te *transport.Error
	if errors.As(err, &te) {
		e.Err = errors.New(answer(te))
		if te.StatusCode == http.StatusNotFound {
			e.Err = fmt.Errorf("%w: %s", ErrNotFound, answer(te))
		}
	}
	return e
}

// answer is what the registry said, in one line and without the URL's query.
func answer(te *transport.Error) string {
	parts := make([]string, 0, len(te.Errors)+1)
	for _, d := range te.Errors {
		s := strings.TrimSpace(strings.Trim(string(d.Code)+": "+d.Message, ": "))
		if s != "" {
			parts = append(parts, s)
		}
	}
	head := fmt.Sprintf("the registry answered %d %s", te.StatusCode, http.StatusText(te.StatusCode))
	if te.Request != nil && te.Request.URL != nil {
		head += " to " + te.Request.Method + " " + te.Request.URL.Path
	}
	if len(parts) == 0 {
		return head
	}
	return head + ": " + strings.Join(parts, "; ")
}

func (r *Repo) explain(err error) (message, remedy string) {
	host := r.name.RegistryStr()
	var te *transport.Error
	if errors.As(err, &te) {
		return r.explainStatus(te, host)
	}
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		record   tls.RecordHeaderError
		dns      *net.DNSError
		timeout  net.Error
	)
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full", "free some space and run again"
	case errors.As(err, &unknown):
		return "its certificate is signed by a CA this machine does not trust",
			"name the CA's PEM file as `trust:` in catalog/mirrors.yaml"
	case errors.As(err, &hostname), errors.As(err, &invalid):
		return "its certificate does not fit", "check the registry's name and its certificate"
	case errors.As(err, &dns):
		return "its name does not resolve", "check the registry's name and, behind a proxy, HTTPS_PROXY and NO_PROXY"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("%s did not answer within %s", host, r.client.options.Timeout),
			"check that it is up and, behind a proxy, HTTPS_PROXY and NO_PROXY; then run again"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there", "check the registry's address and that it is up"
	case errors.As(err, &record), errors.Is(err, errPlainHTTP), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "it does not speak TLS", "serve it with TLS; plain HTTP is for registries on this machine"
	}
	return "", "check the registry, then run again"
}

func (r *Repo) explainStatus(te *transport.Error, host string) (message, remedy string) {
	switch c := te.StatusCode; {
	case c == http.StatusUnauthorized:
		return "it wants credentials, or others than these",
			fmt.Sprintf("log in to %s (docker login), or set DOCKER_AUTH_CONFIG or DRYDOCK_REGISTRY_USER and DRYDOCK_REGISTRY_PASSWORD", host)
	case c == http.StatusForbidden:
		return "these credentials may not do that",
			fmt.Sprintf("give the account rights on %s, or log in to %s with another", r.String(), host)
	case c == http.StatusNotFound:
		return "", "check repository and digest"
	case c == http.StatusTooManyRequests:
		return "it limits the rate of requests", "wait and run again"
	case strings.Contains(te.Error(), "no space left on device"):
		return "its disk is full", "free some space and run again"
	case c >= http.StatusInternalServerError:
		return "it is in trouble", "look at the registry's log, then run again"
	}
	return "it refused", "check that the registry takes OCI images and that the repository may be written"
}
