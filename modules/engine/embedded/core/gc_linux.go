package core

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/executor"
	"drydock/modules/wholefile"
)

const (
	// collectTime bounds collecting at the engine's end: somebody waits.
	collectTime = 10 * time.Second
	// collectEvery is how often a running engine looks whether it is time.
	collectEvery = 30 * time.Second
	// collectAge is how long no collecting at all is fine.
	collectAge = 24 * time.Hour
	// collectName is the file that says when it was done last.
	collectName = "collected.json"
)

// The default quota is a share of the disk, and some of the disk stays free.
const (
	quotaShare = 5  // a fifth of the disk
	floorShare = 20 // a twentieth of it stays free,
	floorMost  = 20 * gigabyte
	quotaLeast = 4 * gigabyte
)

// limits are what garbage collection goes by, in bytes.
type limits struct {
	quota int64 // the cache is at most that large
	floor int64 // so much of the disk stays free, but for what is reserved
}

// limitsOf are the limits on the disk that root is on.
func limitsOf(root string, quota int64) limits {
	var fs unix.Statfs_t
	total := int64(0)
	if unix.Statfs(root, &fs) == nil {
		total = int64(fs.Blocks) * fs.Bsize
	}
	l := limits{quota: quota, floor: min(total/floorShare, floorMost)}
	if quota == 0 {
		l.quota = max(total/quotaShare, quotaLeast)
	}
	return l
}

// policy keeps what is cheap to make again for two days once it is large, the
// rest for two months, and all of it under the quota. A tenth of that is kept
// also where others fill the disk.
func (l limits) policy() []client.PruneInfo {
	all := client.PruneInfo{MaxUsedSpace: l.quota, MinFreeSpace: l.floor, ReservedSpace: l.quota / 10}
	old, last := all, all
	old.KeepDuration = 60 * 24 * time.Hour
	last.All = true
	return []client.PruneInfo{
		{
			Filter:       []string{"type==source.local", "type==exec.cachemount"},
			KeepDuration: 48 * time.Hour, MaxUsedSpace: l.quota / 10,
		},
		old, all, last,
	}
}

// collected is how the disk was when garbage was collected last.
type collected struct {
	When time.Time
	Free int64
}

// due says whether enough was written since the last time to look at what the
// cache holds, which takes a while.
func (c *Core) due() bool {
	root, l := c.options.Root, limitsOf(c.options.Root, c.options.Quota)
	free := executor.FreeDisk(root)
	var last collected
	b, err := os.ReadFile(filepath.Join(root, collectName))
	if err != nil || json.Unmarshal(b, &last) != nil {
		c.noteCollected() // the first engine here has nothing to collect yet
		return false
	}
	return free < l.floor || last.Free-free > l.quota/50 || time.Since(last.When) > collectAge
}

func (c *Core) noteCollected() {
	b, err := json.Marshal(collected{When: time.Now(), Free: executor.FreeDisk(c.options.Root)})
	if err == nil {
		_ = wholefile.Write(filepath.Join(c.options.Root, collectName), b, wholefile.Options{}) // or it is looked again next time
	}
}

// collect removes what is over the quota, if it is time to look.
func (c *Core) collect(ctx context.Context) {
	if c.due() {
		c.collectNow(ctx)
	}
}

// collectLast is collect at the engine's end. Whatever ran is a reason to look:
// the disk tells nothing where others free what this engine took.
func (c *Core) collectLast(ctx context.Context) {
	if c.due() || c.members.made.Load() > 0 {
		c.collectNow(ctx)
	}
}

func (c *Core) collectNow(ctx context.Context) {
	freed, err := c.Prune(ctx, PruneOptions{})
	if err != nil {
		if c.options.Log != nil {
			fmt.Fprintf(c.options.Log, "collecting garbage: %v\n", err)
		}
		return
	}
	c.noteCollected()
	if freed.Records > 0 && c.options.Log != nil {
		fmt.Fprintf(c.options.Log, "garbage collection removed %d records, %.1f MB\n", freed.Records, float64(freed.Bytes)/1e6)
	}
}

// collectNowAndThen collects until ctx is done.
func (c *Core) collectNowAndThen(ctx context.Context) {
	c.due() // the disk as it was before the first build
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.collect(ctx)
		}
	}
}
