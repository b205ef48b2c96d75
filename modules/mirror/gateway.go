package mirror

import (
	"errors"
	"io"
	"net"

	"drydock/modules/artifact"
)

var errSoon = errors.New("not there yet")

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
