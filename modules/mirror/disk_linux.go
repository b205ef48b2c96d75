package mirror

import "golang.org/x/sys/unix"

// diskSize is the size of the disk a directory is on, in bytes; 0 when it cannot
// be asked.
func diskSize(dir string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0
	}
	return int64(st.Blocks) * st.Bsize //nolint:unconvert // not the same type everywhere
}
