package warden

import (
	"golang.org/x/sys/unix"

	"drydock/modules/jail"
)

// Capabilities are what a step keeps of a container's fourteen: not those to
// leave its root, to make device nodes and to write raw packets.
const Capabilities = jail.DefaultCapabilities &^ (1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_MKNOD | 1<<unix.CAP_NET_RAW)

const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// Rules are the exceptions of a step's filter from the profile of containers,
// for a Landlock ABI. fixed: a directory is mounted read-only.
func Rules(abi int, fixed bool) []jail.Rule {
	rules := append(fileRules(fixed), socketRules(abi >= ScopedABI)...)
	rules = append(rules, processRules()...)
	if abi < ScopedABI {
		rules = append(rules, signalRules()...)
	}
	return rules
}

func notified(calls ...string) []jail.Rule {
	var out []jail.Rule
	for _, c := range calls {
		out = append(out, jail.Rule{Call: c, Action: jail.Notify})
	}
	return out
}

func refused(errno unix.Errno, calls ...string) []jail.Rule {
	var out []jail.Rule
	for _, c := range calls {
		out = append(out, jail.Rule{Call: c, Action: jail.Refuse, Errno: uint32(errno)})
	}
	return out
}

func when(tests ...jail.Test) []jail.Test { return tests }

func is(arg int, value uint32) jail.Test { return jail.Test{Arg: arg, Value: value} }

func isNot(arg int, value uint32) jail.Test { return jail.Test{Arg: arg, Value: value, Not: true} }

// fileRules: what may be asking for /proc is handed over, for its answers are
// made up. That costs time for every file, so that the kernel goes on by itself
// where its arguments tell that it is not: what starts at an open directory,
// what must not be there yet and what follows no link. With fixed directories
// all that may write there is handed over too.
func fileRules(fixed bool) []jail.Rule {
	if fixed {
		return notified(append([]string{"open", "openat", "readlink", "readlinkat", "getxattr", "listxattr"}, fixedCalls()...)...)
	}
	const made = unix.O_CREAT | unix.O_EXCL
	cwd := unix.AT_FDCWD
	var rules []jail.Rule
	for call, flags := range map[string]int{"open": 1, "openat": 2} {
		if call == "openat" {
			rules = append(rules, jail.Rule{Call: call, If: when(isNot(0, uint32(cwd))), Action: jail.Allow})
		}
		rules = append(rules,
			jail.Rule{Call: call, If: when(jail.Test{Arg: flags, Mask: made, Value: made}), Action: jail.Allow},
			jail.Rule{Call: call, If: when(jail.Test{Arg: flags, Mask: unix.O_NOFOLLOW, Value: unix.O_NOFOLLOW}), Action: jail.Allow})
	}
	for _, call := range []string{"readlinkat", "fchmodat"} {
		rules = append(rules, jail.Rule{Call: call, If: when(isNot(0, uint32(cwd))), Action: jail.Allow})
	}
	return append(append(rules, linkedRules()...), notified("open", "openat", "readlink", "readlinkat", "chmod", "fchmodat")...)
}

