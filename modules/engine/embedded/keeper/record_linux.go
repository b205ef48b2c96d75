package keeper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// attribute holds "uid:gid" on files and directories whose owner is not the
// one real user, who stands for root.
const attribute = "user.drydock.owner"

// Links and special files have no attributes for us. Their record is an access
// time in the year 2037, which reading does not change (relatime): the seconds
// past markBase are the user, the nanoseconds the group.
const (
	markBase = 0x7f000000
	maxUser  = 1 << 24
	maxGroup = 1_000_000_000
)

type owner struct{ uid, gid uint32 }

// looked is a file and what is recorded of it.
type looked struct {
	unix.Stat_t
	owner
	recorded bool
	marked   bool   // the record is in the access time
	disk     uint32 // the mode the kernel knows, when another was meant
	meant    bool   // Mode is not what the kernel knows
}

func attributed(mode uint32) bool {
	return mode&unix.S_IFMT == unix.S_IFREG || mode&unix.S_IFMT == unix.S_IFDIR
}

func look(f file) (looked, error) {
	var l looked
	var err error
	if f.fd >= 0 {
		err = unix.Fstat(f.fd, &l.Stat_t)
	} else {
		err = unix.Stat(f.path, &l.Stat_t)
	}
	if err != nil {
		return l, f.why(err)
	}
	if attributed(l.Mode) {
		var b [32]byte
		n, err := unix.Getxattr(f.path, attribute, b[:])
		if err == nil {
			l.owner, l.recorded = l.parse(string(b[:n]))
			return l, nil
		}
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return l, nil
		}
	}
	if s := l.Atim.Sec; s >= markBase && s < markBase+maxUser {
		l.owner, l.recorded, l.marked = owner{uint32(s - markBase), uint32(l.Atim.Nsec)}, true, true
		l.Atim = l.Mtim
	}
	l.recorded = l.recorded && l.owner != owner{}
	return l, nil
}

// parse reads a record: the owner and, where the kernel was given another, the
// mode that was meant.
func (l *looked) parse(s string) (owner, bool) {
	if i := strings.LastIndexByte(s, ':'); strings.Count(s, ":") == 2 {
		m, err := strconv.ParseUint(s[i+1:], 8, 12)
		if err != nil {
			return owner{}, false
		}
		s, l.disk, l.meant = s[:i], l.Mode, true
		l.Mode = l.Mode&unix.S_IFMT | uint32(m)
	}
	return parseOwner(s)
}

func parseOwner(s string) (owner, bool) {
	u, g, ok := strings.Cut(s, ":")
	uid, err1 := strconv.ParseUint(u, 10, 32)
	gid, err2 := strconv.ParseUint(g, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return owner{}, false
	}
	return owner{uint32(uid), uint32(gid)}, true
}

func (o owner) String() string { return fmt.Sprintf("%d:%d", o.uid, o.gid) }

// record writes the owner of a file that look has seen.
func record(f file, l looked, o owner) error {
	if !attributed(l.Mode) || l.marked {
		return mark(f, l, o)
	}
	text := o.String()
	if l.meant {
		text += ":" + strconv.FormatUint(uint64(l.Mode&0o7777), 8)
	}
	var err error
	if (o == owner{}) && !l.meant {
		err = unix.Removexattr(f.path, attribute)
		if errors.Is(err, unix.ENODATA) {
			err = nil
		}
	} else {
		err = unix.Setxattr(f.path, attribute, []byte(text), 0)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return mark(f, l, o)
	}
	return err
}

func mark(f file, l looked, o owner) error {
	if o.uid >= maxUser || o.gid >= maxGroup {
		return unix.EINVAL
	}
	atime := unix.Timespec{Sec: markBase + int64(o.uid), Nsec: int64(o.gid)}
	if (o == owner{}) {
		if !l.marked {
			return nil
		}
		atime = l.Mtim
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, f.path, []unix.Timespec{atime, {Nsec: unix.UTIME_OMIT}}, 0)
}

// Check says whether owners can be recorded in dir.
func Check(dir string) error {
	f, err := os.CreateTemp(dir, "owner")
	if err != nil {
		return fmt.Errorf("recording owners: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := unix.Fsetxattr(int(f.Fd()), attribute, []byte("1:1"), 0); err != nil {
		return fmt.Errorf("the file system of %s keeps no user attributes, in which owners are recorded: %w", dir, err)
	}
	return nil
}
