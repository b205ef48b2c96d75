package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A process has one supervisor of its calls. So what is to have one of its own
// is not started by a program under the keeper, but by the keeper for it.

// raisedFD is above the descriptors of what is started.
const raisedFD = 1000

// launched is the answer to an order.
type launched struct {
	PID   int    `json:"pid,omitempty"`
	Error string `json:"error,omitempty"`
}

// launchFiles are an order's descriptors: the program and its first four.
const launchFiles = 5

// Launch starts a program for each order that comes over a socket (SEQPACKET),
// not under the keeper: its arguments, and its descriptors. It returns when the
// other side is gone.
func Launch(socket int) error {
	for {
		data, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*launchFiles))
		n, oobn, _, _, err := unix.Recvmsg(socket, data, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		var answer launched
		if answer.PID, err = launch(data[:n], oob[:oobn]); err != nil {
			answer.Error = err.Error()
		}
		b, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		if err := unix.Sendmsg(socket, b, nil, nil, 0); err != nil {
			return err
		}
	}
}

func launch(data, oob []byte) (int, error) {
	var fds []int
	messages, err := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	var args []string
	if err == nil {
		err = json.Unmarshal(data, &args)
	}
	if err != nil || len(fds) != launchFiles {
		return 0, fmt.Errorf("an order of %d descriptors: %w", len(fds), errors.Join(err, unix.EINVAL))
	}
	program, err := unix.FcntlInt(uintptr(fds[0]), unix.F_DUPFD_CLOEXEC, raisedFD)
	if err != nil {
		return 0, err
	}
	defer unix.Close(program)
	var files []uintptr
	for _, fd := range fds[1:] {
		files = append(files, uintptr(fd))
	}
	return syscall.ForkExec(ours(program).path, args, &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
}

// NewLauncher takes the socket over.
func NewLauncher(socket int) *Launcher { return &Launcher{socket: socket} }

// Start starts a program with four descriptors and returns its process id. It
// is the keeper's child.
func (l *Launcher) Start(program *os.File, args []string, files [4]*os.File) (int, error) {
	b, err := json.Marshal(args)
	if err != nil {
		return 0, err
	}
	fds := []int{int(program.Fd())}
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := unix.Sendmsg(l.socket, b, unix.UnixRights(fds...), nil, 0); err != nil {
		return 0, fmt.Errorf("ordering a process from the keeper: %w", err)
	}
	var answer launched
	data := make([]byte, 4096)
	n, err := unix.Read(l.socket, data)
	if err == nil {
		err = json.Unmarshal(data[:n], &answer)
	}
	if err != nil {
		return 0, fmt.Errorf("ordering a process from the keeper: %w", err)
	}
	if answer.Error != "" {
		return 0, fmt.Errorf("starting a process by the keeper: %s", answer.Error)
	}
	return answer.PID, nil
}
