package executor

// Emulator is a static program (qemu-user) that executes another
// architecture's programs.
type Emulator struct {
	Path   string // on this host; read when a step first needs it
	SHA256 string // hex; another file is refused
}

// Emulators are the emulators there are, by architecture as OCI names it.
type Emulators map[string]Emulator
