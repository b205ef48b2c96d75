package keeper

import (
	"sync"

	"golang.org/x/sys/unix"
)

// maxStandIns is how many descriptors that are a path only are remembered, with
// each of which one of ours is open; the oldest are forgotten, and are then
// empty files.
const maxStandIns = 512

// standIns are empty files without a name, and what each stands for: what a
// process was given in place of a descriptor that is a path only (O_PATH).
type standIns struct {
	mu  sync.Mutex
	m   map[fileID]int // opened with O_PATH
	age []fileID
}

// standFor opens what stands for a file.
func (in *Inside) standFor(f file) (int, error) {
	of, err := unix.Open(f.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	fd, err := unix.MemfdCreate("path", unix.MFD_CLOEXEC)
	if err != nil {
		unix.Close(of)
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(of)
		unix.Close(fd)
		return -1, err
	}
	s := &in.stand
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[fileID]int{}
	}
	id := fileID{st.Dev, st.Ino}
	if old, ok := s.m[id]; ok { // it was closed everywhere: the number is used again
		unix.Close(old)
	} else {
		s.age = append(s.age, id)
	}
	s.m[id] = of
	if len(s.age) > maxStandIns {
		unix.Close(s.m[s.age[0]])
		delete(s.m, s.age[0])
		s.age = s.age[1:]
	}
	return fd, nil
}

// meant is the file that a descriptor stands for, or the one that it is.
func (in *Inside) meant(f file) file {
	if !in.translates() {
		return f
	}
	s := &in.stand
	s.mu.Lock()
	defer s.mu.Unlock()
	var st unix.Stat_t
	if len(s.m) == 0 || unix.Stat(f.path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 0 {
		return f
	}
	of, ok := s.m[fileID{st.Dev, st.Ino}]
	if !ok {
		return f
	}
	fd, err := unix.FcntlInt(uintptr(of), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return f
	}
	return ours(fd)
}