// socketRules: inet sockets are made, bound and connected by the warden, and
// nothing sends without connect. Landlock watches over unix sockets when it
// scopes them, else the warden makes those too, but for datagrams: each of
// them can carry an address of its own.
func socketRules(scoped bool) []jail.Rule {
	const sockTypes = 0xf
	unixFamily := jail.Rule{Call: "socket", If: when(is(0, unix.AF_UNIX)), Action: jail.Notify}
	if scoped {
		unixFamily.Action = jail.Allow
	}
	rules := []jail.Rule{
		unixFamily,
		{Call: "socket", If: when(is(0, unix.AF_INET)), Action: jail.Notify},
		{Call: "socket", If: when(is(0, unix.AF_INET6)), Action: jail.Notify},
	}
	if scoped { // else binding one would be a call that the kernel goes on with
		rules = append(rules, jail.Rule{Call: "socket", If: when(is(0, unix.AF_NETLINK), is(2, unix.NETLINK_ROUTE)), Action: jail.Allow})
	}
	rules = append(rules, refused(unix.EAFNOSUPPORT, "socket")...)
	pair := func(kind uint32) jail.Rule {
		return jail.Rule{Call: "socketpair", If: when(is(0, unix.AF_UNIX), jail.Test{Arg: 1, Mask: sockTypes, Value: kind}), Action: jail.Allow}
	}
	rules = append(rules, pair(unix.SOCK_STREAM), pair(unix.SOCK_SEQPACKET))
	if scoped {
		rules = append(rules, pair(unix.SOCK_DGRAM))
	}
	rules = append(rules, refused(unix.EAFNOSUPPORT, "socketpair")...)
	rules = append(rules, notified("connect", "bind")...)
	if !scoped {
		rules = append(rules, notified("getsockname")...)
	}
	for call, flags := range map[string]int{"sendto": 3, "sendmsg": 2, "sendmmsg": 3} {
		rules = append(rules, jail.Rule{
			Call: call, Action: jail.Refuse, Errno: uint32(unix.EOPNOTSUPP),
			If: when(jail.Test{Arg: flags, Mask: unix.MSG_FASTOPEN, Value: unix.MSG_FASTOPEN}),
		})
	}
	for _, option := range [][2]uint32{
		{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT}, // connects while sending
		{unix.IPPROTO_IP, unix.IP_OPTIONS},            // source routes
		{unix.IPPROTO_IPV6, unix.IPV6_RTHDR}, {unix.IPPROTO_IPV6, unix.IPV6_2292PKTOPTIONS},
	} {
		rules = append(rules, jail.Rule{
			Call: "setsockopt", If: when(is(1, option[0]), is(2, option[1])),
			Action: jail.Refuse, Errno: uint32(unix.EPERM),
		})
	}
	return rules
}

func processRules() []jail.Rule {
	const dumpable = unix.PR_SET_DUMPABLE
	rules := []jail.Rule{
		{Call: "clone", If: when(jail.Test{Arg: 0, Mask: namespaceFlags, Value: 0, Not: true}), Action: jail.Refuse, Errno: uint32(unix.EPERM)},
		{Call: "chroot", Action: jail.Allow}, // it takes a capability that only the start has
		{Call: "rt_sigaction", If: when(is(0, uint32(unix.SIGCHLD))), Action: jail.Notify},
		{Call: "prctl", If: when(is(0, dumpable), is(1, 0)), Action: jail.Notify},
		{Call: "prlimit64", If: when(isNot(0, 0)), Action: jail.Notify},
		{Call: "setpriority", If: when(isNot(0, 0)), Action: jail.Notify},
		{Call: "setpriority", If: when(isNot(1, 0)), Action: jail.Notify},
		{Call: "ioprio_set", If: when(isNot(0, 1)), Action: jail.Notify},
		{Call: "ioprio_set", If: when(isNot(1, 0)), Action: jail.Notify},
	}
	for _, call := range []string{"sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"} {
		rules = append(rules, jail.Rule{Call: call, If: when(isNot(0, 0)), Action: jail.Notify})
	}
	rules = append(rules, notified("clone", "fork", "vfork", "execve", "uname",
		"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid")...)
	rules = append(rules, refused(unix.EPERM, "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise",
		"process_mrelease", "kcmp", "pidfd_getfd", "userfaultfd", "bpf", "perf_event_open", "add_key", "request_key",
		"keyctl", "open_by_handle_at", "migrate_pages", "move_pages", "mount", "umount2",
		"pivot_root", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
		"mount_setattr", "unshare", "setns", "fanotify_init")...)
	// no namespace keeps these apart from other steps, and they outlive a step
	rules = append(rules, refused(unix.ENOSYS, "io_uring_setup", "io_uring_enter", "io_uring_register",
		"shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semtimedop", "semctl",
		"msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink")...)
	return rules
}

// signalRules are for kernels that do not scope signals: every way to send one.
func signalRules() []jail.Rule {
	const setOwner, setOwnerEx, fioSetOwner, siocSetGroup = 8, 15, 0x8901, 0x8902
	rules := notified("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
	return append(rules,
		jail.Rule{Call: "fcntl", If: when(is(1, setOwner)), Action: jail.Notify},
		jail.Rule{Call: "fcntl", If: when(is(1, setOwnerEx)), Action: jail.Refuse, Errno: uint32(unix.EPERM)},
		jail.Rule{Call: "ioctl", If: when(is(1, fioSetOwner)), Action: jail.Refuse, Errno: uint32(unix.EPERM)},
		jail.Rule{Call: "ioctl", If: when(is(1, siocSetGroup)), Action: jail.Refuse, Errno: uint32(unix.EPERM)},
	)
}
