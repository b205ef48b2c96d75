// Package jail holds the Linux confinement primitives that the embedded
// engine's executor and the step program share: capabilities, no-new-privs,
// Landlock, a seccomp filter, user-namespace helpers, and starting processes
// that do not outlive us.
//
// Functions that say "calling thread" act on one thread only: lock the
// goroutine to its thread first, and start the confined process from it.
package jail

import "strings"

// Capabilities is a set of Linux capabilities, bit n being capability n.
type Capabilities uint64

// DefaultCapabilities are the fourteen an ordinary container gets: chown,
// dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const DefaultCapabilities Capabilities = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 |
	1<<10 | 1<<13 | 1<<18 | 1<<27 | 1<<29 | 1<<31

// names of the capabilities, by number (linux/capability.h).
const capabilityNames = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP " +
	"LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE " +
	"SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME " +
	"SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG " +
	"WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"

// Names lists the set as CAP_… names, by number.
func (c Capabilities) Names() []string {
	out := []string{}
	for i, name := range strings.Fields(capabilityNames) {
		if c&(1<<i) != 0 {
			out = append(out, "CAP_"+name)
		}
	}
	return out
}

// State is the confinement a process is under, as the kernel tells it.
type State struct {
	NoNewPrivs  bool
	Seccomp     bool         // a filter is installed
	Effective   Capabilities // of the calling thread
	Bounding    Capabilities
	LandlockABI int      // what the kernel offers; 0: none
	UserNS      bool     // in a user namespace other than the first
	Interfaces  []string // network interfaces other than loopback
}

// FSRules is what Landlock leaves of the file system. Paths that do not exist
// are left out.
type FSRules struct {
	ReadOnly  []string // files and directories to read and execute
	ReadWrite []string // directories to do anything in
}

// IDRange is a range of subordinate ids.
type IDRange struct{ Start, Count int }
