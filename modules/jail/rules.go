package jail

// Action is what a Rule does with a system call.
type Action int

// The actions. The zero value is none, which BuildFilter refuses.
const (
	Notify Action = iota + 1 // hand it to the listener (package notify)
	Refuse                   // fail with Rule.Errno
	Allow                    // execute it
	Trace                    // stop for the tracer (ptrace(2)); fail with ENOSYS without one
)

// Rule is an exception from the default profile for one system call.
type Rule struct {
	Call   string // its name, as in syscalls(2)
	If     []Test // all must hold; none: always
	Action Action
	Errno  uint32 // for Refuse
}

// Test looks at one argument: arg & Mask == Value, or != with Not. Only the
// low 32 bits are seen, which is all that the kernel reads of an int or of
// flags.
type Test struct {
	Arg   int    // 0 to 5
	Mask  uint32 // 0 is all bits
	Value uint32
	Not   bool
}
