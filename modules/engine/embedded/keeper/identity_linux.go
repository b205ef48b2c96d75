package keeper

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// identity is who a process believes to be. The zero value is root, as the
// kernel has it in our user namespace.
type identity struct {
	ruid, euid, suid, fsuid uint32
	rgid, egid, sgid, fsgid uint32
	groups                  string // little-endian numbers, sorted; see groupsKnown
	groupsKnown             bool   // else as the kernel tells them
}

// privileged: what CAP_SETUID, CAP_SETGID and CAP_CHOWN allow.
func (i identity) privileged() bool { return i.euid == 0 }

// in reports whether the group is one of the process's.
func (i identity) in(gid uint32) bool {
	return gid == i.fsgid || slices.Contains(i.groupList(), gid)
}

func (i identity) groupList() []uint32 {
	out := make([]uint32, 0, len(i.groups)/4)
	for b := i.groups; len(b) >= 4; b = b[4:] {
		out = append(out, uint32(b[0])|uint32(b[1])<<8|uint32(b[2])<<16|uint32(b[3])<<24)
	}
	return out
}

func packGroups(gids []uint32) string {
	gids = slices.Clone(gids)
	slices.Sort(gids)
	b := make([]byte, 0, 4*len(gids))
	for _, g := range gids {
		b = append(b, byte(g), byte(g>>8), byte(g>>16), byte(g>>24))
	}
	return string(b)
}

// may reports whether permission bits (4 read, 2 write, 1 search) allow it.
func (i identity) may(l looked, want uint32) bool {
	if i.fsuid == 0 {
		return true
	}
	shift := 0
	switch {
	case l.uid == i.fsuid:
		shift = 6
	case i.in(l.gid):
		shift = 3
	}
	return l.Mode>>shift&want == want
}

// mayChown as chown(2) has it: the owner may give a file to a group of hers.
func (i identity) mayChown(have owner, uid, gid uint32) bool {
	if i.fsuid == 0 {
		return true
	}
	return have.uid == i.fsuid && (uid == unchanged || uid == have.uid) &&
		(gid == unchanged || gid == have.gid || i.in(gid))
}

// identities remembers every identity somebody took. Which one a process has
// is the soft limit of RLIMIT_LOCKS, which means nothing since Linux 2.4.25
// (getrlimit(2)): fork and exec hand it down, and no other way tells a child
// from its parent without seeing the fork.
type identities struct {
	mu    sync.Mutex
	index map[identity]uint64
	list  []identity
}

const (
	tokenLimit = unix.RLIMIT_LOCKS
	// tokenBase keeps tokens apart from limits somebody set.
	tokenBase = 1 << 40
	// maxIdentities bounds what a step can make the keeper remember.
	maxIdentities = 1 << 16
)

func newIdentities() *identities { return &identities{index: map[identity]uint64{}} }

// of is who the process is.
func (t *identities) of(pid int) identity {
	var lim unix.Rlimit
	if err := unix.Prlimit(pid, tokenLimit, nil, &lim); err != nil || lim.Cur < tokenBase || lim.Cur == unix.RLIM_INFINITY {
		return identity{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := lim.Cur - tokenBase; n < uint64(len(t.list)) {
		return t.list[n]
	}
	return identity{}
}

// become makes the process somebody.
func (t *identities) become(pid int, i identity) error {
	n, err := t.number(i)
	if err != nil {
		return err
	}
	return unix.Prlimit(pid, tokenLimit, &unix.Rlimit{Cur: tokenBase + n, Max: unix.RLIM_INFINITY}, nil)
}

func (t *identities) number(i identity) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.index[i]; ok {
		return n, nil
	}
	if len(t.list) >= maxIdentities {
		return 0, unix.EAGAIN
	}
	n := uint64(len(t.list))
	t.list = append(t.list, i)
	t.index[i] = n
	return n, nil
}
