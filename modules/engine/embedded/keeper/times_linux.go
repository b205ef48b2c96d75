package keeper

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

// timesForm is how a call is given the two times; a null pointer is now.
type timesForm int

const (
	timespecs timesForm = iota // utimensat(2)
	timevals                   // utimes(2)
	utimbuf                    // utime(2)
)

func (c call) setTimesAt(dir int32, name, times uint64, flags int, form timesForm) notify.Response {
	f, err := c.named(dir, name, flags)
	if err != nil {
		return c.otherwise(err)
	}
	defer f.close()
	return c.setTimes(f, times, form)
}

// setTimes keeps the record of a file whose access time would be set.
func (c call) setTimes(f file, times uint64, form timesForm) notify.Response {
	l, err := c.look(f)
	if c.in.translates() {
		return c.setBothTimes(f, l, err, times, form)
	}
	if err != nil || !l.marked {
		return notify.Continue()
	}
	mtime := unix.Timespec{Nsec: unix.UTIME_NOW}
	if times != 0 {
		if mtime, err = c.modified(times, form); err != nil {
			return notify.Errno(unix.EFAULT)
		}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, f.path, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}, 0); err != nil {
		return failure(err)
	}
	return notify.Return(0)
}

// setBothTimes does what the kernel would.
func (c call) setBothTimes(f file, l looked, err error, times uint64, form timesForm) notify.Response {
	if err == nil {
		err = c.mayChange(f)
	}
	if who := c.ids.of(c.PID); err == nil && who.fsuid != 0 && who.fsuid != l.uid {
		switch {
		case times != 0:
			err = unix.EPERM
		case !who.may(l, 2):
			err = unix.EACCES
		}
	}
	if err != nil {
		return failure(err)
	}
	both := [2]unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if times != 0 {
		if both, err = c.both(times, form); err != nil {
			return notify.Errno(unix.EFAULT)
		}
	}
	if c.ofMachine(f, l.Mode) {
		return notify.Return(0)
	}
	if l.marked {
		both[0] = unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, f.path, both[:], 0); err != nil {
		return failure(err)
	}
	return notify.Return(0)
}

// modified reads the second of the two times.
func (c call) modified(addr uint64, form timesForm) (unix.Timespec, error) {
	t, err := c.both(addr, form)
	return t[1], err
}

// both reads the two times.
func (c call) both(addr uint64, form timesForm) ([2]unix.Timespec, error) {
	if form == utimbuf {
		var t [2]int64
		err := c.ReadMemory(addr, bytesOf(&t))
		return [2]unix.Timespec{{Sec: t[0]}, {Sec: t[1]}}, err
	}
	var t [2]unix.Timespec
	err := c.ReadMemory(addr, bytesOf(&t))
	if form == timevals {
		t[0].Nsec, t[1].Nsec = t[0].Nsec*1000, t[1].Nsec*1000 // they were microseconds
	}
	return t, err
}
