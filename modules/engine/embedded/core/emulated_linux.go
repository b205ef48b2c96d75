package core

import (
	"github.com/moby/buildkit/solver/pb"

	"drydock/modules/engine/embedded/executor"
)

// Emulated is the architecture whose emulator the engine needs to run a
// platform's code here; "" when it needs none.
func Emulated(os, architecture, variant string) string {
	return executor.Emulated(&pb.Platform{OS: os, Architecture: architecture, Variant: variant})
}
