package jail

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/jail/notify"
)

const givenDescriptors = 2000

// A signal that interrupts the supervisor while it gives a descriptor changes
// nothing for the caller: not the number it is told, not how many it has.
func TestNotifyGivesUnderSignals(t *testing.T) {
	if len(syscallTable()) == 0 {
		t.Skip("no filters for this architecture")
	}
	cmd, out, l := target(t, "given")
	var supervisor atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if tid := int(supervisor.Load()); tid != 0 {
				_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG) // as the runtime interrupts its threads
			}
			time.Sleep(time.Microsecond)
		}
	}()
	served := make(chan error, 1)
	go func() {
		served <- notify.Serve(l, 1, func(r *notify.Request) notify.Response {
			if r.Call != unix.SYS_SOCKET {
				return notify.Continue()
			}
			if supervisor.Load() == 0 {
				runtime.LockOSThread() // and never unlocked: it ends with the serving
				supervisor.Store(int64(unix.Gettid()))
			}
			fd, err := unix.MemfdCreate("given", unix.MFD_CLOEXEC)
			if err != nil {
				t.Error(err)
				return notify.Errno(unix.EIO)
			}
			return notify.GiveFD(fd, true)
		})
	}()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	close(stop)
	<-stopped
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// notifyGiven asks for descriptors: each must be the lowest free number.
func notifyGiven() int {
	lowest, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		println(err.Error())
		return 1
	}
	unix.Close(lowest)
	wrong := 0
	for range givenDescriptors {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		switch {
		case err != nil:
			println(err.Error())
			return 1
		case fd != lowest:
			wrong++
		default:
			unix.Close(fd)
		}
	}
	if wrong > 0 {
		println("of", givenDescriptors, "descriptors", wrong, "had another number than", lowest)
		return 1
	}
	return 0
}
