package executor

import "fmt"

// Limits bound what one step may take. 0 is the default of a field, which
// depends on the machine (DefaultLimits).
type Limits struct {
	Memory    int64 `json:",omitempty"` // bytes, of all its processes together
	Processes int   `json:",omitempty"` // processes and threads at a time
	Disk      int64 `json:",omitempty"` // bytes it may write to the engine's file system
	FreeDisk  int64 `json:",omitempty"` // bytes that must stay free there
	Files     int   `json:",omitempty"` // files one of its processes may have open
	Output    int64 `json:",omitempty"` // bytes it may print, on stdout and stderr together
}

// The names of limits, as the command line has them.
const (
	LimitMemory    = "memory"
	LimitProcesses = "processes"
	LimitDisk      = "disk"
	LimitFreeDisk  = "free-disk"
	LimitFiles     = "files"
	LimitOutput    = "output"
)

// exceeded says which limit a step was ended by, and how to mend it.
func exceeded(limit, said string) string {
	change := "raise"
	if limit == LimitFreeDisk {
		change = "make room, or lower"
	}
	return fmt.Sprintf("limit %s: %s (have it take less, or %s the limit with --step-limits %s=N)", limit, said, change, limit)
}

func (l Limits) tooMany() string {
	return exceeded(LimitProcesses, fmt.Sprintf("it had more than %d processes and threads", l.Processes))
}

func (l Limits) tooMuch() string {
	return exceeded(LimitMemory, "it used more than "+sized(l.Memory)+" of memory")
}

// sized is a number of bytes as people read it.
func sized(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
