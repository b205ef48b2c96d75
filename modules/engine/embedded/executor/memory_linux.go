package executor

import (
	"bufio"
	"math"
	"os"
	"strconv"
	"strings"
)

// availableMemory is the memory of this machine or, where that is less, of the
// container or control group, in bytes.
func availableMemory() int64 {
	least := int64(math.MaxInt64 / 2)
	if n := meminfo("MemTotal:"); n > 0 {
		least = n
	}
	if n, ok := leastInCgroups("memory", "memory.max", "memory.limit_in_bytes"); ok {
		least = min(least, n)
	}
	return least
}

// meminfo is a line of /proc/meminfo in bytes; 0 when it cannot be read.
func meminfo(name string) int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), name); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(v, "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}
