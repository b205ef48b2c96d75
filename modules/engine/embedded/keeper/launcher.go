package keeper

import "sync"

// Launcher orders programs from a keeper, over the other side of Launch's
// socket.
type Launcher struct {
	mu     sync.Mutex
	socket int
}
