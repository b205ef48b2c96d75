package mirror

import (
	"context"
	"errors"
	"io"
	"net"

	"drydock/modules/artifact"
	"drydock/modules/mirror/debian"
)

var errSoon = errors.New("not there yet")

// Set is the mirrors of this machine.
type Set struct{}

// Discover reads where the mirrors are. It touches no network; an ecosystem
// not found is an error only when it is asked for.
func Discover(ctx context.Context, cfg Config, host Host, cacheDir string) (*Set, error) {
	return &Set{}, nil
}

// Endpoint is where an ecosystem is fetched from. An ecosystem that is not
// configured gives an error that names the setting.
func (s *Set) Endpoint(ecosystem string) (Endpoint, error) { return Endpoint{}, errSoon }

// Debian lists the archives whose InRelease verifies.
func (s *Set) Debian(ctx context.Context) ([]DebianSource, error) { return nil, errSoon }

// Release fetches and verifies the Release document of one suite.
func (s *Set) Release(ctx context.Context, src DebianSource, suite string) (*Release, error) {
	return nil, errSoon
}

// Packages is the verified package index of one suite, component and
// architecture.
func (s *Set) Packages(ctx context.Context, src DebianSource, suite, component, arch string) ([]debian.Package, error) {
	return nil, errSoon
}

// Fetch gets one file through the content store.
func (s *Set) Fetch(ctx context.Context, req Request) (Blob, error) { return Blob{}, errSoon }

// FetchGoModule gets a module's zip, verified against the checksum database.
func (s *Set) FetchGoModule(ctx context.Context, module, version string) (Blob, error) {
	return Blob{}, errSoon
}

// FetchURL gets any URL with the mirrors' client (credentials, proxies,
// certificates). With a digest it is verified and kept, without it is asked
// for anew each time.
func (s *Set) FetchURL(ctx context.Context, rawURL string, want artifact.Digest) (Blob, error) {
	return Blob{}, errSoon
}

// Notes says what was left out of the configuration read, and why.
func (s *Set) Notes() []string { return nil }

// GatewayOptions configure a Gateway.
type GatewayOptions struct {
	CacheDir string    // materials are kept below it
	Log      io.Writer // nil discards
}

// Gateway lets build steps reach the mirrors and nothing else.
type Gateway struct{}

// NewGateway makes a gateway to the mirrors of a Set.
func NewGateway(s *Set, opt GatewayOptions) *Gateway { return &Gateway{} }

// Serve answers connections until the listener closes or Close is called.
func (g *Gateway) Serve(l net.Listener) error { return errSoon }

// Materials is what the steps of a build fetched. complete is false when the
// build or one of its steps is not known.
func (g *Gateway) Materials(build string) (materials []artifact.Material, complete bool) {
	return nil, false
}

// Close stops the gateway.
func (g *Gateway) Close() error { return nil }
