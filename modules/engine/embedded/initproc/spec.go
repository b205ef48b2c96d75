// Package initproc is the first process of a step: started in the step's new
// namespaces, it mounts what the step sees, turns into it, starts the command
// with a container's privileges and stays as process 1 to reap and to pass
// signals on. When it ends the kernel ends the whole step. It is linked into a
// small program (stepinit), so it imports little.
//
// It speaks with the executor over a socket on descriptor 3, in JSON lines:
// the executor sends a Spec, Init answers with the gateway's listeners
// (descriptors) when they were asked for, the executor says go, and Init
// reports how it ended.
package initproc

import (
	"slices"

	"drydock/modules/engine/embedded/warden"
	"drydock/modules/jail"
)

// ControlFD is where the executor's socket is.
const ControlFD = 3

// Addresses of the gateway as a step sees it.
const (
	GatewayHost = "mirror.drydock.internal"
	GatewayIP   = "198.18.0.1"
)

// Addresses a step that others reach has for itself and for whoever comes in:
// its peers are not on its loopback network.
const (
	OwnIP  = "198.18.0.2"
	PeerIP = "198.18.0.3"
)

// Mount is one bind mount of the step.
type Mount struct {
	Source   string // path before the root changes
	Selector string // path inside Source, resolved inside it
	Dest     string // path inside the step, made when missing
	ReadOnly bool
}

// Rlimit is one resource limit.
type Rlimit struct {
	Resource  int
	Soft, Max uint64
}

// Spec is a step.
type Spec struct {
	Root     string // its root file system, mounted
	ReadOnly bool
	Hostname string
	Mounts   []Mount
	Args     []string
	Env      []string
	Cwd      string
	UID, GID uint32
	Groups   []uint32
	Rlimits  []Rlimit
	// NoCapabilities: the command has none, because the kernel does not know
	// that its user is not root and would leave it root's.
	NoCapabilities bool
	Gateway        bool        // listen for the gateway
	Filter         jail.Filter // seccomp filter of the command

	// Contained confines a step that has no namespaces; nil: it has.
	Contained *warden.Config
	// Serves are the ports the command listens on, without addresses.
	Serves []Listen
	// Addresses are given to loopback beside the gateway's (IPv4).
	Addresses []string
	// Listen is listened on before the command starts.
	Listen []Listen

	// Emulator is that of its architecture: the step is in a user namespace of
	// its own then.
	Emulator *Emulator
}

// emulatorFD is where the emulator is, when there is one.
const emulatorFD = 4

// Emulator executes a foreign architecture's programs. Its own program, static,
// is descriptor 4 of Init.
type Emulator struct {
	Name        string // of the entry in binfmt_misc
	Magic, Mask []byte // of the programs it is for
}

// MovedPort is where the gateway listens in a step that has the port itself:
// somebody who listens on every address needs it to be free on all of them.
func MovedPort(port int) int { return 58000 + port }

// gatewayPorts are where the gateway is listened for.
func (s Spec) gatewayPorts() []Listen {
	list := []Listen{{Port: 80}, {Port: 443}, {Port: 53, UDP: true}}
	for i, l := range list {
		if slices.Contains(s.Serves, l) {
			list[i].Port = MovedPort(l.Port)
		}
		list[i].Address = GatewayIP
	}
	return list
}

// Listen is one socket the executor answers on.
type Listen struct {
	Address string // one of Spec.Addresses
	Port    int
	UDP     bool
}

// Process is a further process in a running step. Its three streams come
// along as descriptors.
type Process struct {
	Args     []string
	Env      []string
	Cwd      string
	UID, GID uint32
	Groups   []uint32
	// NoCapabilities is as in Spec.
	NoCapabilities bool
}

// Dial is a connection to a port of the step, from PeerIP to OwnIP.
type Dial struct {
	Port int
	UDP  bool
}

// Order is what the executor sends after the Spec.
type Order struct {
	Go     bool     `json:"go,omitempty"`
	Signal int      `json:"signal,omitempty"` // to the process ID names; 0: the command
	ID     uint64   `json:"id,omitempty"`     // of a Process or Dial; its reports have it too
	Exec   *Process `json:"exec,omitempty"`
	Dial   *Dial    `json:"dial,omitempty"`
	Files  int      `json:"files,omitempty"` // how many descriptors come along
}

// Report is what Init sends. A report with Listeners carries descriptors: tcp
// 80, tcp 443, udp 53 for the gateway, then those of Spec.Listen. The answer to
// a Dial carries the connection.
type Report struct {
	ID        uint64 `json:"id,omitempty"`    // of the order it answers; 0: the step itself
	Files     int    `json:"files,omitempty"` // how many descriptors come along
	Listeners bool   `json:"listeners,omitempty"`
	Started   bool   `json:"started,omitempty"`
	Exited    bool   `json:"exited,omitempty"`
	Code      int    `json:"code,omitempty"`     // exit code, or 128 and the signal
	Signal    int    `json:"signal,omitempty"`   // that ended it
	Error     string `json:"error,omitempty"`    // the step could not be set up or started
	NoBinfmt  bool   `json:"noBinfmt,omitempty"` // Error is that this kernel cannot be given an emulator for one step

	Reason  string   `json:"reason,omitempty"`  // why we ended it
	Refused []string `json:"refused,omitempty"` // what a contained step tried to reach
}
