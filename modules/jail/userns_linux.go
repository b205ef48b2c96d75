package jail

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// SubordinateIDs reads the ranges that file (/etc/subuid, /etc/subgid) gives
// the user, by name or number. A file that is not there gives none.
func SubordinateIDs(file, name string, uid int) ([]IDRange, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading subordinate ids: %w", err)
	}
	defer f.Close()
	var out []IDRange
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		parts := strings.Split(strings.TrimSpace(sc.Text()), ":")
		if len(parts) != 3 || (parts[0] != name && parts[0] != strconv.Itoa(uid)) {
			continue
		}
		start, err1 := strconv.Atoi(parts[1])
		count, err2 := strconv.Atoi(parts[2])
		if err1 != nil || err2 != nil || count <= 0 {
			continue // as the shadow tools do
		}
		out = append(out, IDRange{Start: start, Count: count})
	}
	return out, sc.Err()
}

// CountIDs sums the ranges.
func CountIDs(ranges []IDRange) int {
	n := 0
	for _, r := range ranges {
		n += r.Count
	}
	return n
}

// MapIDs runs helper (newuidmap or newgidmap) for the process: id 0 inside is
// id outside, and the ranges follow from 1 on, at most 65536 ids of them.
func MapIDs(ctx context.Context, helper string, pid, id int, ranges []IDRange) error {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(id), "1"}
	next := 1
	for _, r := range ranges {
		count := min(r.Count, 65537-next)
		if count <= 0 {
			break
		}
		args = append(args, strconv.Itoa(next), strconv.Itoa(r.Start), strconv.Itoa(count))
		next += count
	}
	cmd := exec.CommandContext(ctx, helper, args...)
	cmd.Env = []string{}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", helper, err, strings.TrimSpace(string(out)))
	}
	return nil
}
