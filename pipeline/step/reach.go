package main

import (
	"context"
	"flag"
	"net"
	"slices"
	"sync"
	"time"

	"drydock/modules/steprun/wire"
)

// reachTime bounds the wait for one address.
const reachTime = 5 * time.Second

// runReach is the exception to what the package says: it tries the network it
// was given.
func runReach(ctx context.Context, args []string, std streams) error {
	fs := flag.NewFlagSet("reach", flag.ContinueOnError)
	outJSON := fs.String("out-json", "", "file for what was reached, as JSON")
	var addresses list
	fs.Var(&addresses, "address", "host:port to connect to; may be repeated")
	if err := parse(fs, args, std, "out-json"); err != nil {
		return err
	}
	return writeJSON(*outJSON, reach(ctx, addresses))
}

// reach connects to each address and sends nothing.
func reach(ctx context.Context, addresses []string) *wire.Reach {
	out := &wire.Reach{Version: wire.Version, Tried: addresses, Reached: []string{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, a := range addresses {
		all.Go(func() {
			c, err := (&net.Dialer{Timeout: reachTime}).DialContext(ctx, "tcp", a)
			if err != nil {
				return // which is the answer
			}
			_ = c.Close()
			mu.Lock()
			defer mu.Unlock()
			out.Reached = append(out.Reached, a)
		})
	}
	all.Wait()
	slices.Sort(out.Reached)
	return out
}

// list is a flag.Value that collects words.
type list []string

// String implements flag.Value.
func (l *list) String() string { return "" }

// Set implements flag.Value.
func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}
