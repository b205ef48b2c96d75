// Package suite is what can be asked of an image in a black-box test: the
// container-structure-test format, schemaVersion 2.0.0, and checks of a
// running service. It says what to test; it runs nothing.
package suite

import (
	"time"

	"drydock/modules/artifact"
)

// KeyValue is a name and the value, or the pattern of a value, it must have.
type KeyValue struct {
	Key     string `yaml:"key" json:"key"`
	Value   string `yaml:"value" json:"value"`
	IsRegex bool   `yaml:"isRegex" json:"isRegex,omitempty"`
}

// Command runs a command in the image. The expectations are regular
// expressions; all must hold.
type Command struct {
	Name           string     `yaml:"name" json:"name"`
	Setup          [][]string `yaml:"setup" json:"setup,omitempty"`
	Teardown       [][]string `yaml:"teardown" json:"teardown,omitempty"`
	EnvVars        []KeyValue `yaml:"envVars" json:"envVars,omitempty"`
	ExitCode       int        `yaml:"exitCode" json:"exitCode,omitempty"`
	Command        string     `yaml:"command" json:"command"`
	Args           []string   `yaml:"args" json:"args,omitempty"`
	ExpectedOutput []string   `yaml:"expectedOutput" json:"expectedOutput,omitempty"`
	ExcludedOutput []string   `yaml:"excludedOutput" json:"excludedOutput,omitempty"`
	ExpectedError  []string   `yaml:"expectedError" json:"expectedError,omitempty"`
	ExcludedError  []string   `yaml:"excludedError" json:"excludedError,omitempty"`
}

// FileExistence checks one path of the image's file system.
type FileExistence struct {
	Name           string `yaml:"name" json:"name"`
	Path           string `yaml:"path" json:"path"`
	ShouldExist    *bool  `yaml:"shouldExist" json:"shouldExist,omitempty"` // nil: it should
	Permissions    string `yaml:"permissions" json:"permissions,omitempty"` // as ls -l shows them: -rw-r--r--
	UID            *int   `yaml:"uid" json:"uid,omitempty"`
	GID            *int   `yaml:"gid" json:"gid,omitempty"`
	IsExecutableBy string `yaml:"isExecutableBy" json:"isExecutableBy,omitempty"` // owner, group, other, any
}

// FileContent checks what a file of the image holds, by regular expression.
type FileContent struct {
	Name             string   `yaml:"name" json:"name"`
	Path             string   `yaml:"path" json:"path"`
	ExpectedContents []string `yaml:"expectedContents" json:"expectedContents,omitempty"`
	ExcludedContents []string `yaml:"excludedContents" json:"excludedContents,omitempty"`
}

// Metadata checks the image's configuration. A nil list is not checked, an
// empty one says that the image must have none.
type Metadata struct {
	EnvVars          []KeyValue `yaml:"envVars" json:"envVars,omitempty"`
	UnboundEnvVars   []KeyValue `yaml:"unboundEnvVars" json:"unboundEnvVars,omitempty"`
	Labels           []KeyValue `yaml:"labels" json:"labels,omitempty"`
	ExposedPorts     []string   `yaml:"exposedPorts" json:"exposedPorts,omitempty"`
	UnexposedPorts   []string   `yaml:"unexposedPorts" json:"unexposedPorts,omitempty"`
	Volumes          []string   `yaml:"volumes" json:"volumes,omitempty"`
	UnmountedVolumes []string   `yaml:"unmountedVolumes" json:"unmountedVolumes,omitempty"`
	Entrypoint       *[]string  `yaml:"entrypoint" json:"entrypoint,omitempty"`
	Cmd              *[]string  `yaml:"cmd" json:"cmd,omitempty"`
	Workdir          string     `yaml:"workdir" json:"workdir,omitempty"`
	User             string     `yaml:"user" json:"user,omitempty"`
}

// Service starts the image as it would run and waits until it answers. At
// least a port is asked for; HTTP or an exchange of bytes says more.
type Service struct {
	Name     string     `yaml:"name" json:"name"`
	Command  []string   `yaml:"command" json:"command,omitempty"` // nil: the image's entrypoint and cmd
	EnvVars  []KeyValue `yaml:"envVars" json:"envVars,omitempty"`
	Port     int        `yaml:"port" json:"port"`
	HTTP     *HTTP      `yaml:"http" json:"http,omitempty"`
	Send     string     `yaml:"send" json:"send,omitempty"`     // bytes to send once connected
	Expect   string     `yaml:"expect" json:"expect,omitempty"` // regular expression the answer must match
	Timeout  Duration   `yaml:"timeout" json:"timeout,omitempty"`
	ExitCode *int       `yaml:"exitCode" json:"exitCode,omitempty"` // after SIGTERM; nil: any
}

// HTTP is a request and the answer a healthy service gives.
type HTTP struct {
	Path   string     `yaml:"path" json:"path,omitempty"`     // "" is /
	Status int        `yaml:"status" json:"status,omitempty"` // 0 is 200
	Body   string     `yaml:"body" json:"body,omitempty"`     // the body must contain it
	Header []KeyValue `yaml:"header" json:"header,omitempty"` // the answer must have it
}

// DefaultTimeout is how long a service may take to answer, and a command to
// end, when nothing else is said.
const DefaultTimeout = 30 * time.Second

// Suite is everything asked of one image.
type Suite struct {
	GlobalEnvVars []KeyValue      `json:"globalEnvVars,omitempty"`
	Commands      []Command       `json:"commandTests,omitempty"`
	Existence     []FileExistence `json:"fileExistenceTests,omitempty"`
	Contents      []FileContent   `json:"fileContentTests,omitempty"`
	Metadata      []Metadata      `json:"metadataTests,omitempty"`
	Services      []Service       `json:"serviceTests,omitempty"`
}

// Merge joins suites in order.
func Merge(suites ...*Suite) *Suite {
	out := new(Suite)
	for _, s := range suites {
		if s == nil {
			continue
		}
		out.GlobalEnvVars = append(out.GlobalEnvVars, s.GlobalEnvVars...)
		out.Commands = append(out.Commands, s.Commands...)
		out.Existence = append(out.Existence, s.Existence...)
		out.Contents = append(out.Contents, s.Contents...)
		out.Metadata = append(out.Metadata, s.Metadata...)
		out.Services = append(out.Services, s.Services...)
	}
	return out
}

// Request is what the sandbox hands to the step program.
type Request struct {
	Version      int               `json:"version"`
	Suite        Suite             `json:"suite"`
	Platform     artifact.Platform `json:"platform"`
	StaticOnly   string            `json:"staticOnly,omitempty"` // why nothing is executed; "" executes
	NonRoot      bool              `json:"nonRoot,omitempty"`
	ReadOnlyRoot bool              `json:"readOnlyRoot,omitempty"`
	Writable     []string          `json:"writable,omitempty"`
	CommandLimit Duration          `json:"commandLimit,omitempty"` // 0: DefaultTimeout
}

// Duration is a time.Duration written as Go writes it, "5s".
type Duration time.Duration

// MarshalText writes the duration as Go does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads a duration as Go does.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Or is the duration, or the other where it is zero.
func (d Duration) Or(other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return time.Duration(d)
}
