// Package confine takes privileges away before anything of an image under test
// runs: the network but loopback, the writable root where asked, capabilities,
// new privileges, system calls, and the root user. What an engine's API cannot
// say, the init of the container does here. Each measure is taken if it can
// be; what could not is said, and what held is read back from the kernel.
package confine

// Options says what is taken away.
type Options struct {
	UID, GID     int
	Groups       []int
	ReadOnlyRoot bool
	Writable     []string // directories that get an empty, writable file system
}

// Done is what was done, handed to the confined stage.
type Done struct {
	Landlock int      `json:"landlock"` // ABI in force; 0: none
	ReadOnly bool     `json:"readOnly"` // Landlock keeps the root from being written
	Notes    []string `json:"notes"`    // what could not be done, and why
}

// alwaysWritable is writable under a read-only root too: programs may rely on
// a place for temporary files, as on any system.
func alwaysWritable() []string { return []string{"/tmp", "/var/tmp", "/dev/shm"} }
