package engine

// FindingForeign is the Finding that says whether steps can be emulated.
const FindingForeign = "foreign architectures"

// Finding is one thing the embedded engine needs of this host.
type Finding struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Optional bool   `json:"optional,omitempty"` // the engine runs without it, slower or with less
	Detail   string `json:"detail"`             // what was seen
	Remedy   string `json:"remedy,omitempty"`   // what to change when it is not OK
}

// Missing is one thing that keeps a tier from working here.
type Missing struct {
	Name   string `json:"name"`
	Detail string `json:"detail"` // what was seen
	Remedy string `json:"remedy"` // what to change, wherever this runs
	// Platforms is how to change it, by where the job's container comes from:
	// gitlab-docker, gitlab-kubernetes, azure, docker, podman.
	Platforms map[string]string `json:"platforms,omitempty"`
}

// TierReport is what was found of one way of running steps.
type TierReport struct {
	Tier    string    `json:"tier"`
	Mode    string    `json:"mode"` // as Report.Mode
	OK      bool      `json:"ok"`
	Missing []Missing `json:"missing"`
}

// Report is what Probe found out about this host.
type Report struct {
	Tier     string    `json:"tier"` // "T1", "T2", "T3", or "" when the embedded engine cannot run
	Mode     string    `json:"mode"` // "root", "rootless", "single-id", "container" or "translated"
	Findings []Finding `json:"findings"`
	// Tiers are the ways that were tried, best first: the last one is used,
	// unless none works.
	Tiers []TierReport `json:"tiers"`
	// Advice says the same for people: what the better ways miss, or, when
	// nothing works, all that would help. "" when there is nothing better.
	Advice string `json:"-"`
}
