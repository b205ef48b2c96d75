package executor

import (
	"context"
	"errors"

	"drydock/modules/artifact"
)

type gatewayKey struct{}

// WithGateway says which gateway the steps run under a context have, by its
// socket; "" leaves them with loopback only. An Executor that has a gateway of
// its own uses that.
func WithGateway(ctx context.Context, socket string) context.Context {
	return context.WithValue(ctx, gatewayKey{}, socket)
}

func gatewayFrom(ctx context.Context) string {
	socket, _ := ctx.Value(gatewayKey{}).(string)
	return socket
}

var errGatewayLost error = &artifact.Error{
	Kind: artifact.KindFault, Op: "running the step", Message: "its mirror gateway ended before it did",
	Remedy: "run again",
}

// GatewayLost reports whether a step failed because its gateway ended or was
// never there: with another one it may well succeed.
func GatewayLost(err error) bool {
	var fault *gatewayFault
	return errors.Is(err, errGatewayLost) || errors.As(err, &fault)
}
