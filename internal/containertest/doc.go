// Package containertest starts ordinary unprivileged containers for tests, as
// docker would: by Debian's docker where its daemon starts, or by runc with the
// seccomp profile, capabilities, masked paths and device rules of docker.
package containertest

// Container is one process in a container.
type Container struct {
	Args []string // the program first, by its path inside
	Env  []string
	Dir  string // "" is /
	User string // uid, or uid:gid; "" is root

	SeccompUnconfined     bool // no seccomp filter
	SystemPathsUnconfined bool // nothing of /proc covered
	NoNewPrivileges       bool
	AddCapabilities       []string // CAP_…, besides the default ones

	// HostNetwork shares the network of whoever runs the test: the mirrors are
	// reached as from there. Otherwise there is a loopback interface only.
	HostNetwork bool
	Binds       []Bind
}

// Bind shows a file or directory of the host in the container.
type Bind struct {
	Source, Dest string
	ReadOnly     bool
}

// Result is how a container ended.
type Result struct {
	Code           int
	Stdout, Stderr string
}
