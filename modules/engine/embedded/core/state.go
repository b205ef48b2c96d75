package core

import "time"

// Running is an engine as its discovery file describes it.
type Running struct {
	Protocol int       `json:"protocol"`
	Build    string    `json:"build"`   // of the program
	PID      int       `json:"pid"`     // of the engine child
	Owner    int       `json:"owner"`   // the process that started it
	Control  string    `json:"control"` // unix socket
	Socket   string    `json:"socket"`  // unix socket of the front
	Tier     string    `json:"tier"`
	Mode     string    `json:"mode"`
	Quota    int64     `json:"quota"` // bytes; 0 is the default
	Started  time.Time `json:"started"`
}

// PruneOptions says what to remove. The zero value removes what the quota
// would: nothing while the cache is within it.
type PruneOptions struct {
	All       bool          // everything that is not in use
	OlderThan time.Duration // what was not used for as long; 0 is any age
	MaxSize   int64         // until no more than this is left, in bytes; 0 is no bound
}

// Freed is what pruning removed.
type Freed struct {
	Records int   `json:"records"`
	Bytes   int64 `json:"bytes"`
}

// State is what a running engine says of itself.
type State struct {
	Running
	Members []MemberState `json:"members"`
	Records int           `json:"records"` // of the cache
	Bytes   int64         `json:"bytes"`   // they hold
	InUse   int           `json:"inUse"`   // records that running builds use
	Limit   int64         `json:"limit"`   // bytes above which garbage is collected
}

// MemberState is one process that has joined.
type MemberState struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}
