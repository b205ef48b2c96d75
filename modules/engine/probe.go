package engine

// Finding is one thing the embedded engine needs of this host.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`           // what was seen
	Remedy string `json:"remedy,omitempty"` // what to change when it is not OK
}

// Report is what Probe found out about this host.
type Report struct {
	Tier     string    `json:"tier"` // "T1", "T2", or "" when the embedded engine cannot run
	Mode     string    `json:"mode"` // "root" or "rootless"
	Findings []Finding `json:"findings"`
}
