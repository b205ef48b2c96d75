package core

// Finding is one thing the engine needs of this host.
type Finding struct {
	Name     string // what was looked at
	OK       bool
	Optional bool   // the engine runs without it, slower or with less
	Detail   string // what was seen
	Remedy   string // what to change when it is not OK
}

// Missing is one thing that keeps a way of running steps from working here.
type Missing struct {
	Name   string
	Detail string // what was seen
	Remedy string // what to change, wherever this runs
	// Platforms says the same in the words of where a job's container comes
	// from; keys are the Platform constants. Those without an entry need
	// nothing of their own.
	Platforms map[string]string
}

// Where a job's container comes from.
const (
	PlatformGitLabDocker     = "gitlab-docker"     // GitLab Runner's docker executor
	PlatformGitLabKubernetes = "gitlab-kubernetes" // GitLab Runner's Kubernetes executor
	PlatformAzure            = "azure"             // Azure Pipelines container jobs
	PlatformDocker           = "docker"
	PlatformPodman           = "podman"
)

// Platforms lists the keys of Missing.Platforms in the order they are shown.
func Platforms() []string {
	return []string{PlatformGitLabDocker, PlatformGitLabKubernetes, PlatformAzure, PlatformDocker, PlatformPodman}
}

// WayReport is what was found of one way of running steps.
type WayReport struct {
	Tier, Mode string
	OK         bool
	Missing    []Missing // empty when OK
}

// Report is what Probe found.
type Report struct {
	Tier     string      // "T1", "T2", "T3", or "" when none can run
	Mode     string      // as Child.Mode
	Findings []Finding   // of the way that is used; of all when none is
	Ways     []WayReport // those tried, best first; the last one is used unless none works
}
