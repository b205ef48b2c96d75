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
		return notify.Continue()
	}
	defer f.close()
	return c.setTimes(f, times, form)
}

// setTimes keeps the record of a file whose access time would be set.
func (c call) setTimes(f file, times uint64, form timesForm) notify.Response {
	l, err := look(f)
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

// modified reads the second of the two times.
func (c call) modified(addr uint64, form timesForm) (unix.Timespec, error) {
	if form == utimbuf {
		var t [2]int64
		err := c.ReadMemory(addr, bytesOf(&t))
		return unix.Timespec{Sec: t[1]}, err
	}
	var t [2]unix.Timespec
	err := c.ReadMemory(addr, bytesOf(&t))
	if form == timevals {
		t[1].Nsec *= 1000 // they were microseconds
	}
	return t[1], err
}
