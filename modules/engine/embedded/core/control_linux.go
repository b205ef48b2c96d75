package core

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"drydock/modules/engine/embedded/executor"
	"drydock/modules/wholefile"
)

// protocol is the version of what is said on the control socket.
const protocol = 1

// discoveryName is the file in the state directory by which another drydock
// finds the running engine.
const discoveryName = "engine.json"

// request is what a drydock says first on a control connection.
type request struct {
	Do       string // doJoin, doStatus or doPrune
	Protocol int
	Build    string
	PID      int
	Gateway  string
	Images   string
	Prune    PruneOptions

	Emulators executor.Emulators `json:",omitempty"`
	Limits    executor.Limits
}

const (
	doJoin   = "join"
	doLeave  = "leave" // on a connection that has joined
	doStatus = "status"
	doPrune  = "prune"
)

// reply is the engine's answer.
type reply struct {
	Error  *wireError `json:",omitempty"`
	Ending bool       `json:",omitempty"` // everybody has left: wait until it is gone
	Other  bool       `json:",omitempty"` // it is of another program
	Member string     `json:",omitempty"` // the id that joining gave
	Last   bool       `json:",omitempty"` // the one who left was the last: the engine ends
	State  *State     `json:",omitempty"`
	Freed  *Freed     `json:",omitempty"`
}

// controlPath is where the control socket of an engine is, given the front's.
func controlPath(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".ctl" }

// controller answers other drydocks.
type controller struct {
	core    *Core
	self    Running
	starter func() // called when the process that started us has left
}

// listenControl makes the control socket and the discovery file. Both are
// there only while this engine holds the state's lock.
func listenControl(root string, self Running) (*net.UnixListener, error) {
	_ = os.Remove(self.Control)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: self.Control, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	b, err := json.Marshal(self)
	if err == nil {
		err = wholefile.Write(filepath.Join(root, discoveryName), b, wholefile.Options{})
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("telling other runs of the engine: %w", err)
	}
	return l, nil
}

func (s *controller) serve(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors: some will be closed
			continue
		}
		go s.answer(c)
	}
}

func (s *controller) answer(c *net.UnixConn) {
	defer c.Close()
	if !sameUser(c) {
		return
	}
	in := bufio.NewReader(c)
	_ = c.SetReadDeadline(time.Now().Add(controlTime))
	r, err := readLine[request](in)
	if err != nil {
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	say := func(r reply) { _ = json.NewEncoder(c).Encode(r) } // who does not listen has left
	switch r.Do {
	case doJoin:
		s.member(c, in, r, say)
	case doStatus:
		state, err := s.core.state(s.self)
		if err != nil {
			say(reply{Error: toWire(err)})
			return
		}
		say(reply{State: state})
	case doPrune:
		freed, err := s.core.Prune(s.core.ctx, r.Prune)
		if err != nil {
			say(reply{Error: toWire(err)})
			return
		}
		say(reply{Freed: freed})
	default:
		say(reply{Other: true})
	}
}

// member sees one drydock through from joining to leaving, or to its end.
func (s *controller) member(c *net.UnixConn, in *bufio.Reader, r request, say func(reply)) {
	if r.Protocol != protocol || r.Build != s.self.Build {
		say(reply{Other: true})
		return
	}
	m := s.core.members.join(Member{Gateway: r.Gateway, Images: r.Images, PID: r.PID, Emulators: r.Emulators, Limits: r.Limits})
	if m == nil {
		say(reply{Ending: true})
		return
	}
	say(reply{Member: m.ID})
	word, err := readLine[request](in)
	last := s.core.members.leave(m)
	if r.PID == s.self.Owner && s.starter != nil {
		s.starter()
	}
	if err != nil || word.Do != doLeave {
		return // killed
	}
	say(reply{Last: last})
	if last {
		select {} // the connection ends with us: then all is closed
	}
}

// sameUser lets in this user only.
func sameUser(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	we, err := ownCredentials()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ok = err == nil && cred.Uid == we.Uid
	})
	return err == nil && ok
}

// ownCredentials are ours as peers see them: a keeper of owners says that we
// are root.
func ownCredentials() (*unix.Ucred, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	return unix.GetsockoptUcred(ends[0], unix.SOL_SOCKET, unix.SO_PEERCRED)
}

func readLine[T any](in *bufio.Reader) (v T, err error) {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(line, &v)
}
