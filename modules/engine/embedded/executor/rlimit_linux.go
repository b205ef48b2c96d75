package executor

import (
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/initproc"
)

// rlimits translates the limits asked for; names are as in ulimit files.
func rlimits(asked []*pb.Ulimit) []initproc.Rlimit {
	numbers := map[string]int{
		"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
		"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK,
		"msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE,
		"nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
		"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
	}
	var out []initproc.Rlimit
	for _, u := range asked {
		if u == nil {
			continue
		}
		if n, ok := numbers[strings.ToLower(u.Name)]; ok {
			out = append(out, initproc.Rlimit{Resource: n, Soft: uint64(u.Soft), Max: uint64(u.Hard)})
		}
	}
	return out
}
