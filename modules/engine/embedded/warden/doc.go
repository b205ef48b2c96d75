// Package warden guards a step where the kernel gives neither namespaces nor
// mounts: an ordinary container, as its root. The command is confined by
// chroot, fewer capabilities, no-new-privs, Landlock and a seccomp filter that
// hands some system calls over; the warden, outside of all that, answers them.
//
// What holds, holds without trusting what a caller's memory says twice: an
// address is read once and the warden itself connects or binds, on the one
// open socket that it and the caller share. Where the kernel executes a call
// after all (Continue), Landlock or the change of root bounds what it can do.
// Answers about /proc are a comfort, never a boundary.
//
// The package is linked into the step's init, so it imports little.
package warden

// Config is what a step is confined to.
type Config struct {
	Root     string   // directory that becomes the step's root
	ReadOnly bool     // the root may not be written
	Writable []string // paths in Root that may be, all the same
	Fixed    []Fixed  // what was mounted read-only
	ABI      int      // Landlock ABI to use; 0: none
	Own      string   // loopback address that is the step's 127.0.0.1
	Gateway  string   // loopback address of the mirror gateway; "": none
	Hostname string   // as the step sees it

	// Hosts are the gateway and the services that the step may connect to, by
	// address:port, and the port each is listened for on.
	Hosts map[string]int

	// Programs is where the step's programs are made that are executed without
	// changing the root (tier T3), beside Loaders and KeptPrograms; "": the root is
	// changed.
	Programs string

	MaxProcesses int    // processes and threads at a time; 0: no limit
	TooMany      string // why a step that had more was ended
}

// Fixed is a file or directory that is not to be written: who tries is told so.
type Fixed struct {
	Path string // as the step sees it
	Dir  bool
}

// ScopedABI is the first Landlock ABI that bounds signals and abstract unix
// sockets. Below it the warden does both.
const ScopedABI = 6

// MovedPort is where a step's server listens in tier T3 for a port that its user
// may not have. All are told of the port that was meant.
func MovedPort(port int) int { return 58000 + port }

// Rlimit is one resource limit.
type Rlimit struct {
	Resource  int
	Soft, Max uint64
}

// Command is what a step runs.
type Command struct {
	Path     string // in the step's root, or relative to Cwd
	Args     []string
	Env      []string
	Cwd      string
	UID, GID uint32
	Groups   []uint32
	Rlimits  []Rlimit
	Files    []uintptr // standard streams; nil: ours
}
